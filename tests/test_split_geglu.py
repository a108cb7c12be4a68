"""GEGLU is computed from the halves of its projection's weight, in place, and from nothing that only looks like it."""

import models
import parity
import pytest
import torch
from diffusers.models.activations import GEGLU
from torch import nn
from torch.nn import functional as F

import ms_controlnet_backend

aten = torch.ops.aten


def optimised(module, x):
    """The targets in the module's graph after the passes, and what the graph returns."""
    captured, tensors, targets = parity.optimised(module, x)
    return targets, parity.computed(captured, tensors)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_split(dtype, bias):
    torch.manual_seed(0)
    module, x = GEGLU(16, 24, bias=bias).to(dtype).eval(), torch.randn(2, 5, 16, dtype=dtype) * 3
    targets, got = optimised(module, x)
    assert targets.count(aten.linear.default) == 2
    assert not {aten.chunk.default, aten.gelu.default} & set(targets)
    with torch.no_grad():
        assert parity.relative_error(got, module(x)) < (1e-6 if dtype is torch.float32 else 3e-3)


class Other(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.proj, self.function = nn.Linear(16, 48), function

    def forward(self, x):
        return self.function(*self.proj(x).chunk(2, -1), self.proj(x))


@pytest.mark.parametrize("function", [
    lambda h, g, y: h * F.gelu(g, approximate="tanh"), lambda h, g, y: h * F.gelu(g) + g, lambda h, g, y: g * F.gelu(h),
    lambda h, g, y: h * F.gelu(h), lambda h, g, y: y[..., :24] * F.gelu(g) * h, lambda h, g, y: 2.0 * F.gelu(g) + h,
    lambda h, g, y: y.chunk(2, 1)[0] * F.gelu(y.chunk(2, 1)[1]),
    lambda h, g, y: y.chunk(3, -1)[0] * F.gelu(y.chunk(3, -1)[1]),
])  # fmt: skip
def test_left_alone(function):
    torch.manual_seed(0)
    module, x = Other(function).eval(), torch.randn(2, 4, 16)
    targets, got = optimised(module, x)
    assert aten.gelu.default in targets
    with torch.no_grad():
        torch.testing.assert_close(got, module(x))


def test_what_is_written_to_either_half_is_seen(clean):
    """They lie in the weight (tests/test_weights.py): nothing is compiled or copied again."""
    pipe = models.pipeline()
    parity.assert_same(pipe, models.call_kwargs)
    projection = next(m for m in pipe.unet.modules() if isinstance(m, GEGLU)).proj
    compiles = ms_controlnet_backend.stats()["unet"].compiles
    for rows in (slice(0, 1), slice(-1, None)):
        projection.weight.data[rows] += 3.0
        parity.assert_same(pipe, models.call_kwargs)
    assert ms_controlnet_backend.stats()["unet"].compiles == compiles
