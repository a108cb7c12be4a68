"""Pooling."""

from __future__ import annotations

import torch

from ..errors import Unsupported
from . import Family
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers


@lowers(aten.avg_pool2d.default, samples=[(t(1, 2, 4, 6), [2, 2]), (t(1, 2, 4, 6), [2, 2], [2, 2])])
def avg_pool2d(b, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override):
    stride = list(stride) or list(kernel)
    h, w = x.shape[2:]
    if stride != list(kernel) or any(padding) or divisor_override or h % kernel[0] or w % kernel[1]:
        raise Unsupported(
            f"overlapping, padded or uneven windows (kernel {kernel}, stride {stride}, padding {padding})"
        )
    n, c = x.shape[:2]
    tiles = b.reshape(x, (n, c, h // kernel[0], kernel[0], w // kernel[1], kernel[1]))
    return b.reduce("ReduceMean", tiles, [3, 5], False)


@lowers(aten.adaptive_avg_pool2d.default, samples=[(t(1, 2, 4, 6), [1, 1]), (t(1, 2, 4, 6), [2, 3])])
def adaptive_avg_pool2d(b, x, output_size):
    h, w = x.shape[2:]
    out_h, out_w = output_size
    if h % out_h or w % out_w:
        raise Unsupported(f"windows of unequal size ({h}x{w} to {out_h}x{out_w})")
    kernel = [h // out_h, w // out_w]
    return avg_pool2d(b, x, kernel, kernel, [0, 0], False, True, None)
