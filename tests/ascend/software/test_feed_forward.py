"""GEGLU's feed-forward layer in one kernel: which, as exact as torch's float16; its weights follow the module's."""

from __future__ import annotations

import pytest
import torch
from ascend.software.running import Running, run
from ascend.software.test_projections import TARGET, lowered
from torch import nn

from ms_controlnet_backend.lowering.ascend.feed_forward import FFN
from ms_controlnet_backend.lowering.ascend.work import work


class GatedFeedForward(nn.Module):
    """As diffusers' FeedForward with GEGLU; ``columns``: of its output."""

    def __init__(self, dtype=torch.float16, columns=12, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(12, 64, bias=bias), nn.Linear(32, columns, bias=bias)
        self.to(dtype).requires_grad_(False)

    def gated(self, left, right):
        return left * nn.functional.gelu(right)

    def forward(self, x):
        return [self.second(self.gated(*self.first(x).chunk(2, dim=-1)))]


class Factor(GatedFeedForward):
    def gated(self, left, right):
        return nn.functional.gelu(right) * left


class LeftGate(GatedFeedForward):
    def gated(self, left, right):
        return nn.functional.gelu(left) * right


class UnequalHalves(GatedFeedForward):
    def forward(self, x):
        whole = self.first(x)
        return [self.second(self.gated(whole[..., :32], whole[..., 16:48]))]


class UsedTwice(GatedFeedForward):
    def forward(self, x):
        left, right = self.first(x).chunk(2, dim=-1)
        gate = nn.functional.gelu(right)
        return [self.second(left * gate), gate]


class ComputedWeight(GatedFeedForward):
    def forward(self, x):
        left, right = self.first(x).chunk(2, dim=-1)
        return [nn.functional.linear(self.gated(left, right), self.second.weight * 2, self.second.bias)]


def inputs(dtype=torch.float16, *shape):
    return (3 * torch.randn(*shape or (2, 5, 12), generator=torch.Generator().manual_seed(1))).to(dtype)


def relative_rms(got, expected) -> float:
    return float((got.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("make", "fused"),
    [(GatedFeedForward, True), (lambda: GatedFeedForward(bias=False), True), (Factor, True), (LeftGate, False),
     (UnequalHalves, False), (UsedTwice, False), (ComputedWeight, False), (lambda: GatedFeedForward(columns=8), False),
     (lambda: GatedFeedForward(torch.bfloat16), False), (lambda: GatedFeedForward(torch.float32), False)],
    ids=["", "without biases", "gate first", "left gate", "unequal halves", "used twice", "computed weight",
         "another width", "bfloat16", "float32"],
)  # fmt: skip
def test_which(make, fused):
    """What looks like it and is something else stays as it was; the numbers are right in each case."""
    module = make()
    x = inputs(next(module.parameters()).dtype)
    on_torch = module(x)
    program = lowered(module, x)
    assert [i.callee for i in program.instructions].count(FFN) == fused
    got, exact = run(program, [x], TARGET), module.float()(x.float())
    for g, e, h in zip(got, exact, on_torch, strict=True):
        assert e.std() > 0.1
        assert relative_rms(g, e) <= 1.3 * relative_rms(h, e) + 1e-5


def test_one_launch(npu):
    module, x = GatedFeedForward(), inputs()
    programs = [lowered(module, x, without) for without in ((), {"feed_forward"})]
    (fused,), plain = map(work, programs)
    assert fused.matrix == sum(w.matrix for w in plain) == 2 * 10 * (12 * 64 + 32 * 12)
    assert fused.moved == sum(w.moved for w in plain) - 2 * (2 * 10 * 32)  # GELU reads and writes no more
    for program, kernels in zip(programs, (1, 4)):
        npu.reset()
        run(program, [x], TARGET)
        assert sum(npu.report().launches.values()) == kernels


@pytest.mark.parametrize("name", ["first.weight", "first.bias", "second.weight", "second.bias"])
def test_a_weight_changes(name):
    module, x = GatedFeedForward(), inputs()
    running = Running(lowered(module, x), TARGET)
    running([x])
    weight = module.get_parameter(name)
    weight.data.mul_(-3)
    assert [w.source() is weight for w in running.weights if w.refresh()] == [True]
    (got,) = running([x])
    assert relative_rms(got, module.float()(x.float())[0]) < 2e-3


def test_no_more_columns_than_the_kernel_takes(monkeypatch):
    from ms_controlnet_backend.lowering.ascend import fuse

    monkeypatch.setattr(fuse, "LONGEST", 31)
    module, x = GatedFeedForward(), inputs()
    program = lowered(module, x)
    assert FFN not in [i.callee for i in program.instructions]
    run(program, [x], TARGET)
