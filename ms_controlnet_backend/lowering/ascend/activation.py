"""Activations with a kernel of their own."""

from __future__ import annotations

import functools

import torch

from .. import Family

aten = torch.ops.aten
family = Family()
lowers = functools.partial(family.lowers, target="Ascend")


@lowers(aten.silu.default)
def silu(b, x):
    return b.unary("mint.nn.functional.silu", x)


@lowers(aten.gelu.default)
def gelu(b, x, approximate):
    return b.call("mint.nn.functional.gelu", x, approximate=approximate)
