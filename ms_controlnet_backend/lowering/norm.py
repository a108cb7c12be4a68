"""Normalisations."""

from __future__ import annotations

import math

import torch

from ..errors import Unsupported
from . import Family
from .forms import samples_of_rows
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers
_p = t(6, weight=True)
FEW = 2**12
"""Elements up to which a group norm is done with the fewest kernels (8192: either way 130 µs; 1024: 60 and 89 µs)."""
FEW_IN_ROWS = 2**14
"""The same of a layer norm (20480: 60 and 49 µs; 8192: 30 and 39 µs)."""


@lowers(
    aten.group_norm.default,
    samples=[
        (t(2, 6, 4, 5), 3, _p, _p), (t(2, 6, 4), 2), (t(2, 6, 4, 5), 1, _p, _p, 1e-3),
        (t(2, 6, 20, 30), 3, _p, _p), (t(2, 6, 800), 2), (t(1, 6, 30, 40), 1, _p, _p, 1e-3),
    ],
)  # fmt: skip
def group_norm(b, x, groups, weight, bias, eps, cudnn_enabled):
    """Wu & He, arXiv 1803.08494, on the matrix of pixels by channels."""
    way = _in_rows if x.size <= FEW else _in_products
    y = way(b, x, groups, weight, eps)
    if bias is not None:
        y = b.add(y, b.reshape(bias, (1, x.shape[1])))
    return b.from_rows(y, x.shape)


def _in_rows(b, x, groups, weight, eps):
    """A group of a sample in one row, to the kernel of LayerNorm: the fewest kernels."""
    n, c = x.shape[:2]
    size, pixels = c // groups, x.size // (n * c)
    rows = b.rows(x)
    turned = b.transpose(b.reshape(rows, (n, pixels, groups, size)), (0, 2, 1, 3))
    flat = b.reshape(turned, (n * groups, pixels * size))
    y = b.reshape(_with_kernel(b, flat, None, None, eps), turned.shape)
    y = b.reshape(b.transpose(y, (0, 2, 1, 3)), rows.shape)
    return y if weight is None else b.mul(y, b.reshape(weight, (1, c)))


