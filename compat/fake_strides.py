"""Where torch's fake kernels (2.6 … 2.13) say other strides than its kernels for the CPU. All is about axes of size 1,
whose strides are arbitrary, until a later operator takes them for a memory format.

``view``: computed in Python, which keeps the stride of such an axis where C++ derives it from the next axis; the kernel
for meta tensors is the C++ one. Elementwise operators: strides are computed by a simplification of ``TensorIterator``;
its rules are written out here. torch_npu's kernels return contiguous tensors whatever came in, and it refuses a
request for another memory format, which torch's decompositions make where their input looks so.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading

import torch
from torch._subclasses import fake_impls
from torch._subclasses.fake_tensor import FakeTensorMode

from ..layout import is_dense

_lock = threading.RLock()
_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default)
_OTHERS = {"aten::masked_fill", "aten::copy", "aten::fill"}
"""Tagged as elementwise, but a copy of the first argument is written to."""
_SUGGEST = torch._prims_common.suggest_memory_format
_SUGGESTING = ("torch._prims_common", "torch._meta_registrations", "torch._decomp.decompositions")


@contextlib.contextmanager
def as_on_the_cpu():
    """Fake tensors have the CPU's strides inside; one thread at a time, and static shapes."""
    with _lock:
        yield from _patched()


def _patched():
    table = getattr(fake_impls, "op_implementations_dict", {})
    in_python = {op: table.pop(op) for op in _VIEWS if op in table}
    upstream = FakeTensorMode.dispatch

    def dispatch(self, func, types, args=(), kwargs=None):
        out = upstream(self, func, types, args, kwargs)
        if not _is_elementwise(func, out):
            return out
        if out.device.type == "npu":
            strides = torch.empty(out.shape, device="meta").stride()
        else:
            strides = _elementwise(tuple(out.shape), _operands(func, args, kwargs or {}))
        if strides == out.stride():
            return out
        with self:
            return torch.empty_strided(out.shape, strides, dtype=out.dtype, device=out.device)

    suggesting = [m for m in map(sys.modules.get, _SUGGESTING) if getattr(m, "suggest_memory_format", None) is _SUGGEST]
    for module in suggesting:
        module.suggest_memory_format = _suggested
    FakeTensorMode.dispatch = dispatch
    FakeTensorMode.cache_clear()
    try:
        yield
    finally:
        FakeTensorMode.dispatch = upstream
        for module in suggesting:
            module.suggest_memory_format = _SUGGEST
        table.update(in_python)
        FakeTensorMode.cache_clear()


@functools.wraps(_SUGGEST)
def _suggested(x):
    return torch.contiguous_format if x.device.type == "npu" else _SUGGEST(x)


def _is_elementwise(func, out) -> bool:
    if torch.Tag.pointwise not in getattr(func, "tags", ()) or func._schema.is_mutable:
        return False
    if not isinstance(out, torch.Tensor) or 0 in out.shape or func._schema.name in _OTHERS:
        return False
    if 1 not in out.shape and out.device.type != "npu":  # torch says it right
        return False
    return not any(a.name == "memory_format" for a in func._schema.arguments)


def _operands(func, args, kwargs) -> list[tuple]:
    """(shape, strides) of each; a number in the place of a tensor is one without axes."""
    named = {a.name: value for a, value in zip(func._schema.arguments, args)} | kwargs
    tensors = {a.name for a in func._schema.arguments if a.type.kind() == "TensorType"}
    found = []
    for name, value in named.items():
        if isinstance(value, torch.Tensor):
            found.append((tuple(value.shape), value.stride()))
        elif name in tensors:
            found.append(((), ()))
    return found


def _elementwise(shape, operands) -> tuple[int, ...]:
    """``TensorIterator::fast_set_up``, else ``reorder_dimensions`` (aten/src/ATen/TensorIterator.cpp)."""
    contiguous = torch.empty(shape, device="meta").stride()
    if all(s == shape for s, _ in operands):
        if all(_is_like(s, strides, contiguous) for s, strides in operands):
            return contiguous
        if len(shape) == 4:
            last = torch.empty(shape, device="meta", memory_format=torch.channels_last).stride()
            if all(_is_like(s, strides, last) for s, strides in operands):
                return last
        if len({strides for _, strides in operands}) == 1 and is_dense(*operands[0]):
            return operands[0][1]
    spread = []
    for s, strides in operands:
        ahead = len(shape) - len(s)
        spread.append([0] * ahead + [0 if n == 1 != shape[ahead + d] else strides[d] for d, n in enumerate(s)])
    order = list(range(len(shape)))[::-1]
    for i in range(1, len(order)):
        place = i
        for before in range(i - 1, -1, -1):
            sign = _compare(order[before], order[place], shape, spread)
            if sign > 0:
                order[before], order[place] = order[place], order[before]
                place = before
            elif sign < 0:
                break
    strides, step = [0] * len(shape), 1
    if order == list(range(len(shape)))[::-1]:
        return contiguous
    for d in order:
        strides[d], step = step, step * shape[d]
    return tuple(strides)


def _is_like(shape, strides, wanted) -> bool:
    """``is_contiguous`` of a memory format with these strides: axes of size 1 do not count."""
    return all(n == 1 or s == w for n, s, w in zip(shape, strides, wanted))


def _compare(one: int, other: int, shape, spread) -> int:
    """Does axis ``one`` belong outside (1) or inside (-1) of the other?"""
    for strides in spread:
        a, b = strides[one], strides[other]
        if a == 0 or b == 0:
            continue
        if a != b:
            return 1 if a > b else -1
        if shape[one] > shape[other]:
            return 1
    return 0
