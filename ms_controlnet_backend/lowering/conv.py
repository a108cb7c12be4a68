"""Convolutions as matrix products, on the matrix of pixels by channels where that can be, and up-sampling.

The ``Conv2D`` primitive of MindSpore 2.9 and 2.10 falls to oneDNN's reference kernel on AVX-512 for k x k kernels
(300 times slower than torch); a matrix product runs at torch's speed on every version.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import Unsupported
from . import Family
from .cost import Plan
from .samples import t
from .winograd import OUTPUTS, SIZE, WinogradWeight, tiles_of, winograd

aten = torch.ops.aten
family = Family()
lowers = family.lowers

COLUMN_BYTES = 192 * 2**20
"""Largest column matrix of one product; a larger convolution is done in bands of rows."""

IM2COL = 6
"""Times slower than a copy of the same size the Im2Col kernel was measured to be."""


@lowers(
    aten.conv2d.default,
    samples=[
        (t(2, 3, 8, 7), t(5, 3, 3, 3, weight=True), t(5, weight=True), [1, 1], [1, 1]),
        (t(1, 3, 8, 7), t(5, 3, 3, 3, weight=True), None, [2, 2], [1, 1]),
        (t(2, 4, 8, 7), t(6, 4, 1, 1, weight=True), t(6, weight=True)),
        (t(2, 4, 8, 7), t(6, 4, 1, 1, weight=True), t(6, weight=True), [2, 2]),
        (t(1, 3, 9, 9), t(5, 3, 3, 3, weight=True), t(5, weight=True), [1, 1], [2, 2], [2, 2]),
        (t(2, 3, 16, 16), t(5, 3, 8, 8, weight=True), None, [8, 8]),
        (t(2, 4, 8, 7), t(6, 2, 3, 3, weight=True), t(6, weight=True), [1, 1], [1, 1], [1, 1], 2),
        (t(2, 4, 8, 7), t(4, 1, 3, 3, weight=True), t(4, weight=True), [1, 1], [1, 1], [1, 1], 4),
    ],
)
def conv2d(b, x, weight, bias, stride, padding, dilation, groups):
    stride, padding, dilation = (tuple(p) * (3 - len(p)) for p in (stride, padding, dilation))
    if x.rank != 4:
        raise Unsupported(f"an input of rank {x.rank}")
    if groups == 1:
        return _convolve(b, x, weight, bias, stride, padding, dilation)
    xs = b.split(x, 1, [x.shape[1] // groups] * groups)
    ws = b.split(weight, 0, [weight.shape[0] // groups] * groups)
    y = b.concat([_convolve(b, xi, wi, None, stride, padding, dilation) for xi, wi in zip(xs, ws)], 1)
    return _biased(b, y, bias)


@lowers(aten.conv2d.padding, samples=[(t(2, 3, 8, 7), t(5, 3, 3, 3, weight=True), t(5, weight=True), [1, 1], "same")])
def conv2d_padding(b, x, weight, bias, stride, padding, dilation, groups):
    return conv2d(b, x, weight, bias, stride, named_padding(padding, weight, dilation), dilation, groups)


def named_padding(padding: str, weight, dilation) -> list[int]:
    """``"same"`` or ``"valid"`` in pixels."""
    dilation = tuple(dilation) * (3 - len(dilation))
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
    if padding == "same" and any(s % 2 for s in spans):
        raise Unsupported("padding='same' with an even kernel")
    return [s // 2 for s in spans] if padding == "same" else [0, 0]


def _biased(b, y, bias):
    return y if bias is None else b.add(y, b.reshape(bias, (1, bias.size, 1, 1)))


def _convolve(b, x, weight, bias, stride, padding, dilation):
    """x: (N, C, H, W), weight: (O, C, kh, kw), bias: (O,) or None → (N, O, H', W')."""
    n, c, h, w = x.shape
    o, _, *kernel = weight.shape
    out = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, d, k, s in zip((h, w), padding, dilation, kernel, stride)
    )
    shape = (n, o, *out)
    if tuple(kernel) == (1, 1) and padding == (0, 0):
        rows = b.rows(x)
        if stride != (1, 1):
            rows = b.gather_rows(rows, _pixels(x.shape, (1, 1), stride, padding, dilation, out).reshape(-1))
        return _biased(b, b.from_rows(b.matmul(rows, b.reshape(weight, (o, c)), transpose_y=True), shape), bias)
    plans = _plans(b, x, weight, bias, stride, padding, dilation, out)
    plan = b.kept.cheapest(plans, b.program.weights.get(weight))
    kept = f", {plan.kept / 2**20:.3g} MiB kept" if plan.kept else ""
    b.chosen(plan.name, f"{plan.seconds * 1e3:.3g} ms expected{kept}")
    return plan.build()


def _plans(b, x, weight, bias, stride, padding, dilation, out):
    """The ways to do one convolution, see :mod:`.cost`."""
    n, c, h, w = x.shape
    o, _, kh, kw = weight.shape
    pixels, results, k = n * h * w, n * out[0] * out[1], c * kh * kw
    shape = (n, o, *out)
    product = 2.0 * results * k * o
    columns, matrix = results * k, k * o

    def unfolded():
        return _biased(b, _unfolded(b, x, weight, stride, padding, dilation, out), bias)

    moved = 6 * pixels * c + (2 * IM2COL + 1) * columns + matrix + 9 * results * o
    yield Plan("im2col", product, 4 * moved, 6 + 4 * n, 0, unfolded)
    if (kh, kw) == (3, 3) and stride == padding == dilation == (1, 1):
        yield from _winograd_plans(b, x, weight, bias)
    if columns * 4 > COLUMN_BYTES or not b.is_weight(weight):
        return

    def gathered():
        source = _pixels(x.shape, (kh, kw), stride, padding, dilation, out)
        d = b.reshape(b.gather_rows(b.rows(x), source), (results, k))
        kernel = b.prepared(weight, PixelsFirst(), (o, k))
        return _biased(b, b.from_rows(b.matmul(d, kernel, transpose_y=True), shape), bias)

    moved = 2 * pixels * c + 5 * columns + matrix + results * o
    yield Plan("gathered pixels", product, 4 * moved, 4, 4 * matrix, gathered, PixelsFirst())


def _winograd_plans(b, x, weight, bias):
    """With the transformed weight kept, or made anew in every call, which costs the time to write and read it."""
    n, c, h, w = x.shape
    o, places, outputs, tiles = weight.shape[0], SIZE * SIZE, OUTPUTS * OUTPUTS, tiles_of(n, h, w)
    transformed = places * c * o
    flops = 2.0 * tiles * places * (c * o + places * c + outputs * o)
    moved = 2 * n * h * w * c + tiles * (7 * places * c + 4 * places * o + 5 * outputs * o) + transformed

    def way(keep):
        return lambda: b.from_rows(winograd(b, x, weight, bias, keep), (n, o, h, w))

    if b.is_weight(weight):
        yield Plan("winograd", flops, 4 * moved, 10, 4 * transformed, way(True), WinogradWeight())
    flops, moved = flops + 2.0 * 9 * transformed, moved + 9 * c * o + 2 * transformed
    yield Plan("winograd on the fly", flops, 4 * moved, 12, 0, way(False))


@dataclass(frozen=True)
class PixelsFirst:
    """(O, C, kh, kw) → (O, kh kw C): the weight for columns gathered pixel by pixel."""

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def _pixels(shape, kernel, stride, padding, dilation, out):
    """(N H' W', kh kw): which row of the (N H W, C) matrix lies below each place of the kernel, -1 outside."""
    n, _, h, w = shape
    (y, inside_y), (x, inside_x) = (
        _places(*of) for of in zip((h, w), kernel, stride, padding, dilation, out, strict=True)
    )
    image = (y[:, None, :, None] * w + x[None, :, None, :]).reshape(out[0] * out[1], -1)
    inside = (inside_y[:, None, :, None] & inside_x[None, :, None, :]).reshape(out[0] * out[1], -1)
    samples = torch.arange(n)[:, None, None] * (h * w)
    return torch.where(inside, samples + image, -1).reshape(n * out[0] * out[1], -1)


def _places(size, kernel, stride, padding, dilation, out):
    places = torch.arange(out)[:, None] * stride - padding + torch.arange(kernel) * dilation
    return places, (places >= 0) & (places < size)


def _unfolded(b, x, weight, stride, padding, dilation, out):
    """The Im2Col kernel and one product a sample with the weight as it lies in memory: nothing is kept. (A batched
    product would need the weight repeated, the CPU kernel does not broadcast.)"""
    matrix = b.reshape(weight, (weight.shape[0], weight.size // weight.shape[0]))
    samples = []
    for i in range(x.shape[0]):
        sample = b.slice(b.after(x, samples[-1] if samples else None), 0, i, i + 1)
        samples.append(_in_bands(b, sample, matrix, weight.shape[2:], stride, padding, dilation, out))
    return b.concat(samples, 0)


def _in_bands(b, x, matrix, kernel, stride, padding, dilation, out):
    """One sample, in bands of output rows if its column matrix would be too large at once."""
    _, c, _, w = x.shape
    rows = max(1, COLUMN_BYTES // (c * kernel[0] * kernel[1] * out[1] * 4))
    if rows >= out[0]:
        return _product(b, matrix, _columns(b, x, kernel, stride, padding, dilation, out), out)
    if padding[0]:  # pad once above and below; each band is then a slice of the input
        border = b.full((1, c, padding[0], w), 0, x.dtype)
        x = b.concat([border, x, border], 2)
    bands = []
    for start in range(0, out[0], rows):
        band = (min(rows, out[0] - start), out[1])
        first = start * stride[0]
        last = first + (band[0] - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1
        part = b.slice(b.after(x, bands[-1] if bands else None), 2, first, last)
        bands.append(_product(b, matrix, _columns(b, part, kernel, stride, (0, padding[1]), dilation, band), band))
    return b.concat(bands, 2)


def _columns(b, x, kernel, stride, padding, dilation, out):
    attributes = {"ksizes": kernel, "strides": stride, "dilations": dilation, "pads": padding}
    shape = (x.shape[0], x.shape[1], kernel[0] * kernel[1], out[0] * out[1])
    return b.call("Im2Col", x, shape=shape, **attributes)


def _product(b, matrix, columns, out):
    """(O, K) x (1, …, …) holding (K, L) → (1, O, *out)."""
    columns = b.reshape(columns, (matrix.shape[1], out[0] * out[1]))
    return b.reshape(b.matmul(matrix, columns), (1, matrix.shape[0], *out))


@lowers(
    aten.conv_transpose2d.input,
    samples=[
        (t(2, 3, 5, 6), t(3, 4, 4, 4, weight=True), t(4, weight=True), [2, 2], [1, 1]),
        (t(2, 3, 5, 6), t(3, 4, 3, 3, weight=True), None, [2, 2], [1, 1], [1, 1]),
    ],
)
def conv_transpose2d(b, x, weight, bias, stride, padding, output_padding, groups, dilation):
    """A transposed convolution is a convolution of the input spread by the stride with the flipped kernel."""
    stride, padding, output_padding, dilation = (
        tuple(p) * (3 - len(p)) for p in (stride, padding, output_padding, dilation)
    )
    if groups != 1 or dilation != (1, 1):
        raise Unsupported(f"groups={groups}, dilation={dilation}")
    n, c, h, w = x.shape
    _, o, kh, kw = weight.shape
    if stride != (1, 1):
        x = b.reshape(x, (n, c, h, 1, w, 1))
        x = b.concat([x, b.full((n, c, h, stride[0] - 1, w, 1), 0, x.dtype)], 3) if stride[0] > 1 else x
        x = b.concat([x, b.full(x.shape[:5] + (stride[1] - 1,), 0, x.dtype)], 5) if stride[1] > 1 else x
        x = b.reshape(x, (n, c, h * stride[0], w * stride[1]))
        x = b.slice(b.slice(x, 2, 0, (h - 1) * stride[0] + 1), 3, 0, (w - 1) * stride[1] + 1)
    for axis, k, p, extra in ((2, kh, padding[0], output_padding[0]), (3, kw, padding[1], output_padding[1])):
        for width, first in ((k - 1 - p, True), (k - 1 - p + extra, False)):
            if width < 0:
                x = b.slice(x, axis, -width, x.shape[axis]) if first else b.slice(x, axis, 0, x.shape[axis] + width)
            elif width:
                zeros = b.full(x.shape[:axis] + (width,) + x.shape[axis + 1 :], 0, x.dtype)
                x = b.concat([zeros, x] if first else [x, zeros], axis)
    flipped = b.call("ReverseV2", weight, axis=(2, 3))
    return _convolve(b, x, b.transpose(flipped, (1, 0, 2, 3)), bias, (1, 1), (0, 0), (1, 1))


@lowers(
    aten.upsample_nearest2d.vec,
    samples=[(t(1, 2, 4, 5), None, [2.0, 2.0]), (t(1, 2, 4, 5), [8, 10], None), (t(1, 2, 4, 5), [7, 9], None)],
)
def upsample_nearest2d(b, x, output_size, scale_factors):
    """torch picks source pixel floor(i * in / out), or floor(i / scale) where a scale was given."""
    n, c, h, w = x.shape
    out = b.out.shape[2:]
    y, x_ = (_nearest(*of) for of in zip((h, w), out, scale_factors or (None, None)))
    pixels = torch.arange(n)[:, None, None] * (h * w) + y[:, None] * w + x_
    return b.from_rows(b.gather_rows(b.rows(x), pixels.reshape(-1)), b.out.shape)


def _nearest(size: int, out: int, scale: float | None) -> torch.Tensor:
    ratio = torch.tensor(1.0 / scale if scale else size / out, dtype=torch.float32)
    index = torch.arange(out, dtype=torch.float32)
    return (index * ratio).floor().to(torch.int64).clamp_(max=size - 1)


_resized = [
    (t(1, 2, 4, 5), [8, 10], False, None),
    (t(1, 2, 8, 6), [3, 5], False, None),
    (t(1, 2, 4, 5), None, True, [2.0, 2.0]),
]


@lowers(aten.upsample_bilinear2d.vec, samples=_resized)
def upsample_bilinear2d(b, x, output_size, align_corners, scale_factors):
    return _resample(b, x, aten.upsample_bilinear2d.default, align_corners, scale_factors)


@lowers(aten.upsample_bicubic2d.vec, samples=_resized)
def upsample_bicubic2d(b, x, output_size, align_corners, scale_factors):
    return _resample(b, x, aten.upsample_bicubic2d.default, align_corners, scale_factors)


def _resample(b, x, op, align_corners, scale_factors):
    """Separable resampling as two matrix products with torch's own weights."""
    for axis, out in ((2, b.out.shape[2]), (3, b.out.shape[3])):
        scale = scale_factors[axis - 2] if scale_factors else None
        matrix = b.constant(_resample_matrix(op, x.shape[axis], out, align_corners, scale))
        x = b.transpose(x, (0, 1, 3, 2)) if axis == 2 else x
        rows = b.matmul(b.reshape(x, (x.size // x.shape[3], x.shape[3])), matrix)
        x = b.reshape(rows, x.shape[:3] + (out,))
        x = b.transpose(x, (0, 1, 3, 2)) if axis == 2 else x
    return x


def _resample_matrix(op, size: int, out: int, align_corners, scale):
    """(size, out): column j holds the weights of output pixel j, read off the resized unit vectors."""
    unit = torch.eye(size).reshape(1, size, size, 1)
    return op(unit, [out, 1], align_corners, scale, None)[0, :, :, 0].contiguous()
