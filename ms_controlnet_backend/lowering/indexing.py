"""Look-ups: embeddings, gathers and advanced indexing."""

from __future__ import annotations

import torch

from ..errors import Unsupported
from . import Family
from .builder import Value
from .samples import T, t

aten = torch.ops.aten
family = Family()
lowers = family.lowers


@lowers(aten.embedding.default, samples=[(t(10, 4, weight=True), t(2, 3, kind="int"))])
def embedding(b, weight, indices, padding_idx, scale_grad_by_freq, sparse):
    return b.call("Gather", weight, indices, 0, shape=indices.shape + weight.shape[1:])


@lowers(aten.index_select.default, samples=[(t(2, 10), 1, t(3, kind="int"))])
def index_select(b, x, dim, index):
    return b.call("Gather", x, index, dim % x.rank, shape=b.out.shape)


@lowers(aten.gather.default, samples=[(t(4, 10), 1, t(4, 3, kind="int"))])
def gather(b, x, dim, index, sparse_grad):
    return b.call("GatherD", x, dim % x.rank, index, shape=index.shape)


@lowers(
    aten.index.Tensor,
    samples=[
        (t(10, 4), [t(3, kind="int")]),
        (t(10, 10, 4), [t(3, kind="int"), t(3, kind="int")]),
        (t(2, 10, 10), [None, t(3, 1, kind="int"), t(1, 2, kind="int")]),
    ],
)
def index(b, x, indices):
    """By GatherNd."""
    return advanced(b, x, indices, _gather_nd)


def _gather_nd(b, x, places):
    shape = places[0].shape
    stacked = b.concat([b.reshape(p, shape + (1,)) for p in places], -1)
    return b.call("GatherNd", x, stacked, shape=shape + x.shape[len(places) :])


def advanced(b, x, indices, pick):
    """``x[indices]`` with integer tensors on neighbouring axes (NumPy advanced indexing). pick: builder, (A, B, …,
    rest), one tensor of places of one shape for each of the axes A, B, … → that shape and the rest."""
    indices = list(indices)
    axes = [i for i, index in enumerate(indices) if index is not None]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise Unsupported("index tensors on axes that are not neighbours")
    tensors: list[Value] = [indices[i] for i in axes]
    if any(i.dtype == "bool" for i in tensors):
        raise Unsupported("a boolean mask (the shape of the result depends on data)")
    shape = tuple(torch.broadcast_shapes(*(i.shape for i in tensors)))
    places = [b.broadcast(_wrap(b, i, x.shape[a]), shape) for a, i in zip(axes, tensors)]
    lead = axes[0]
    order = axes + [d for d in range(x.rank) if d not in axes]
    picked = pick(b, b.transpose(x, order), places)
    n = len(shape)
    back = list(range(n, n + lead)) + list(range(n)) + list(range(n + lead, picked.rank))
    return b.transpose(picked, back)


def _wrap(b, index: Value, size: int) -> Value:
    """Negative indices count from the end."""
    index = b.cast(index, b.compute_dtype(torch.int64))
    negative = b.binary("Less", index, 0, result="bool")
    return b.call("Select", negative, b.add(index, size), index, shape=index.shape, dtype=index.dtype)


@lowers(aten.cumsum.default, samples=[(t(3, 4), 1), (T((3, 4), kind="int"), 0)])
def cumsum(b, x, dim, dtype):
    x = b.cast(x, b.out.dtype)
    return b.call("CumSum", x, dim % x.rank)


@lowers(aten.tril.default, samples=[(t(4, 5),), (t(4, 5), 1)])
def tril(b, x, diagonal):
    mask = torch.ones(x.shape[-2:], dtype=torch.bool).tril(diagonal)
    return _keep(b, x, mask)


@lowers(aten.triu.default, samples=[(t(4, 5),), (t(4, 5), -1)])
def triu(b, x, diagonal):
    mask = torch.ones(x.shape[-2:], dtype=torch.bool).triu(diagonal)
    return _keep(b, x, mask)


def _keep(b, x, mask):
    mask = b.broadcast(b.constant(mask), x.shape)
    return b.call("Select", mask, x, b.full(x.shape, 0, x.dtype), shape=x.shape, dtype=x.dtype)
