"""Every built-in lowering against torch, on the samples declared beside it."""

import pytest
import torch
from ms_controlnet_backend.compat import mindspore_runtime

from ms_controlnet_backend import codegen, plugins
from ms_controlnet_backend.lowering.samples import T
from ms_controlnet_backend.lowering.trial import trial
from ms_controlnet_backend.runtime import executable
from ms_controlnet_backend.runtime.source_cache import SourceCache
from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.runtime.transfers import Transfers
from ms_controlnet_backend.runtime.weights import WeightStore

BUILT_IN = [w for w in plugins.registry().lowerings.values() if w.target in (None, "CPU")]
CASES = [pytest.param(w, s, id=f"{w.op}-{i}".replace("aten.", "")) for w in BUILT_IN for i, s in enumerate(w.samples)]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    mindspore_runtime.select_device("cpu")
    return SourceCache(tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("lowering, sample", CASES)
def test_equals_torch(lowering, sample, cache, monkeypatch):
    monkeypatch.setattr("ms_controlnet_backend.passes.run", lambda captured, passes, cut=False: None)
    target = Target("CPU")
    captured, tensors, expected = trial(
        lowering.op, sample.args, sample.kwargs, torch.Generator().manual_seed(0)
    )
    _, got = executable.build(captured, tensors, plugins.registry(), Transfers(target), WeightStore(target), cache)
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert g.shape == e.shape and g.dtype == e.dtype
        torch.testing.assert_close(g, e, rtol=1e-5, atol=2e-6)


def test_every_lowering_has_a_sample():
    assert not [str(w.op) for w in BUILT_IN if not w.samples]


def test_generated_source_is_readable_and_deterministic(cache):
    sample = (T((2, 3, 4)), T((6, 4), weight=True), T((6,), weight=True))
    sources = []
    for _ in range(2):
        captured, _, _ = trial(torch.ops.aten.linear.default, sample, {}, torch.Generator().manual_seed(0))
        from ms_controlnet_backend.lowering.lower import lower

        program = lower(captured, plugins.registry(), "CPU", Target("CPU").compute_dtype)
        sources.append(codegen.generate("linear", Graph=program))
    assert sources[0] == sources[1]
    assert "MatMul(transpose_b=True)" in sources[0] and "# aten.linear.default" in sources[0]


@pytest.mark.parametrize("stride, padding, dilation", [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 0, 1)])
def test_convolution_in_bands(cache, monkeypatch, stride, padding, dilation):
    """A convolution too large for one column matrix is done in bands of rows: the same result."""
    from ms_controlnet_backend.lowering import conv, cost

    monkeypatch.setattr("ms_controlnet_backend.passes.run", lambda captured, passes, cut=False: None)
    monkeypatch.setattr(cost.Kept, "cheapest", lambda self, plans, _: next(p for p in plans if p.name == "im2col"))
    monkeypatch.setattr(conv, "COLUMN_BYTES", 3 * 3 * 9 * 4 * 10)
    args = (
        T((2, 3, 17, 10)),
        T((5, 3, 3, 3), weight=True),
        T((5,), weight=True),
        [stride] * 2,
        [padding] * 2,
        [dilation] * 2,
    )
    op, target = torch.ops.aten.conv2d.default, Target("CPU")
    captured, tensors, expected = trial(op, args, {}, torch.Generator().manual_seed(0))
    graph, got = executable.build(captured, tensors, plugins.registry(), Transfers(target), WeightStore(target), cache)
    assert open(graph.event.source).read().count("= Im2Col") > 2
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=2e-6)


def test_attention_in_blocks(cache, monkeypatch):
    from ms_controlnet_backend.lowering import attention

    monkeypatch.setattr("ms_controlnet_backend.passes.run", lambda captured, passes, cut=False: None)
    monkeypatch.setattr(attention, "SCORE_BYTES", 2 * 3 * 7 * 4 * 2)
    args = (T((2, 3, 5, 4)), T((2, 3, 7, 4)), T((2, 3, 7, 4)), T((5, 7)))
    op, target = torch.ops.aten.scaled_dot_product_attention.default, Target("CPU")
    captured, tensors, expected = trial(op, args, {}, torch.Generator().manual_seed(0))
    graph, got = executable.build(captured, tensors, plugins.registry(), Transfers(target), WeightStore(target), cache)
    assert open(graph.event.source).read().count("= Softmax(") == 3
    torch.testing.assert_close(got[0], expected[0], rtol=1e-5, atol=2e-6)
