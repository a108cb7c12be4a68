"""Operators that torch_npu asks of CANN and MindSpore does not: the software NPU computes them as torch does."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.torch_npu
OPERATORS = {
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "roll of all": lambda x: torch.roll(x, 5),
    "repeat_interleave": lambda x: x.repeat_interleave(3),
    "repeat_interleave of a dimension": lambda x: x.repeat_interleave(3, 1),
    "logspace": lambda x: torch.logspace(-1, 0, 13, device=x.device),
    "clamp": lambda x: x.clamp(min=0.25),
    "isclose": lambda x: torch.isclose(x, x + torch.where(x > 0, 1e-9, 1e-2).to(x.device)),
    "isclose to infinity": lambda x: torch.isclose(x / 0, -x / 0),
    "isclose to nan": lambda x: torch.isclose(x * float("nan"), x * float("nan"), equal_nan=True),
    "isneginf": lambda x: torch.isneginf(x / (x > 0)),
    "isposinf": lambda x: torch.isposinf(x / (x > 0)),
    "avg_pool2d": lambda x: torch.nn.functional.avg_pool2d(x, 2),
    "avg_pool2d with ceil_mode": lambda x: torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True),
    "avg_pool2d with padding": lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1),
    "avg_pool2d without padding": lambda x: torch.nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "norm": lambda x: torch.linalg.vector_norm(x, dim=(1, 3)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_as_torch(name):
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    expected, got = OPERATORS[name](x), OPERATORS[name](x.to("npu:0"))
    assert got.device.type == "npu" and got.dtype == expected.dtype
    torch.testing.assert_close(got.cpu(), expected)


def test_uniform():
    x = torch.empty(10_000, device="npu:0").uniform_(2, 5).cpu()
    assert x.min() >= 2 and x.max() <= 5 and abs(x.mean() - 3.5) < 0.05 and x.unique().numel() > 9000
