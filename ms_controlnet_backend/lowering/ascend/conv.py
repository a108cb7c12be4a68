"""Convolutions (``Conv2DExt``), their padding, and up-sampling, on (N, C, H, W) as it is."""

from __future__ import annotations

import functools

import torch

from ...errors import Unsupported
from .. import Family
from ..conv import named_padding
from ..shape import pad as pad_by_parts

aten = torch.ops.aten
family = Family()
lowers = functools.partial(family.lowers, target="Ascend")


@lowers(aten.conv2d.default)
def conv2d(b, x, weight, bias, stride, padding, dilation, groups):
    stride, padding, dilation = (_pair(p) for p in (stride, padding, dilation))
    if x.rank != 4:
        raise Unsupported(f"an input of rank {x.rank}")
    return b.call("mint.nn.functional.conv2d", x, weight, bias, stride, padding, dilation, groups, shape=b.out.shape)


@lowers(aten.conv2d.padding)
def conv2d_padding(b, x, weight, bias, stride, padding, dilation, groups):
    return conv2d(b, x, weight, bias, stride, named_padding(padding, weight, dilation), dilation, groups)


@lowers(aten.conv_transpose2d.input)
def conv_transpose2d(b, x, weight, bias, stride, padding, output_padding, groups, dilation):
    stride, padding, output_padding, dilation = (_pair(p) for p in (stride, padding, output_padding, dilation))
    name = "mint.nn.functional.conv_transpose2d"
    return b.call(name, x, weight, bias, stride, padding, output_padding, groups, dilation, shape=b.out.shape)


@lowers(aten.pad.default)
def pad(b, x, pads, mode, value):
    if mode != "constant" or any(p < 0 for p in pads) or not x.is_float:
        return pad_by_parts(b, x, pads, mode, value)
    return b.call("mint.nn.functional.pad", x, tuple(pads), "constant", float(value or 0), shape=b.out.shape)


@lowers(aten.constant_pad_nd.default)
def constant_pad(b, x, pads, value):
    return pad(b, x, pads, "constant", value)


@lowers(aten.upsample_nearest2d.vec)
def upsample_nearest2d(b, x, output_size, scale_factors):
    return _interpolate(b, x, output_size, scale_factors, "nearest")


@lowers(aten.upsample_bilinear2d.vec)
def upsample_bilinear2d(b, x, output_size, align_corners, scale_factors):
    return _interpolate(b, x, output_size, scale_factors, "bilinear", align_corners)


@lowers(aten.upsample_bicubic2d.vec)
def upsample_bicubic2d(b, x, output_size, align_corners, scale_factors):
    return _interpolate(b, x, output_size, scale_factors, "bicubic", align_corners)


def _interpolate(b, x, size, scales, mode, *align_corners):
    """A size or factors, as torch was given: the source of a pixel is computed from what was given. Where both say the
    same it is the size: kernels of MindSpore 2.7 take no factors."""
    size, scales = (None if s is None else tuple(s) for s in (size, scales))
    made = b.out.shape[2:]
    if scales and (any(align_corners) or all(n * f == m for n, f, m in zip(x.shape[2:], scales, made, strict=True))):
        size, scales = made, None
    return b.call(f"ops.auto_generate.upsample_{mode}2d_op", x, size, scales, *align_corners, shape=b.out.shape)


def _pair(p) -> tuple[int, int]:
    return tuple(p) * (3 - len(p))
