"""Convolutions as im2col and a matrix product, and up-sampling.

The ``Conv2D`` primitive of MindSpore 2.9 and 2.10 falls to oneDNN's reference kernel on AVX-512 for k x k kernels
(300 times slower than torch); a matrix product runs at torch's speed on every version.
"""

from __future__ import annotations

import torch

from ..errors import Unsupported
from . import Family
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers

COLUMN_BYTES = 192 * 2**20
"""Largest column matrix of one product; a larger convolution is done in bands of rows."""

TOGETHER = 2**15
"""Largest column matrix, in elements, of a whole batch at once: below, launching kernels costs more than data."""


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
        y = _convolve(b, x, weight, stride, padding, dilation)
    else:
        xs = b.split(x, 1, [x.shape[1] // groups] * groups)
        ws = b.split(weight, 0, [weight.shape[0] // groups] * groups)
        y = b.concat([_convolve(b, xi, wi, stride, padding, dilation) for xi, wi in zip(xs, ws)], 1)
    return y if bias is None else b.call("BiasAdd", y, bias)


@lowers(aten.conv2d.padding, samples=[(t(2, 3, 8, 7), t(5, 3, 3, 3, weight=True), t(5, weight=True), [1, 1], "same")])
def conv2d_padding(b, x, weight, bias, stride, padding, dilation, groups):
    dilation = tuple(dilation) * (3 - len(dilation))
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:])]
    if padding == "same" and any(s % 2 for s in spans):
        raise Unsupported("padding='same' with an even kernel")
    pads = [s // 2 for s in spans] if padding == "same" else [0, 0]
    return conv2d(b, x, weight, bias, stride, pads, dilation, groups)


def _convolve(b, x, weight, stride, padding, dilation):
    """x: (N, C, H, W), weight: (O, C, kh, kw) → (N, O, H', W'), no bias.

    One product a sample: a batched one would need the weight repeated (the CPU kernel does not broadcast), which was
    measured to be slower for every convolution of SD 1.5 and to double the memory, all repetitions being made first.
    Tiny ones are done together.
    """
    h, w = x.shape[2:]
    kernel = weight.shape[2:]
    out = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1 for size, p, d, k, s in zip((h, w), padding, dilation, kernel, stride)
    )
    pointwise = kernel == (1, 1) and padding == (0, 0)
    if pointwise and stride != (1, 1):
        x = b.slice(b.slice(x, 2, 0, h, stride[0]), 3, 0, w, stride[1])
    matrix = b.reshape(weight, (weight.shape[0], weight.size // weight.shape[0]))
    if x.shape[0] > 1 and x.shape[0] * matrix.shape[1] * out[0] * out[1] <= TOGETHER:
        return _together(b, x, matrix, pointwise, kernel, stride, padding, dilation, out)
    samples = []
    for i in range(x.shape[0]):
        sample = b.slice(b.after(x, samples[-1] if samples else None), 0, i, i + 1)
        if pointwise:
            samples.append(_product(b, matrix, sample, out))
        else:
            samples.append(_in_bands(b, sample, matrix, kernel, stride, padding, dilation, out))
    return b.concat(samples, 0)


def _together(b, x, matrix, pointwise, kernel, stride, padding, dilation, out):
    """All samples in one product, side by side: (O, K) x (K, N L)."""
    n, k, length = x.shape[0], matrix.shape[1], out[0] * out[1]
    columns = x if pointwise else _columns(b, x, kernel, stride, padding, dilation, out)
    columns = b.transpose(b.reshape(columns, (n, k, length)), (1, 0, 2))
    product = b.matmul(matrix, b.reshape(columns, (k, n * length)))
    return b.reshape(
        b.transpose(b.reshape(product, (matrix.shape[0], n, length)), (1, 0, 2)), (n, matrix.shape[0], *out)
    )


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
    y = _convolve(b, x, b.transpose(flipped, (1, 0, 2, 3)), (1, 1), (0, 0), (1, 1))
    return y if bias is None else b.call("BiasAdd", y, bias)


@lowers(
    aten.upsample_nearest2d.vec,
    samples=[(t(1, 2, 4, 5), None, [2.0, 2.0]), (t(1, 2, 4, 5), [8, 10], None), (t(1, 2, 4, 5), [7, 9], None)],
)
def upsample_nearest2d(b, x, output_size, scale_factors):
    n, c, h, w = x.shape
    out_h, out_w = b.out.shape[2:]
    if out_h % h == 0 and out_w % w == 0 and (scale_factors is None or _whole(scale_factors)):
        name = "mint.nn.functional.interpolate"
        return b.call(name, x, shape=b.out.shape, size=(out_h, out_w), mode="nearest")
    # any ratio: torch picks source pixel floor(i * in / out), or floor(i / scale) where a scale was given
    for axis, size, out, scale in zip((2, 3), (h, w), (out_h, out_w), scale_factors or (None, None)):
        index = torch.arange(out, dtype=torch.float32)
        ratio = torch.tensor(1.0 / scale if scale else size / out, dtype=torch.float32)
        source = (index * ratio).floor().to(torch.int64).clamp_(max=size - 1)
        shape = x.shape[:axis] + (out,) + x.shape[axis + 1 :]
        x = b.call("Gather", x, b.constant(source), axis, shape=shape)
    return x


def _whole(factors) -> bool:
    return all(float(f).is_integer() for f in factors)


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
