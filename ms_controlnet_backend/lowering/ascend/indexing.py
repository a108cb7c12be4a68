"""Look-ups, sums along an axis and the place of the largest: kernels with int32 indices."""

from __future__ import annotations

import functools
import math

import torch

from .. import Family
from ..indexing import advanced
from ..reductions import searched

aten = torch.ops.aten
family = Family()
lowers = functools.partial(family.lowers, target="Ascend")


@lowers(aten.embedding.default)
def embedding(b, weight, indices, padding_idx, scale_grad_by_freq, sparse):
    shape = indices.shape + weight.shape[1:]
    return b.call("mint.nn.functional.embedding", indices, weight, shape=shape, dtype=weight.dtype)


@lowers(aten.index_select.default)
def index_select(b, x, dim, index):
    return b.select(x, dim % x.rank, index)


@lowers(aten.index.Tensor)
def index(b, x, indices):
    return advanced(b, x, indices, _pick)


def _pick(b, x, places):
    """x: (A, B, …, rest), places: one tensor for each of A, B, … → (…, rest), as a look-up of rows by number."""
    number, sizes = places[0], x.shape[: len(places)]
    for place, size in zip(places[1:], sizes[1:]):
        number = b.add(b.mul(number, size), place)
    table = b.reshape(x, (math.prod(sizes),) + x.shape[len(places) :])
    rows = b.select(table, 0, b.reshape(number, (number.size,)))
    return b.reshape(rows, number.shape + table.shape[1:])


@lowers(aten.cumsum.default)
def cumsum(b, x, dim, dtype):
    x = b.cast(x, b.out.dtype)
    total = b.call("mint.cumsum", x, dim % x.rank, dtype=x.dtype if x.is_float else "int64")
    return b.cast(total, b.out.dtype)


@lowers(aten.argmax.default)
def argmax(b, x, dim, keepdim):
    x, axis, shape = searched(b, x, dim)
    place = b.call("mint.argmax", x, axis, shape=shape, dtype="int64")
    return b.reshape(b.cast(place, "int32"), b.out.shape)
