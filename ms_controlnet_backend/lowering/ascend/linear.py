"""Linear layers: ``Dense``, which takes the bias along."""

from __future__ import annotations

import functools

import torch

from ...errors import Unsupported
from .. import Family
from .prepare import PadColumns

aten = torch.ops.aten
family = Family()
lowers = functools.partial(family.lowers, target="Ascend")


@lowers(aten.linear.default)
def linear(b, x, weight, bias):
    """An input that is the unpadded output of an attention is taken padded, with columns of zeros in the weight."""
    padded = b.padded_heads(x)
    if padded is not None and b.is_weight(weight):
        x, heads, width = padded
        weight = b.prepared(weight, PadColumns(heads, width), (weight.shape[0], heads * width))
    x = b.reshape(x, (1,) * (2 - x.rank) + x.shape)
    y = b.call("mint.nn.functional.linear", x, weight, bias, shape=x.shape[:-1] + weight.shape[:1])
    return b.reshape(y, b.out.shape)


@lowers(aten.addmm.default)
def addmm(b, bias, x, y, beta, alpha):
    if beta != 1 or alpha != 1:
        raise Unsupported(f"beta={beta}, alpha={alpha}")
    return b.call("mint.addmm", bias, x, y, shape=(x.shape[0], y.shape[1]))


@lowers(aten.baddbmm.default)
def baddbmm(b, bias, x, y, beta, alpha):
    return b.call("mint.baddbmm", bias, x, y, shape=x.shape[:-1] + y.shape[-1:], beta=beta, alpha=alpha)
