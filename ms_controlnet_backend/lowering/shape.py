"""Views and rearrangements. MindSpore tensors are contiguous here, so a view is a reshape, transpose or slice."""

from __future__ import annotations

import torch

from ..errors import Unsupported
from . import Family
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers


@lowers(
    aten.view.default, aten.reshape.default, aten._unsafe_view.default, samples=[(t(4, 6), [2, 2, -1]), (t(4), [4, 1])]
)
def reshape(b, x, size):
    return b.reshape(x, b.out.shape)


@lowers(aten.flatten.using_ints, samples=[(t(2, 3, 4), 1), (t(2, 3, 4), 0, 1)])
def flatten(b, x, start, end):
    return b.reshape(x, b.out.shape)


@lowers(aten.unflatten.int, samples=[(t(2, 6), 1, [2, 3])])
def unflatten(b, x, dim, sizes):
    return b.reshape(x, b.out.shape)


@lowers(aten.unsqueeze.default, samples=[(t(2, 3), 1), (t(2, 3), -1), (t(), 0)])
def unsqueeze(b, x, dim):
    return b.reshape(x, b.out.shape)


@lowers(aten.squeeze.default, samples=[(t(2, 1, 3),)])
def squeeze(b, x):
    return b.reshape(x, b.out.shape)


@lowers(aten.squeeze.dim, samples=[(t(2, 1, 3), 1), (t(2, 1, 3), 0)])
@lowers(aten.squeeze.dims, samples=[(t(2, 1, 3, 1), [1, 3])])
def squeeze_dim(b, x, dim):
    return b.reshape(x, b.out.shape)


@lowers(
    aten.transpose.int,
    samples=[
        (t(2, 3, 4), 1, 2),
        (t(2, 1, 4), 0, -2),
        (t(2, 300, 4, 10), 1, 2),
        (t(2, 4, 300, 10), 1, 2),
        (t(4, 300, 1, 16), 0, 1),
        (t(1, 3, 500, 12), 1, 2),
        (t(2, 3, 4, 1000), 0, 2),
    ],
)
def transpose(b, x, dim0, dim1):
    order = list(range(x.rank))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return b.transpose(x, order)


@lowers(
    aten.permute.default,
    samples=[(t(2, 3, 4), [2, 0, 1]), (t(2, 3, 4), [0, -1, 1]), (t(2, 3, 4, 90, 8), [0, 3, 1, 2, 4])],
)
def permute(b, x, dims):
    return b.transpose(x, dims)


@lowers(aten.t.default, samples=[(t(2, 3),), (t(3),)])
@lowers(aten.numpy_T.default, samples=[(t(2, 3),), (t(3),)])
def matrix_transpose(b, x):
    return b.transpose(x, range(x.rank)[::-1])


@lowers(aten.movedim.int, samples=[(t(2, 3, 4), 0, 2)])
def movedim(b, x, source, destination):
    order = list(range(x.rank))
    order.insert(destination % x.rank, order.pop(source))
    return b.transpose(x, order)


@lowers(aten.expand.default, samples=[(t(2, 1, 4), [2, 3, 4]), (t(4), [2, -1]), (t(), [3])])
def expand(b, x, size, implicit):
    return b.broadcast(x, b.out.shape)


@lowers(aten.expand_as.default, samples=[(t(2, 1), t(2, 3))])
@lowers(aten.broadcast_to.default, samples=[(t(2, 1), [2, 3])])
def expand_as(b, x, shape_or_other):
    return b.broadcast(x, b.out.shape)


@lowers(aten.repeat.default, samples=[(t(2, 3), [2, 1]), (t(2, 3), [3, 1, 2])])
def repeat(b, x, repeats):
    x = b.reshape(x, (1,) * (len(repeats) - x.rank) + x.shape)
    return b.call("Tile", x, tuple(repeats), shape=b.out.shape)


@lowers(aten.repeat_interleave.self_int, samples=[(t(2, 3), 2, 0), (t(2, 3), 3, 1)])
def repeat_interleave(b, x, repeats, dim, output_size):
    if dim is None:
        x, dim = b.reshape(x, (x.size,)), 0
    dim %= x.rank
    spread = b.reshape(x, x.shape[: dim + 1] + (1,) + x.shape[dim + 1 :])
    shape = x.shape[: dim + 1] + (repeats,) + x.shape[dim + 1 :]
    return b.reshape(b.broadcast(spread, shape), b.out.shape)


