"""Reductions over axes, softmax and argmax."""

from __future__ import annotations

import math

import torch

from ..errors import Unsupported
from ..hookspecs import Sample
from . import Family
from .arithmetic import truth
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers


def _axes(x, dim):
    if dim is None or dim == []:
        return list(range(x.rank))
    return [dim] if isinstance(dim, int) else list(dim)


@lowers(aten.mean.dim, samples=[(t(2, 3, 5), [-1]), (t(2, 3, 5), [0, 2], True), (t(2, 3), None)])
def mean(b, x, dim, keepdim, dtype):
    return b.reduce("ReduceMean", b.cast(x, b.out.dtype), _axes(x, dim), keepdim)


@lowers(aten.mean.default, samples=[(t(2, 3, 5),)])
def mean_all(b, x, dtype):
    return mean(b, x, None, False, dtype)


@lowers(aten.sum.dim_IntList, samples=[(t(2, 3, 5), [-1]), (t(2, 3, 5), [0, 2], True)])
def sum_dim(b, x, dim, keepdim, dtype):
    return b.reduce("ReduceSum", b.cast(x, b.out.dtype), _axes(x, dim), keepdim)


@lowers(aten.sum.default, samples=[(t(2, 3, 5),)])
def sum_all(b, x, dtype):
    return sum_dim(b, x, None, False, dtype)


@lowers(aten.amax.default, samples=[(t(2, 3, 5), [-1]), (t(2, 3, 5), [0, 2], True)])
def amax(b, x, dim, keepdim):
    return b.reduce("ReduceMax", x, _axes(x, dim), keepdim)


@lowers(aten.amin.default, samples=[(t(2, 3, 5), [-1])])
def amin(b, x, dim, keepdim):
    return b.reduce("ReduceMin", x, _axes(x, dim), keepdim)


@lowers(aten.any.dim, samples=[(t(2, 3, kind="bool"), 1)])
def any_dim(b, x, dim, keepdim):
    return b.reduce("ReduceAny", truth(b, x), [dim], keepdim)


@lowers(aten.all.dim, samples=[(t(2, 3, kind="bool"), 1)])
def all_dim(b, x, dim, keepdim):
    return b.reduce("ReduceAll", truth(b, x), [dim], keepdim)


def _softmax(name: str):
    def lower(b, x, dim, dtype):
        x = b.cast(x, b.out.dtype)
        last = x.rank - 1
        order = [d for d in range(x.rank) if d != dim % x.rank] + [dim % x.rank]
        y = b.call(name, b.transpose(x, order), axis=-1)
        back = [order.index(d) for d in range(last + 1)]
        return b.transpose(y, back)

    return lower


for _op, _name in {aten.softmax.int: "Softmax", aten.log_softmax.int: "LogSoftmax"}.items():
    lowers(_op, samples=[(t(2, 3, 5), -1), (t(2, 3, 5), 1)])(_softmax(_name))
for _op, _name in {aten._softmax.default: "Softmax", aten._log_softmax.default: "LogSoftmax"}.items():
    lowers(_op, samples=[(t(2, 3, 5), -1, False)])(_softmax(_name))


def searched(b, x, dim):
    """(x as numbers that argmax takes, the axis, the shape without it); dim: None for all of x in one row."""
    if dim is None:
        x, dim = b.reshape(x, (x.size,)), 0
    if not x.is_float:
        x = b.cast(x, "float32")  # exact below 2**24; token ids and masks are
    axis = dim % x.rank
    return x, axis, x.shape[:axis] + x.shape[axis + 1 :]


@lowers(aten.argmax.default, samples=[(t(2, 7, kind="int"), -1), (t(2, 7), 0, True), (t(2, 7),)])
def argmax(b, x, dim, keepdim):
    x, axis, shape = searched(b, x, dim)
    index = b.call("Argmax", x, shape=shape, dtype="int32", axis=axis)
    return b.reshape(b.cast(index, "int64"), b.out.shape)


@lowers(aten.linalg_vector_norm.default, samples=[(t(2, 3, 5), 2, [-1], True)])
def vector_norm(b, x, order, dim, keepdim, dtype):
    if order != 2:
        raise Unsupported(f"order {order}")
    x = b.cast(x, b.out.dtype)
    return b.unary("Sqrt", b.reduce("ReduceSum", b.mul(x, x), _axes(x, dim), keepdim))


@lowers(aten.linalg_norm.default, samples=[(t(3, 5), None, [1]), (t(3, 5), 2, [0], True), (t(3, 5),)])
def norm(b, x, order, dim, keepdim, dtype):
    if order is not None and (dim is None or len(dim) != 1):
        raise Unsupported(f"the matrix norm {order}")
    return vector_norm(b, x, 2 if order is None else order, dim, keepdim, dtype)


@lowers(
    aten.var.correction, samples=[(t(2, 3, 5), [-1]), Sample((t(2, 3, 5), [0, 2]), {"correction": 0, "keepdim": True})]
)
def variance(b, x, dim, correction, keepdim):
    axes = _axes(x, dim)
    count = math.prod(x.shape[a] for a in axes)
    centred = b.sub(x, b.reduce("ReduceMean", x, axes, True))
    total = b.reduce("ReduceSum", b.mul(centred, centred), axes, keepdim)
    return b.div(total, float(count - (1 if correction is None else correction)))
