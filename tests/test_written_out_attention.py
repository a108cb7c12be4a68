"""Attention written out as products and a softmax is computed as scaled_dot_product_attention is."""

import parity
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, SlicedAttnProcessor

from ms_controlnet_backend import plugins
from ms_controlnet_backend.hookspecs import Options, Site
from ms_controlnet_backend.passes import fold_constants

aten = torch.ops.aten


@pytest.mark.parametrize("dtype, options, masked", [
    (torch.float32, {}, False), (torch.float32, {}, True), (torch.float32, dict(scale_qk=False), True),
    (torch.float16, {}, True), (torch.float16, dict(upcast_softmax=True), True),
    (torch.float16, dict(upcast_attention=True), False),
])  # fmt: skip
def test_attention_processor(dtype, options, masked):
    torch.manual_seed(0)
    attention = Attention(query_dim=8, heads=2, dim_head=4, processor=AttnProcessor(), **options).to(dtype).eval()
    x = torch.randn(2, 5, 8, dtype=dtype)
    mask = torch.where(torch.rand(2, 1, 5) > 0.5, 0.0, -10000.0).to(dtype) if masked else None
    captured, tensors, targets = parity.optimised(attention, x, None, mask)
    assert targets.count(aten.scaled_dot_product_attention.default) == 1
    assert not {aten.empty.memory_format, aten.baddbmm.default, aten.softmax.int} & set(targets)
    with torch.no_grad():
        expected = attention(x, None, mask)
    got = parity.computed(captured, tensors)
    assert parity.relative_error(got, expected) < (1e-5 if dtype is torch.float32 else 3e-3)


class Kept(torch.nn.Module):
    """What must not be fused: the function's own result."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, q, k, v):
        return self.function(q, k, v)


def scores(q, k, beta=0):
    return torch.baddbmm(torch.ones(q.shape[0], q.shape[1], k.shape[1]), q, k.mT, beta=beta, alpha=0.5)


KEPT = {
    "probabilities are returned": lambda q, k, v: (p := scores(q, k).softmax(-1), p @ v),
    "scores are read": lambda q, k, v: (s := scores(q, k), s.softmax(-1) @ v),
    "another axis": lambda q, k, v: (scores(q, k).softmax(1) @ v,),
    "half a mask": lambda q, k, v: (scores(q, k, 0.5).softmax(-1) @ v,),
    "broadcast": lambda q, k, v: (scores(q, k).softmax(-1) @ v[0],),
}


@pytest.mark.parametrize("case", KEPT)
def test_not_attention(case):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, 5, generator=generator) for _ in range(3))
    captured, tensors, targets = parity.optimised(Kept(KEPT[case]), q, k, v)
    assert aten.softmax.int in targets and aten.scaled_dot_product_attention.default not in targets
    assert parity.relative_error(parity.computed(captured, tensors), KEPT[case](q, k, v)[0]) < 1e-5


@pytest.mark.parametrize("processor", [AttnProcessor(), SlicedAttnProcessor(3)])
def test_scores_too_large_to_keep(monkeypatch, processor):
    """Upstream's empty matrix of scores was evaluated as a constant, and had no lowering where that was too large."""
    monkeypatch.setattr(fold_constants, "LIMIT", 64)
    torch.manual_seed(0)
    attention = Attention(query_dim=8, heads=2, dim_head=4, processor=processor).eval()
    engine = plugins.registry().backend("mindspore").build(Options(strict=True))
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        got = engine.component(Site("attention", attention))(attention.forward, (x,), {})
        assert parity.relative_error(got, attention(x)) < 1e-5
