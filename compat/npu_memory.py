"""MindSpore and torch_npu (2.6 … 2.13) in one process, on one NPU: memory that both use, and the order of their
streams.

Tensors pass by DLPack, without a copy. A Parameter is another matter: MindSpore copies one that came by DLPack into its
own pool before a graph first runs, but not one that was given an address, and a compiled graph follows it to another.

Each framework launches on a stream of its own and frees memory as soon as the host has no use for it, for whoever comes
next on the same stream. So whatever MindSpore launches waits for what torch launched before, and torch's later work
waits for MindSpore: by CANN's events, without the host. (torch_npu's ExternalStream refuses events.)
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys

from .replacements import Replacement

ALIGNMENT = 32
"""Bytes: where an aclnn operator wants the memory of a tensor to begin, which is where MindSpore says it does."""
_ACL_EVENT_SYNC = 1
_nothing = contextlib.nullcontext()


def beside() -> bool:
    """Is torch_npu loaded? Not a stand-in for it."""
    return "torch_npu._C" in sys.modules


def current() -> int | None:
    """The number of the NPU that torch computes on; None where it has not begun to."""
    if not beside():
        return None
    import torch

    return torch.npu.current_device() if torch.npu.is_initialized() else None


@functools.cache
def _dlpack():
    """MindSpore's functions (from 2.8 on), or None."""
    try:
        from mindspore.utils import dlpack
    except ImportError:
        return None
    return dlpack


def is_shared(place, device: str) -> bool:
    """Is what torch has on this torch.device in memory of the device that MindSpore computes on (``"CPU"``,
    ``"Ascend"``)?"""
    if device != "Ascend" or place.type != "npu" or not beside() or _dlpack() is None:
        return False
    from .mindspore_runtime import mindspore

    return place.index == mindspore().context.get_context("device_id")


def from_torch(t):
    """A MindSpore tensor over the memory of a contiguous torch tensor, which it keeps."""
    import torch

    if t.data_ptr() % ALIGNMENT:
        t = t.clone()
    if t.dtype is torch.bool:  # which MindSpore takes for bytes
        return _dlpack().from_dlpack(torch.utils.dlpack.to_dlpack(t.view(torch.uint8))).view(_bool())
    return _dlpack().from_dlpack(torch.utils.dlpack.to_dlpack(t))


def _bool():
    from .mindspore_runtime import mindspore

    return mindspore().bool_


def to_torch(value, strides: tuple[int, ...]):
    """A torch tensor over the memory of a MindSpore tensor, which it keeps. strides: wanted, as far as they only say
    otherwise what DLPack says of axes of size 1."""
    import torch

    t = torch.utils.dlpack.from_dlpack(_dlpack().to_dlpack(value))
    if t.stride() != strides and all(n == 1 or s == w for n, s, w in zip(t.shape, t.stride(), strides)):
        return t.as_strided(t.shape, strides).detach()
    return t


def in_place(t):
    """The same as :func:`from_torch` for a Parameter; the torch tensor must be kept for as long."""
    from .mindspore_runtime import mindspore, tensor

    ms = mindspore()
    kind = tensor(t.new_empty(0, device="cpu")).dtype
    value = ms._c_expression.TensorPy(dtype=kind, shape=tuple(t.shape))
    value.set_device_address(t.data_ptr(), tuple(t.shape), kind)
    return ms.Tensor(value)


def may_lie_there(t) -> bool:
    """Can a Parameter lie on the memory of a contiguous tensor?"""
    return t.numel() > 0 and t.data_ptr() % ALIGNMENT == 0


def table() -> tuple[Replacement, ...]:
    """What is replaced while the backend is enabled beside torch_npu. Of the two pools of memory each keeps the most it
    ever needed; whoever asks for torch's cache to be emptied (diffusers' offloading does) means both."""
    if not beside():
        return ()
    return (Replacement("torch.npu", "empty_cache", _empty_both, "MindSpore's pool, too"),)


def _empty_both(function):
    @functools.wraps(function)
    def empty_cache():
        function()
        from . import mindspore_runtime

        with mindspore_runtime.LOCK:
            mindspore_runtime.empty_cache()

    return empty_cache


class _InOrder:
    """Between the two frameworks' streams of this thread."""

    def __enter__(self):
        import torch

        from .mindspore_runtime import mindspore

        self._torchs = torch.npu.current_stream().npu_stream  # which also hands on what torch_npu has queued
        self._ours = mindspore().runtime.default_stream().stream_ptr()
        _wait(self._ours, self._torchs)

    def __exit__(self, *error):
        _wait(self._torchs, self._ours)


def in_order():
    """What MindSpore launches inside the block runs between what torch launched before and what it launches after,
    where both compute on NPUs."""
    from .mindspore_runtime import computes_on_npu

    return _InOrder() if current() is not None and computes_on_npu() else _nothing


def _wait(later: int, earlier: int) -> None:
    """One stream waits for what is in another now."""
    acl, event = _acl(), ctypes.c_void_p()
    _check(acl.aclrtCreateEventExWithFlag(ctypes.byref(event), _ACL_EVENT_SYNC))
    try:
        _check(acl.aclrtRecordEvent(event, ctypes.c_void_p(earlier)))
        _check(acl.aclrtStreamWaitEvent(ctypes.c_void_p(later), event))
    finally:
        acl.aclrtDestroyEvent(event)  # CANN frees it once it has happened


@functools.cache
def _acl():
    return ctypes.CDLL("libascendcl.so")


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"CANN's events failed with {status}")
