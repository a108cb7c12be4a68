"""What a device has besides tensors, wherever torch (CUDA, torch_npu) or MindSpore compute: work that goes on while the
host is ahead of it, states of random generators, the most memory that was in use."""

from __future__ import annotations

from collections.abc import Callable

import torch

from . import cuda_redirection, mindspore_runtime, npu_memory


def _modules() -> list:
    """torch's, of the devices that this process has used."""
    if cuda_redirection.in_force():  # their functions mean the CPU
        return []
    found = [torch.cuda, *([torch.npu] if npu_memory.beside() else [])]
    return [m for m in found if m.is_initialized()]


def synchronize() -> None:
    """Returns when all that was launched is done."""
    for module in _modules():
        module.synchronize()
    if mindspore_runtime.computes_on_npu():
        mindspore_runtime.wait()


def random_states() -> list[Callable[[], None]]:
    """What puts the states of the devices' own generators back to what they are now."""
    states = [(module, module.get_rng_state_all()) for module in _modules()]
    return [lambda m=module, s=state: m.set_rng_state_all(s) for module, state in states]


def forget_peaks() -> None:
    """The most memory is counted anew."""
    for module in _modules():
        module.reset_peak_memory_stats()
    if mindspore_runtime.computes_on_npu():
        mindspore_runtime.mindspore().runtime.reset_peak_memory_stats()


def peak() -> int | None:
    """Bytes of a device's memory that torch's and MindSpore's tensors held at most, each by its own count; None where
    there is no such device."""
    counts = [module.max_memory_allocated() for module in _modules()]
    if mindspore_runtime.computes_on_npu():
        counts.append(mindspore_runtime.mindspore().runtime.max_memory_allocated())
    return sum(counts) if counts else None
