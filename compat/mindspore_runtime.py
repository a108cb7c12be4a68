"""The few things MindSpore (2.7 … 2.10) does in a way the runtime has to know about.

Measured, on CPU: two threads in one graph crash the process, so every compile and run holds LOCK. Calling a jitted
function hands the graph to a queue, on which ``asnumpy`` then waits in an empty loop that keeps a core busy: on two
cores a step of the tiny pipeline took 40 to 100 ms so, and 18 ms when :class:`Graph` calls the executor itself.
``Parameter(tensor)`` copies and ``assign_value`` (of any shape) shares memory, but a compiled graph keeps the address
it was compiled with. A failed compile writes ``rank_0/om/analyze_fail.ir`` below the working directory unless
MS_OM_PATH names another.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import threading

from ..errors import DeviceUnavailable, UnknownDevice
from . import ascend, floating_point, forks, npu_memory, versions
from .compile_cache import CompileCache

LOCK = threading.RLock()
INFERENCE = "prefill"
"""Phase of a Cell. MindSpore waits for the whole device after each graph but in the phases of inference (its
``GetNeedSyncStream``, 2.7 … 2.10). Who reads a result waits for it anyway."""
logger = logging.getLogger(__name__)
_names = {"cpu": "CPU", "ascend": "Ascend", "npu": "Ascend"}


@functools.cache
def mindspore():
    """The module, imported on first use, with its warnings off unless the user asked for them (GLOG_v)."""
    versions.require("mindspore", "numpy")
    os.environ.setdefault("GLOG_v", "3")
    with floating_point.unchanged():
        import mindspore as ms

    return ms


def dump_folder(path: str) -> None:
    """Where MindSpore writes the dump of a failed compile (it reads the variable when it fails)."""
    os.environ.setdefault("MS_OM_PATH", path)


def canonical_device(name: str | None) -> str | None:
    """``"CPU"`` or ``"Ascend"`` from what a user writes (``"npu"``, ``"ascend:0"``, …); None stays None."""
    return _parsed(name)[0]


def numbered_device(name: str | None) -> str | None:
    """The same with the number of an NPU, where the user gave one: ``"Ascend:3"``."""
    device, number = _parsed(name)
    return device if number is None else f"{device}:{number}"


def _parsed(name: str | None) -> tuple[str | None, int | None]:
    if name is None:
        return None, None
    kind, _, number = str(name).lower().partition(":")
    if kind not in _names or not (number.isdigit() or str(name).lower() == kind):
        known = ", ".join(sorted(_names))
        raise UnknownDevice(f"unknown device {name!r}; known devices: {known}, an NPU's number after a colon")
    device = _names[kind]
    return device, int(number) if number and device == "Ascend" else None


def available(device: str) -> bool:
    """Does this MindSpore build on this machine have the device?"""
    ms = mindspore()
    if device == "CPU":
        return True
    try:
        return bool(ms.hal.is_available(device))
    except (AttributeError, ValueError, RuntimeError):
        return False


def select_device(name: str | None) -> str:
    """Make the named device MindSpore's (None: Ascend where there is one, else CPU) and return its name, number left
    out. Of several NPUs the one named, or the one that the environment names (:data:`.ascend.VARIABLES`).

    Raises UnknownDevice, or DeviceUnavailable with what to do.
    """
    device, number = _parsed(name)
    if device is None:
        device = "Ascend" if available("Ascend") else "CPU"
    if not available(device):
        raise DeviceUnavailable(
            f"MindSpore finds no {device} device here. Install the driver, firmware and CANN toolkit and source its "
            "set_env.sh, check with 'npu-smi info' and 'ms-controlnet doctor'; or use enable(device='cpu')"
        )
    with LOCK:
        if device == "Ascend":
            _select_npu(number)
        else:
            mindspore().set_device(device)
            _fit_threads()
    return device


def npu() -> str | None:
    """The model of the NPU that is there, as :func:`.ascend.model` names it; None where MindSpore does not tell."""
    ms, found = mindspore(), []
    for ask in (
        lambda: ms.hal.get_device_name(0, "Ascend"),
        lambda: ms.context.MSContext.get_instance().get_ascend_soc_version(),
    ):
        try:
            found.append(str(ask()))
        except (AttributeError, ValueError, RuntimeError):  # another version, or no NPU
            found.append("")
    return ascend.model(*found)


def npus() -> int | None:
    """How many NPUs MindSpore sees; None where it does not tell."""
    try:
        return mindspore().device_context.ascend.device_count()
    except (AttributeError, RuntimeError):  # another version, or no plugin for Ascend
        return None


def _select_npu(number: int | None) -> None:
    ms, there = mindspore(), npus()
    try:
        number = ascend.device_number(os.environ, there) if number is None else number
        number = npu_memory.current() if number is None else number
    except ValueError as error:
        raise UnknownDevice(str(error)) from error
    if there is not None and number is not None and number >= there:
        raise DeviceUnavailable(f"there is no NPU {number}: this machine has {there}, counted from 0")
    try:
        ms.set_device("Ascend", number)
        _exact_float32()
        if os.environ.get(ascend.MEMORY):
            ms.runtime.set_memory(max_size=os.environ[ascend.MEMORY])
    except (RuntimeError, ValueError) as error:
        raise DeviceUnavailable(f"MindSpore does not take NPU {number}: {str(error).splitlines()[0]}") from error


@functools.cache
def _exact_float32() -> None:
    """CANN computes convolutions of float32 with the 11 bits of HF32 unless it is told not to; products it does not.
    What the user has set stays. Measured on MindSpore 2.10: cubeMathType 3 for a convolution, 0 for a product."""
    if os.environ.get(ascend.HF32, "0") not in ("", "0"):
        return
    try:
        mindspore().device_context.ascend.op_precision.conv_allow_hf32(False)
    except (AttributeError, RuntimeError) as error:  # another version; set before
        logger.info("float32 convolutions: %s", error)


@functools.cache
def _fit_threads() -> None:
    """MindSpore starts more threads than a small machine has cores, and they wait actively: a step of 11 ms was
    measured to take 11 to 230 ms. One a core. Processes that chose themselves (MS_CONTROLNET_THREADS) are heeded.

    Left at what it is: ``dispatch_threads_num``. With two, a graph's kernels are launched in a loop and not as actors
    that are sent messages (the tiny pipeline's graphs: 5.6 ms, and 2.8 to 4.4 so), but the thread that hands them out
    waits in an empty loop: on two cores a full-size step at 256 px took 2.3 of torch's time, not 0.65. With
    MS_DEV_RUNTIME_CONF=new_pipeline:False it waits properly, and kernels have one core for themselves: 1.1."""
    threads = os.environ.get("MS_CONTROLNET_THREADS") or len(os.sched_getaffinity(0))
    try:
        mindspore().set_context(runtime_num_threads=int(threads))
    except (RuntimeError, ValueError, TypeError) as error:  # already running, or renamed
        logger.info("runtime_num_threads=%s was not accepted: %s", threads, error)


def parameter(t, name: str, device: str = "CPU"):
    """A Parameter over the memory of a contiguous torch tensor: what the owner writes in place, the graph sees.
    device: another than the CPU gets a copy at once of a tensor of the host's, whose memory is not needed any more."""
    ms = mindspore()
    if t.device.type != "cpu":
        value = npu_memory.in_place(t)
    else:
        value = tensor(t) if device == "CPU" else tensor(t).move_to(device)
    p = ms.Parameter(ms.Tensor(0.0, value.dtype), name=name, requires_grad=False)  # of the value it would copy it all
    p.assign_value(value)
    return p


def tensor(host):
    """A tensor over the memory of a contiguous torch tensor; of bfloat16, which NumPy has not, a copy."""
    ms = mindspore()
    if str(host.dtype) == "torch.bfloat16":
        return ms.Tensor(host.float().numpy(), ms.bfloat16)
    return ms.Tensor.from_numpy(host.numpy())


def upload(value, device: str):
    """The same tensor in the device's memory, without waiting for it to be there: until somebody waits, the host's
    memory must stay as it is."""
    if device == "CPU":
        return value
    with npu_memory.in_order():
        return value.move_to(device, blocking=False)


def lay(p, t) -> None:
    """The Parameter lies on the memory of a contiguous tensor of the NPU's from now on; graphs follow."""
    p.assign_value(npu_memory.in_place(t))


def wait() -> None:
    """Until the device has done everything."""
    mindspore().runtime.synchronize()


def computes_on_npu() -> bool:
    """Was MindSpore imported, and does it compute on an NPU?"""
    return "mindspore" in sys.modules and mindspore().get_context("device_target") != "CPU"


def empty_cache() -> None:
    """What the NPU's memory pool does not use goes back, once nothing runs that uses it."""
    if computes_on_npu():
        wait()
        mindspore().runtime.empty_cache()


def as_argument(p):
    """A tensor over the memory of a Parameter: MindSpore compiles no two arguments of one name into a graph."""
    return mindspore().Tensor(p)


def assign(p, host) -> None:
    """The values of a torch tensor into the memory of a Parameter, wherever that is."""
    ms = mindspore()
    if ms.get_context("device_target") == "CPU":
        ms.ops.assign(p, tensor(host))
    else:  # Assign has no aclnn kernel
        p.copy_(tensor(host))


def to_host(value):
    """The values as a NumPy array, bfloat16 as float32."""
    return (value.float() if value.dtype == mindspore().bfloat16 else value).asnumpy()


def name_apart(parameters) -> None:
    """No two Parameters of a Cell may have the same name."""
    taken = set()
    for p in parameters:
        while p.name in taken:
            p.name += "_"
        taken.add(p.name)


class Graph:
    """A Cell compiled for the arguments of its first call. Calls return when the result is there.

    cache, key: where the compiled graph is kept, as of CompileCache; None: nowhere."""

    def __init__(self, cell, cache: CompileCache | None = None, key: str = ""):
        cell.set_train(False)
        if mindspore().get_context("device_target") != "CPU":
            cell.phase = INFERENCE
            # by MindSpore itself: on an Ascend 910 the default is GE, which is deprecated
            cell.set_jit_config(mindspore().JitConfig(jit_level="O0"))
        self._cell = cell
        self._run = None
        self._cache, self._key = cache, key

    def __call__(self, *tensors):
        """MindSpore tensors in, a tuple of MindSpore tensors out; LOCK must be held."""
        forks.began()
        with npu_memory.in_order():
            return self._called(tensors)

    def _called(self, tensors):
        if self._run is not None:
            return self._run(tensors, self._phase)
        gc.freeze()  # compiling collects garbage, which takes a second where much of torch is loaded
        try:
            outputs = self._compile(tensors)
        finally:
            gc.unfreeze()
        from mindspore.nn.cell import _cell_graph_executor

        self._phase, self._run = self._cell.current_phase, _cell_graph_executor._graph_executor
        return outputs

    def _compile(self, tensors):
        if self._cache is None:
            return self._cell.compile_and_run(*tensors)
        known = False
        try:
            with self._cache.compiling(self._key) as known:
                return self._cell.compile_and_run(*tensors)
        except RuntimeError as error:
            if not known:
                raise
            logger.warning("what was kept of an earlier compilation is of no use (%s); compiled again", error)
        return self._cell.compile_and_run(*tensors)
