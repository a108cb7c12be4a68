"""C functions of torch (2.6 … 2.13) that take a tensor's memory without asking its class. A tensor whose memory is on
the device (one that has ``held``) has none: its address is null, and what reads there finds garbage.

The few that a script may call are replaced while the backend is enabled. Everything else meets :func:`bar`.
"""

from __future__ import annotations

import functools

import torch
from torch.utils import _pytree as pytree

from . import npu_memory
from .replacements import Replaced, Replacement


def bar(t: torch.Tensor) -> None:
    """From now on C code that asks for the tensor's memory, to write to it, raises RuntimeError."""
    torch._C._set_throw_on_mutable_data_ptr(t)


def _given(function):
    """With the ordinary tensors of those that are on the device."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        args, kwargs = pytree.tree_map(_ordinary, (args, kwargs))
        return function(*args, **kwargs)

    return call


def _ordinary(t):
    held = getattr(t, "held", None) if isinstance(t, torch.Tensor) else None
    return t if held is None else held.give()


TABLE = tuple(
    Replacement(owner, name, _given, "the values, not a null pointer")
    for owner, name in (
        ("torch.utils.dlpack", "to_dlpack"),
        ("torch", "to_dlpack"),
        *(("torch._C", name) for name in ("_to_dlpack", "_to_dlpack_versioned", "_data_address", "_pickle_save",
                                          "_any_output_is_alias_to_input_or_output")),
        # what saves a script reads what these keep, in C++
        *(("torch._C.ScriptModule", name) for name in ("setattr", "_register_attribute")),
    )
)  # fmt: skip
_replaced = Replaced()


def open_up() -> None:
    """Replace what the table says, if that was not done."""
    if not list(_replaced):
        _replaced.apply((*TABLE, *npu_memory.table()))


def close() -> None:
    """Put torch's own functions back."""
    _replaced.undo()