@lowers(
    aten.cat.default, aten.concat.default, samples=[([t(2, 3), t(2, 4)], 1), ([t(2, 3), t(1, 3)],), ([t(2, 3)], -1)]
)
def concat(b, xs, dim):
    xs = [b.cast(x, b.out.dtype) for x in xs if x.shape != (0,)]
    return b.concat(xs, dim)


@lowers(aten.stack.default, samples=[([t(2, 3), t(2, 3)], 1), ([t(2, 3), t(2, 3)], -1)])
def stack(b, xs, dim):
    dim %= xs[0].rank + 1
    parts = [b.reshape(b.cast(x, b.out.dtype), x.shape[:dim] + (1,) + x.shape[dim:]) for x in xs]
    return b.concat(parts, dim)


@lowers(aten.chunk.default, samples=[(t(4, 6), 2, 1), (t(5, 2), 3)])
@lowers(aten.split.Tensor, samples=[(t(4, 6), 2, 1), (t(5, 2), 3)])
@lowers(aten.split.sizes, aten.split_with_sizes.default, samples=[(t(4, 6), [1, 5], 1)])
def split(b, x, sizes, dim):
    return b.split(x, dim, [out.shape[dim] for out in b.out])


@lowers(aten.unbind.int, samples=[(t(3, 2), 0), (t(2, 3, 4), -1)])
def unbind(b, x, dim):
    return [b.reshape(part, out.shape) for part, out in zip(b.split(x, dim, [1] * x.shape[dim]), b.out)]


@lowers(
    aten.slice.Tensor,
    samples=[
        (t(5, 6), 0, 1, 3),
        (t(5, 6), 1, -2),
        (t(5, 6), 1, 0, 9223372036854775807),
        (t(5, 6), 1, 1, 6, 2),
        (t(5, 6),),
    ],
)
def slice_(b, x, dim, start, end, step):
    size = x.shape[dim]
    start, stop, step = slice(start, end, step).indices(size)
    return b.slice(x, dim, start, max(start, stop), step)


@lowers(
    aten.slice_scatter.default,
    samples=[(t(5, 6), t(2, 6), 0, 1, 3), (t(5, 6), t(5, 2), 1, -2), (t(5, 6), t(5, 6)), (t(5, 6), t(5, 1), 1, 0, 1)],
)
def slice_scatter(b, x, source, dim, start, end, step):
    """``x`` with a slice replaced: what an in-place write to a slice becomes in a functional graph."""
    size = x.shape[dim]
    start, stop, step = slice(start, end, step).indices(size)
    if step != 1:
        raise Unsupported(f"step {step}")
    stop = max(start, stop)
    source = b.broadcast(
        b.cast(source, x.dtype), x.shape[: dim % x.rank] + (stop - start,) + x.shape[dim % x.rank + 1 :]
    )
    parts = [b.slice(x, dim, 0, start)] if start else []
    parts.append(source)
    return b.concat(parts + ([b.slice(x, dim, stop, size)] if stop < size else []), dim)


@lowers(aten.select_scatter.default, samples=[(t(5, 6), t(6), 0, 2), (t(5, 6), t(5), 1, -1)])
def select_scatter(b, x, source, dim, index):
    index %= x.shape[dim]
    dim %= x.rank
    source = b.reshape(source, x.shape[:dim] + (1,) + x.shape[dim + 1 :])
    return slice_scatter(b, x, source, dim, index, index + 1, 1)


@lowers(aten.copy.default, samples=[(t(2, 3), t(3)), (t(2, 3), t(2, 3, kind="int"))])
def copy(b, x, source, non_blocking):
    """``source`` in the shape and dtype of ``x``: what an in-place copy becomes in a functional graph."""
    return b.broadcast(b.cast(source, x.dtype), x.shape)


