"""What scripts call in ``torch.cuda`` (``torch.npu``), answered by the machine the tensors are on."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
import types

import torch

from . import process_memory
from .replacements import Replacement

LIBRARIES = frozenset(
    "torch torchvision diffusers transformers accelerate peft safetensors ms_controlnet_backend".split()
)
_device_name = "CPU"


def set_device_name(name: str) -> None:
    """What ``get_device_name`` answers from now on."""
    global _device_name
    _device_name = name


def for_scripts(answer):
    """What makes a function that gives a script this answer, and a library the true one.

    A script that asks ``is_available()`` chooses between ``"cuda"``, which works here, and ``"cpu"``, or refuses to
    run: True breaks nothing. The libraries choose kernels, allocators and where to read files to by it, which only
    the truth keeps whole; and they remember the answer.
    """

    def make(original):
        @functools.wraps(original)
        def call(*args, **kwargs):
            asks = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
            return original(*args, **kwargs) if asks in LIBRARIES else answer

        return call

    return make


def nothing(*args, **kwargs) -> None:
    """There is nothing to do."""


def _zero(*args, **kwargs) -> int:
    return 0


def resident(device=None) -> int:
    """Bytes that the process holds now, weights and all: nothing is anywhere else."""
    return process_memory.resident() or 0


def peak(device=None) -> int:
    """The most it has held. It cannot be reset."""
    return process_memory.peak() or resident()


def mem_get_info(device=None) -> tuple[int, int]:
    """(available, total) bytes of the machine."""
    return process_memory.available() or 0, process_memory.total() or 0


def memory_summary(device=None, abbreviated=False) -> str:
    return f"{_device_name}: {resident() / 2**20:.0f} MiB resident, at most {peak() / 2**20:.0f} MiB"


def memory_stats(device=None) -> dict[str, int]:
    return {
        f"{kind}_bytes.all.{when}": read()
        for kind in ("allocated", "reserved")
        for when, read in (("current", resident), ("peak", peak))
    }


def get_device_name(device=None) -> str:
    return _device_name


def get_device_capability(device=None) -> tuple[int, int]:
    """No compute capability, so that nothing which needs one is chosen."""
    return 0, 0


def get_device_properties(device=None):
    major, minor = get_device_capability()
    return types.SimpleNamespace(name=_device_name, major=major, minor=minor, total_memory=mem_get_info()[1],
                                 multi_processor_count=os.cpu_count())  # fmt: skip


def manual_seed(seed: int) -> None:
    """Seeds the generator that tensors are really drawn from."""
    torch.default_generator.manual_seed(int(seed))


def seed() -> None:
    torch.default_generator.seed()


def initial_seed() -> int:
    return torch.default_generator.initial_seed()


def get_rng_state(device=None) -> torch.Tensor:
    return torch.default_generator.get_state()


def set_rng_state(new_state: torch.Tensor, device=None) -> None:
    torch.default_generator.set_state(new_state)


def get_rng_state_all() -> list[torch.Tensor]:
    return [get_rng_state()]


def set_rng_state_all(new_states) -> None:
    for state in new_states:
        set_rng_state(state)


class Stream:
    """Work is done when a call returns, so every stream is the same one, and always idle."""

    def __init__(self, *args, **kwargs):
        self.device = torch.device("cpu")

    synchronize = wait_stream = wait_event = nothing

    def query(self) -> bool:
        return True

    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class Event:
    """A moment, by the clock: work is done when a call returns."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
        self._at: float | None = None

    synchronize = wait = nothing

    def record(self, stream=None) -> None:
        self._at = time.perf_counter()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds. Raises RuntimeError unless both were recorded."""
        if self._at is None or end_event._at is None:
            raise RuntimeError("both events must be recorded before calculating elapsed time")
        return (end_event._at - self._at) * 1000


def current_stream(device=None) -> Stream:
    return Stream()


@contextlib.contextmanager
def stream(stream):
    """``with torch.cuda.stream(s)``."""
    yield


@contextlib.contextmanager
def device(device):
    """``with torch.cuda.device(0)``."""
    yield


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """bfloat16 weights are computed with, in float32 where the machine has no better."""
    return True


CALLS = {
    "is_available": (for_scripts(True), "scripts choose their device by it"),
    "device_count": (for_scripts(1), "as is_available"),
    "is_bf16_supported": (is_bf16_supported, "scripts choose their dtype by it"),
    "is_initialized": (for_scripts(True), "as is_available"),
    "current_device": (_zero, "the only one"),
    "get_device_name": (get_device_name, "what the backend runs on"),
    "get_device_properties": (get_device_properties, "name, memory and cores of the machine"),
    "get_device_capability": (get_device_capability, "none"),
    "get_arch_list": (lambda: [], "none"),
    "mem_get_info": (mem_get_info, "of the machine"),
    "memory_summary": (memory_summary, "of the process"),
    "memory_stats": (memory_stats, "of the process"),
    **dict.fromkeys(("memory_allocated", "memory_reserved", "memory_cached"), (resident, "of the process")),
    **dict.fromkeys(("max_memory_allocated", "max_memory_reserved", "max_memory_cached"), (peak, "of the process")),
    **dict.fromkeys(("reset_peak_memory_stats", "reset_accumulated_memory_stats", "reset_max_memory_allocated",
                     "reset_max_memory_cached"), (nothing, "the process's peak cannot be reset")),
    **dict.fromkeys(("empty_cache", "ipc_collect", "set_per_process_memory_fraction"), (nothing, "there is no cache")),
    **dict.fromkeys(("init", "set_device"), (nothing, "there is one device, ready")),
    **dict.fromkeys(("synchronize", "set_stream"), (nothing, "work is done when a call returns")),
    **dict.fromkeys(("manual_seed", "manual_seed_all"), (manual_seed, "seeds the CPU's generator")),
    **dict.fromkeys(("seed", "seed_all"), (seed, "seeds the CPU's generator")),
    "initial_seed": (initial_seed, "of the CPU's generator"),
    "get_rng_state": (get_rng_state, "of the CPU's generator"),
    "set_rng_state": (set_rng_state, "of the CPU's generator"),
    "get_rng_state_all": (get_rng_state_all, "of the CPU's generator"),
    "set_rng_state_all": (set_rng_state_all, "of the CPU's generator"),
    "Event": (Event, "timing by the clock"),
    "Stream": (Stream, "work is done when a call returns"),
    **dict.fromkeys(("current_stream", "default_stream"), (current_stream, "work is done when a call returns")),
    "stream": (stream, "work is done when a call returns"),
    "device": (device, "there is one device"),
}  # fmt: skip
"""Name in torch.cuda and torch.npu → (what takes its place, why)."""

ASKED = {"is_available": False, "device_count": 0, "is_initialized": False}
"""Calls that libraries get the true answer of, and what it is for a device that torch knows nothing of."""


def maker(name: str):
    """original → replacement of one of CALLS."""
    return CALLS[name][0] if name in ASKED else lambda original: CALLS[name][0]


SHARED = """device_count empty_cache is_available max_memory_allocated max_memory_reserved
memory_allocated memory_reserved memory_stats reset_accumulated_memory_stats reset_peak_memory_stats set_stream
synchronize current_stream""".split()
"""Of CALLS, what ``torch.accelerator`` has as well."""

DTYPES = "BFloat16 Bool Byte Char Double Float Half Int Long Short".split()

TABLE = (
    *(Replacement("torch.cuda", name, maker(name), why) for name, (_, why) in CALLS.items()),
    *(Replacement("torch.cuda", f"{dtype}Tensor", lambda _, n=dtype: getattr(torch, f"{n}Tensor"), "of the CPU")
      for dtype in DTYPES),
    *(Replacement("torch.cuda.nvtx", name, lambda _: nothing, "nobody profiles")
      for name in ("mark", "range_push", "range_pop")),
    *(Replacement("torch.accelerator", name, maker(name), CALLS[name][1]) for name in SHARED),
    Replacement("torch.accelerator", "current_accelerator", for_scripts(torch.device("cpu")), "as is_available"),
    Replacement("torch.accelerator", "get_memory_info", lambda _: mem_get_info, "of the machine"),
    Replacement("torch.accelerator", "current_device_index", lambda _: _zero, "the only one"),
)  # fmt: skip
