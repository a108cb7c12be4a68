"""Matrix products."""

from __future__ import annotations

import math

import torch

from ..errors import Unsupported
from . import Family
from .builder import broadcast_shape
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers
_w, _b = t(6, 4, weight=True), t(6, weight=True)


@lowers(aten.linear.default, samples=[(t(2, 3, 4), _w, _b), (t(2, 3, 4), _w), (t(4), _w, _b)])
def linear(b, x, weight, bias):
    """``MatMul(transpose_b)`` and ``BiasAdd``: a broadcast add in its place was measured to double the time."""
    rows = b.reshape(x, (x.size // x.shape[-1], x.shape[-1]))
    y = b.matmul(rows, weight, transpose_y=True)
    if bias is not None:
        y = b.call("BiasAdd", y, bias)
    return b.reshape(y, b.out.shape)


@lowers(aten.addmm.default, samples=[(t(6), t(3, 4), t(4, 6)), (t(3, 6), t(3, 4), t(4, 6))])
def addmm(b, bias, x, y, beta, alpha):
    if beta != 1 or alpha != 1:
        raise Unsupported(f"beta={beta}, alpha={alpha}")
    return b.add(b.matmul(x, y), bias)


@lowers(aten.mm.default, samples=[(t(3, 4), t(4, 5))])
@lowers(aten.bmm.default, samples=[(t(2, 3, 4), t(2, 4, 5))])
def mm(b, x, y):
    return b.matmul(x, y)


@lowers(aten.baddbmm.default, samples=[(t(2, 3, 5), t(2, 3, 4), t(2, 4, 5))])
def baddbmm(b, bias, x, y, beta, alpha):
    product = b.matmul(x, y)
    product = product if alpha == 1 else b.mul(product, alpha)
    if beta == 0:
        return product
    return b.add(product, bias if beta == 1 else b.mul(bias, beta))


@lowers(
    aten.matmul.default,
    samples=[(t(3, 4), t(4, 5)), (t(2, 3, 4), t(4, 5)), (t(2, 1, 3, 4), t(6, 4, 5)), (t(4), t(4, 5)), (t(3, 4), t(4))],
)
def matmul(b, x, y):
    """NumPy's rules: one-dimensional operands are promoted, leading axes broadcast."""
    x = b.reshape(x, (1,) + x.shape) if x.rank == 1 else x
    y = b.reshape(y, y.shape + (1,)) if y.rank == 1 else y
    if y.rank == 2:  # one product of tall matrices instead of a stack
        rows = b.reshape(x, (x.size // x.shape[-1], x.shape[-1]))
        return b.reshape(b.matmul(rows, y), b.out.shape)
    lead = broadcast_shape(x.shape[:-2], y.shape[:-2])
    x, y = (b.reshape(b.broadcast(a, lead + a.shape[-2:]), (math.prod(lead),) + a.shape[-2:]) for a in (x, y))
    return b.reshape(b.matmul(x, y), b.out.shape)
