"""Tensors that stay on the device: a ``torch.Tensor`` that holds a MindSpore tensor.

What one compiled component returns and another takes never visits the host. The few operators that upstream applies on
the way run on the device, through the same lowerings; anything else gets an ordinary tensor: slower, never wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

_aten = torch.ops.aten
_SAME = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default}


@dataclass
class Held:
    """What all aliases of one resident tensor share.

    value: the MindSpore tensor; None once the host's memory was given away, which is the truth from then on.
    fetch: copies it to the host. run: an overload on the device, or NotImplemented; None where the value is in no form
    that operators take.
    """

    value: Any
    fetch: Callable[[], torch.Tensor]
    run: Callable | None
    host: torch.Tensor | None = None

    def read(self) -> torch.Tensor:
        """An ordinary tensor, only to be read."""
        if self.host is None:
            self.host = self.fetch()
        return self.host

    def replace(self, other: Held) -> None:
        """From now on the value of all aliases is another."""
        self.value, self.fetch, self.host = other.value, other.fetch, other.host

    def give(self) -> torch.Tensor:
        """An ordinary tensor that may be written to, or kept as a view."""
        host = self.read()
        self.value = None
        return host


class ResidentTensor(torch.Tensor):
    """shape and dtype as the component declares them; the device is the CPU, as for every tensor of the pipeline."""

    held: Held

    @staticmethod
    def __new__(cls, held: Held, shape, dtype: torch.dtype):
        self = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device="cpu")
        self.held = held
        return self

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _HOST:
            return func(*_each(args, give), **_each(kwargs, give))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func in _SAME and isinstance(first, cls):
            return cls(first.held, first.shape, first.dtype)
        aliased = [a.alias_info for a in func._schema.arguments if a.alias_info is not None]
        if not aliased:
            out = _on_device(func, args, kwargs)
            return func(*_each(args, plain), **_each(kwargs, plain)) if out is NotImplemented else out
        written = isinstance(first, cls) and aliased[0].is_write
        if written and (functional := _functional(func)) is not None:  # ``residual += other``: first gets a new value
            out = _on_device(functional, args, kwargs)
            if out is not NotImplemented and (out.shape, out.dtype) == (first.shape, first.dtype):
                first.held.replace(out.held)
                return first
        out = func(*_each(args, give), **_each(kwargs, give))
        return first if written else out


def _on_device(func, args, kwargs):
    """The result of an overload that changes nothing, computed on the device, or NotImplemented."""
    residents = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, ResidentTensor)]
    if any(device_value(t) is None for t in residents):
        return NotImplemented
    return residents[0].held.run(func, args, kwargs)


@functools.cache
def _functional(func):
    """``aten.add_.Tensor`` → ``aten.add.Tensor``; None where there is no such overload."""
    name = func._schema.name.removeprefix("aten::")
    packet = getattr(_aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, None)


def device_value(t):
    """The MindSpore tensor of ``t`` for an operator on the device, or None."""
    return t.held.value if isinstance(t, ResidentTensor) and t.held.run is not None else None


def plain(t):
    """An ordinary tensor for reading, whatever comes in."""
    return t.held.read() if isinstance(t, ResidentTensor) else t


def on_host(t):
    """The ordinary tensor that tells the truth of ``t``; None while the device has it alone."""
    if isinstance(t, ResidentTensor):
        return t.held.host if t.held.value is None else None
    return t


def give(t):
    """An ordinary tensor to do anything with."""
    return t.held.give() if isinstance(t, ResidentTensor) else t


def _each(tree, function):
    return pytree.tree_map(function, tree)


def _host_functions() -> set:
    """Methods that look at memory or at the object itself, and so never reach the dispatcher."""
    names = """numpy tolist __array__ __array_wrap__ data_ptr storage untyped_storage _typed_storage storage_type
    __reduce_ex__ __deepcopy__ __repr__ __format__ __dlpack__ __dlpack_device__ share_memory_ is_shared pin_memory
    is_pinned set_ map_ map2_ apply_""".split()
    found = {getattr(torch.Tensor, name) for name in names if hasattr(torch.Tensor, name)}
    return found | {torch.Tensor.data.__get__, torch.utils.dlpack.to_dlpack}


_HOST = _host_functions()
