"""Shadow runs and bisection on MindSpore: a lowering that is wrong on purpose is named."""

import models
import pytest
import sides
import torch

from ms_controlnet_backend import compare, plugins
from ms_controlnet_backend.hookspecs import Pass, hookimpl

aten = torch.ops.aten
ONE_STEP = dict(num_inference_steps=1, guidance_scale=0.0)


@pytest.fixture(autouse=True)
def _clean(clean):
    """Engines with none of the wrong graphs."""


def run(**kwargs):
    pipe = models.pipeline()
    return compare(pipe, repeats=0, bisect=True, progress=False, **models.call_kwargs(**ONE_STEP) | kwargs)


@pytest.mark.parametrize("op, component, module", [
    (aten.silu.default, "controlnet", "time_embedding.act"),
    (aten.upsample_nearest2d.vec, "unet", "up_blocks.0.upsamplers.0"),
])  # fmt: skip
def test_a_wrong_lowering_is_named(op, component, module):
    with sides.wrong_lowering(op, lambda b, out: b.mul(out, 1.05)):
        report = run()
    assert not report.ok
    call = report.calls[0]
    assert call.first_difference.place.component == component
    assert call.bisect.first is not None, str(report)
    assert call.bisect.first.overload == str(op)
    assert call.bisect.first.module == module
    assert call.bisect.first.distance.relative_rms == pytest.approx(0.05, rel=1e-3)
    assert call.bisect.compared >= 1 and not call.bisect.refused
    assert str(op) in str(report) and f"first that differs: {component}" in str(report)
    entry = report.to_dict()["calls"][0]["bisect"]
    assert entry["first"]["overload"] == str(op) and entry["first"]["schema"].startswith(str(op))


def test_a_wrong_lowering_of_the_reference_is_named_too():
    with sides.wrong_lowering(aten.silu.default, lambda b, out: b.mul(out, 1.05)):
        report = run(backends=("mindspore", "torch"))
    assert report.calls[0].bisect.first.overload == "aten.silu.default", str(report)


def test_a_wrong_output_of_several_is_named(monkeypatch):
    """The second half of a chunk (GEGLU's gate, where it is one)."""
    monkeypatch.setenv("MS_CONTROLNET_WITHOUT", "split_geglu")
    op = aten.chunk.default
    with sides.wrong_lowering(op, lambda b, out: [out[0], b.mul(out[1], 1.05)]):
        report = run()
    first = report.calls[0].bisect.first
    assert (first.overload, first.output) == (str(op), 1)


def test_a_pass_that_changes_the_graph_is_told_from_a_lowering():
    def wrong(graph_module):
        for node in list(graph_module.graph.nodes):
            if node.target is aten.silu.default:
                with graph_module.graph.inserting_after(node):
                    scaled = graph_module.graph.call_function(aten.mul.Tensor, (node, 1.05))
                scaled.meta.update(node.meta)
                node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)

    class Plugin:
        @hookimpl
        def register_passes(self):
            return [Pass("wrong", wrong)]

    plugin = Plugin()
    plugins.manager().register(plugin)
    try:
        report = run()
    finally:
        plugins.manager().unregister(plugin)
    assert report.calls[0].bisect.conclusion == "the graph passes change what the graph computes"


def test_an_error_around_the_operators_is_not_blamed_on_one():
    """A weight bent by the engine itself: every operator alone is right."""
    with sides.backend("bent", sides.bent("unet", "conv_in.weight")):
        report = run(backends=("torch", "bent"))
    call = report.calls[0]
    assert call.first_difference.place.component == "unet" and call.bisect.first is None
    assert call.bisect.compared > 100 and "no single operator is beyond tolerance" in call.bisect.conclusion


def test_an_engine_without_evaluate_says_so(monkeypatch):
    with sides.backend("bent", sides.bent("unet", "conv_in.weight")):
        monkeypatch.setattr(sides.Handled, "__getattribute__", _without_evaluate)
        report = run(backends=("torch", "bent"))
    assert "torch, tampered with cannot run single operators" in str(report)


def _without_evaluate(self, name):
    if name == "evaluate":
        raise AttributeError(name)
    return object.__getattribute__(self, name)