def _in_products(b, x, groups, weight, eps):
    """Means are products with small matrices of ones (8 times faster than the GroupNorm kernel), the variance is that
    of the centred values, as torch's."""
    n, c = x.shape[:2]
    pixels = x.size // (n * c)
    rows = b.rows(x)
    samples = samples_of_rows(x.shape)
    average = b.constant(torch.full((n, 1, pixels), 1 / (pixels * (c // groups))))
    member = b.constant(torch.eye(groups).repeat_interleave(c // groups, 0))  # (c, groups)

    def mean(y):
        """(rows, c) → the mean of each sample's groups, (n, groups); what is NaN in one does not reach the others."""
        if n == 1:
            return b.matmul(b.matmul(b.reshape(average, (1, pixels)), y), member)
        return b.matmul(b.reshape(b.matmul(average, b.reshape(y, (n, pixels, c))), (n, c)), member)

    def spread(y):
        """(n, groups) → (n, c)."""
        return b.matmul(y, member, transpose_y=True)

    def each(z):
        """(n, c) → (rows, c): the kernels for equal shapes are faster, this included, than those that broadcast."""
        if n > 1:
            return b.gather_rows(z, samples)
        return b.matmul(b.constant(torch.ones(pixels, 1)), z)

    shift = spread(b.unary("Neg", mean(rows)))
    centred = b.add(rows, shift if n == 1 else each(shift))
    scale = spread(b.unary("Rsqrt", b.add(mean(b.mul(centred, centred)), eps)))
    if weight is not None:
        scale = b.mul(scale, b.reshape(weight, (1, c)))
    return b.mul(centred, each(scale))


@lowers(
    aten.layer_norm.default,
    samples=[
        (t(2, 3, 6), [6], _p, _p), (t(2, 3, 6), [3, 6]), (t(2, 3, 6), [6], _p, None, 1e-3),
        (t(900, 4, 6), [6], _p, _p), (t(900, 3, 8), [3, 8]), (t(4000, 6), [6], _p, None, 1e-3),
    ],
)  # fmt: skip
def layer_norm(b, x, normalized_shape, weight, bias, eps, cudnn_enable):
    """Ba et al., arXiv 1607.06450."""
    shape = tuple(normalized_shape)
    size = math.prod(shape)
    rows = b.reshape(x, (x.size // size, size))
    way = _with_kernel if x.size <= FEW_IN_ROWS else _with_outer_products
    return b.reshape(way(b, rows, weight, bias, eps), x.shape)


def _with_kernel(b, x, weight, bias, eps):
    """Of each row; weight and bias: of any shape, or None."""
    rows, columns = x.shape
    weight, bias = (
        b.full((columns,), number, x.dtype) if given is None else b.reshape(given, (columns,))
        for given, number in ((weight, 1), (bias, 0))
    )
    outputs = [(x.shape, x.dtype), ((rows, 1), "float32"), ((rows, 1), "float32")]
    attributes = {"begin_norm_axis": 1, "begin_params_axis": 1, "epsilon": eps}
    return b.call_many("LayerNorm", x, weight, bias, outputs=outputs, **attributes)[0]


def _with_outer_products(b, x, weight, bias, eps):
    """What belongs to a row or a column reaches the matrix as a product of both, no kernel broadcasts: on (8192, 320)
    1.9 ms, LayerNorm's kernel 6.7 (MindSpore 2.8: 12.1)."""
    row = (1, x.shape[1])
    ones = lambda number: b.constant(torch.full(row, number))  # noqa: E731
    mean = lambda y: b.reduce("ReduceMean", y, [1], True)  # noqa: E731
    centred = b.add(x, b.matmul(mean(x), ones(-1.0)))
    scale = b.unary("Rsqrt", b.add(mean(b.mul(centred, centred)), eps))
    y = b.mul(centred, b.matmul(scale, ones(1.0) if weight is None else b.reshape(weight, row)))
    return y if bias is None else b.add(y, b.reshape(bias, row))


@lowers(aten.rms_norm.default, samples=[(t(2, 3, 6), [6], _p, 1e-6), (t(2, 3, 6), [6])])
def rms_norm(b, x, normalized_shape, weight, eps):
    """Zhang & Sennrich, arXiv 1910.07467."""
    axes = range(x.rank - len(normalized_shape), x.rank)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    mean = b.reduce("ReduceMean", b.mul(x, x), list(axes), True)
    y = b.mul(x, b.unary("Rsqrt", b.add(mean, eps)))
    return y if weight is None else b.mul(y, weight)


@lowers(
    aten.batch_norm.default,
    samples=[(t(2, 6, 4, 5), _p, _p, t(6), t(6, kind="positive"), False, 0.1, 1e-5, False)],
)
def batch_norm(b, x, weight, bias, mean, variance, training, momentum, eps, cudnn_enabled):
    """Ioffe & Szegedy, arXiv 1502.03167, with running statistics."""
    if training:
        raise Unsupported("training=True")
    column = (1, x.shape[1]) + (1,) * (x.rank - 2)
    y = b.mul(b.sub(x, b.reshape(mean, column)), b.unary("Rsqrt", b.add(b.reshape(variance, column), eps)))
    y = y if weight is None else b.mul(y, b.reshape(weight, column))
    return y if bias is None else b.add(y, b.reshape(bias, column))


@lowers(aten.instance_norm.default, samples=[(t(2, 6, 4, 5), _p, _p, None, None, True, 0.1, 1e-5, False)])
def instance_norm(b, x, weight, bias, mean, variance, use_input_stats, momentum, eps, cudnn_enabled):
    """Ulyanov et al., arXiv 1607.08022: group norm with a group a channel."""
    if not use_input_stats:
        raise Unsupported("use_input_stats=False")
    flat = b.reshape(x, x.shape[:2] + (math.prod(x.shape[2:]),))
    return b.reshape(group_norm(b, flat, x.shape[1], weight, bias, eps, False), x.shape)
