"""Normalisations. The kernels take and return the script's dtype; their statistics are float32, as torch's."""

from __future__ import annotations

import functools

import torch

from ...errors import Unsupported
from .. import Family

aten = torch.ops.aten
family = Family()
lowers = functools.partial(family.lowers, target="Ascend")


@lowers(aten.group_norm.default)
def group_norm(b, x, groups, weight, bias, eps, cudnn_enabled):
    weight, bias = _affine(b, weight, bias, x.shape[1:2], x.dtype)
    return b.call("mint.nn.functional.group_norm", x, groups, weight, bias, eps)


@lowers(aten.layer_norm.default)
def layer_norm(b, x, normalized_shape, weight, bias, eps, cudnn_enable):
    shape = tuple(normalized_shape)
    weight, bias = _affine(b, weight, bias, shape, x.dtype)
    return b.call("mint.nn.functional.layer_norm", x, shape, weight, bias, eps)


@lowers(aten.instance_norm.default)
def instance_norm(b, x, weight, bias, mean, variance, use_input_stats, momentum, eps, cudnn_enabled):
    if not use_input_stats:
        raise Unsupported("use_input_stats=False")
    return group_norm(b, x, x.shape[1], weight, bias, eps, False)


def _affine(b, weight, bias, shape, dtype):
    """Ones and zeros where there are none: the functions would compute them in every call."""
    weight = b.full(shape, 1, dtype) if weight is None else weight
    return weight, b.full(shape, 0, dtype) if bias is None else bias