@lowers(aten.narrow.default, samples=[(t(5, 6), 1, 2, 3)])
def narrow(b, x, dim, start, length):
    return b.slice(x, dim, start % x.shape[dim], start % x.shape[dim] + length)


@lowers(aten.select.int, samples=[(t(5, 6), 0, 2), (t(5, 6), 1, -1)])
def select(b, x, dim, index):
    index %= x.shape[dim]
    return b.reshape(b.slice(x, dim, index, index + 1), b.out.shape)


@lowers(aten.flip.default, samples=[(t(3, 4), [1]), (t(3, 4), [0, 1])])
def flip(b, x, dims):
    return b.call("ReverseV2", x, axis=tuple(d % x.rank for d in dims))


@lowers(aten.roll.default, samples=[(t(3, 4), [1], [1]), (t(3, 4), [-1, 2], [0, 1])])
def roll(b, x, shifts, dims):
    if not dims:
        raise Unsupported("dims=[]")
    for shift, dim in zip(shifts, dims):
        size = x.shape[dim]
        cut = -shift % size
        if cut:
            x = b.concat([b.slice(x, dim, cut, size), b.slice(x, dim, 0, cut)], dim)
    return x


@lowers(
    aten.pad.default,
    samples=[
        (t(2, 3, 4, 5), [0, 1, 0, 1]),
        (t(2, 3, 4), [1, 2], "constant", 0.5),
        (t(1, 2, 4, 5), [1, 2, 2, 1], "reflect"),
        (t(1, 2, 4, 5), [1, 2, 2, 1], "replicate"),
        (t(1, 2, 4, 5), [1, 2, 2, 1], "circular"),
        (t(2, 5), [-1, 1]),
    ],
)
def pad(b, x, pads, mode, value):
    for i in range(len(pads) // 2):
        x = _pad_axis(b, x, x.rank - 1 - i, pads[2 * i], pads[2 * i + 1], mode, value)
    return x


def _pad_axis(b, x, axis, before, after, mode, value):
    size = x.shape[axis]
    if before < 0 or after < 0:
        start, stop = max(0, -before), size - max(0, -after)
        return _pad_axis(b, b.slice(x, axis, start, stop), axis, max(0, before), max(0, after), mode, value)
    parts = [
        _border(b, x, axis, before, mode, value, first=True),
        x,
        _border(b, x, axis, after, mode, value, first=False),
    ]
    return b.concat([p for p in parts if p is not None], axis)


def _border(b, x, axis, width, mode, value, first: bool):
    if not width:
        return None
    size = x.shape[axis]
    shape = x.shape[:axis] + (width,) + x.shape[axis + 1 :]
    if mode == "constant":
        return b.full(shape, value or 0.0, x.dtype)
    if mode == "replicate":
        edge = b.slice(x, axis, 0, 1) if first else b.slice(x, axis, size - 1, size)
        return b.broadcast(edge, shape)
    if mode == "reflect":
        inner = b.slice(x, axis, 1, 1 + width) if first else b.slice(x, axis, size - 1 - width, size - 1)
        return b.call("ReverseV2", inner, axis=(axis,))
    if mode == "circular":
        return b.slice(x, axis, size - width, size) if first else b.slice(x, axis, 0, width)
    raise Unsupported(f"mode={mode!r}")


@lowers(aten.constant_pad_nd.default, samples=[(t(2, 3), [1, 2], 0.5)])
def constant_pad(b, x, pads, value):
    return pad(b, x, pads, "constant", value)


@lowers(aten.pixel_shuffle.default, samples=[(t(1, 8, 3, 2), 2)])
def pixel_shuffle(b, x, factor):
    n, c, h, w = x.shape
    x = b.reshape(x, (n, c // factor**2, factor, factor, h, w))
    return b.reshape(b.transpose(x, (0, 1, 4, 2, 5, 3)), b.out.shape)


@lowers(aten.pixel_unshuffle.default, samples=[(t(1, 2, 6, 4), 2)])
def pixel_unshuffle(b, x, factor):
    n, c, h, w = x.shape
    x = b.reshape(x, (n, c, h // factor, factor, w // factor, factor))
    return b.reshape(b.transpose(x, (0, 1, 3, 5, 2, 4)), b.out.shape)
