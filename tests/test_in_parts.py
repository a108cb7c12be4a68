"""A UNet that a script changed in a way that no graph can have: the parts that can be compiled are, and the picture is
torch's."""

from __future__ import annotations

import warnings

import models
import numpy as np
import parity
import patches
import pytest
import small_component
import torch
from torch._subclasses.fake_tensor import FakeTensor

from ms_controlnet_backend.runtime import parts

small = small_component.adapter


def draw(pipe):
    return pipe(**models.call_kwargs(num_inference_steps=4)).images


@pytest.fixture(scope="module")
def plain():
    return draw(models.pipeline())


# enabled before or after the script's change: it differs where a forward of the component itself is replaced
ENABLED = [("before", patches.deep_cache), *(("after", patch) for patch in patches.PATCHES)]


@pytest.mark.parametrize("enabled, patch", ENABLED, ids=[f"{when}-{patch.__name__}" for when, patch in ENABLED])
def test_patched(clean, enabled, patch, plain):
    """Two pictures each, since counters and caches go on; and without the change again."""
    reference = models.pipeline()
    patch(reference)
    expected = [draw(reference), draw(reference)]
    pipe = models.pipeline()
    if enabled == "before":
        clean.enable(pipe)
    undo = patch(pipe)
    clean.enable(pipe)
    got = [draw(pipe), draw(pipe)]
    for g, e in zip(got, expected, strict=True):
        assert np.abs(g - e).max() < 1e-5
    stats = clean.stats()["unet"]
    assert stats.fallbacks == 0 and stats.calls == 8 and stats.share > 0.99
    assert (stats.parts > 3) is (patch is not patches.unknown_overload)
    undo()
    assert np.abs(draw(pipe) - plain).max() < 1e-5
    assert clean.stats()["unet"].parts == 0
    clean.disable()
    assert np.abs(draw(pipe) - plain).max() == 0


def test_a_recorder_gets_what_torch_would_give_it(clean):
    reference, pipe = models.pipeline(), models.pipeline()
    clean.enable(pipe)
    kept = {}
    for p in (reference, pipe):
        patches.recording_processor(p)
        draw(p)
        processor = next(iter(p.unet.attn_processors.values()))
        names = {m: name for name, m in p.unet.named_modules()}
        kept[p] = {names[m]: t for m, t in processor.kept.items()}
    assert len(kept[pipe]) == 8 and not any(isinstance(t, FakeTensor) for t in kept[pipe].values())
    for name, t in kept[reference].items():
        assert torch.allclose(kept[pipe][name] + 0, t, atol=1e-5)


def test_strict(clean):
    from ms_controlnet_backend.errors import Refused

    pipe = models.pipeline()
    patches.replaced_forward(pipe)
    clean.enable(pipe, strict=True)
    with pytest.raises(Refused, match=r"foreign code changes a list while it runs \(up_blocks.1\)"):
        draw(pipe)


def test_said_once(clean, caplog, monkeypatch):
    monkeypatch.setattr(parts, "A_RUN", 6)
    caplog.set_level("INFO")
    pipe = models.pipeline()
    patches.replaced_forward(pipe)
    clean.enable(pipe)
    draw(pipe), draw(pipe)
    (said,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "unet" in r.getMessage()]
    assert "parameters compiled: foreign code changes a list while it runs (up_blocks.1)" in said
    (said,) = [r.getMessage() for r in caplog.records if "of its seconds" in r.getMessage()]
    stats = clean.stats()["unet"]
    assert said.startswith(f"unet runs in {stats.parts} parts: ") and said.endswith("after 6 calls")
    assert 0 < stats.share_of_seconds < 1


def test_a_replaced_forward_of_the_component_itself(clean, plain):
    """One that never asks the class's, put on the instance before or after: what it calls is compiled."""
    reference, pipe = models.pipeline(), models.pipeline()

    def patch(pipe):
        upstream, calls = type(pipe.unet).forward, []

        def forward(*args, **kwargs):
            calls.append(1)
            (out,) = upstream(pipe.unet, *args, **kwargs | {"return_dict": False})
            return (out * (1 + 0.01 * len(calls)),)

        pipe.unet.forward = forward

    patch(reference), patch(pipe)
    clean.enable(pipe)
    assert np.abs(draw(pipe) - draw(reference)).max() < 1e-5
    stats = clean.stats()["unet"]
    assert (stats.calls, stats.fallbacks, stats.share) == (4, 0, 1.0)
    del pipe.unet.forward
    assert np.abs(draw(pipe) - plain).max() < 1e-5


def test_parts_are_forgotten_with_the_pipeline(clean):
    import gc
    import weakref

    pipe = models.pipeline()
    patches.hook_on_each_resnet(pipe)
    clean.enable()
    draw(pipe)
    gone = weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert gone() is None


class Branches(small_component.Block):
    """Control flow that torch.export cannot follow."""

    def forward(self, x):
        y = self.inner(x)
        return self.act(y) if y.sum() > 0 else y - 1


class Answer:
    def __init__(self, value):
        self.value = value

    def __add__(self, other):
        return self.value + other


class Structured(small_component.Block):
    """Returns an object that no pytree knows."""

    def forward(self, x):
        return Answer(super().forward(x))


def quantised():
    from torch.ao.quantization import quantize_dynamic

    torch.manual_seed(0)
    return quantize_dynamic(small_component.Block(), {torch.nn.Linear}, dtype=torch.qint8)


BLOCKS = {"control flow": Branches, "structure": Structured, "quantised": quantised}


PARTS = {"control flow": 3, "structure": 0, "quantised": 2}


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_that_no_graph_can_have(clean, kind, small):
    """The other two blocks are compiled, and what that block holds, where it can be; an object that stays inside is
    none of the graph's business."""
    pipe, reference = small_component.pipeline(), small_component.Component()
    for component in (pipe.component, reference):
        torch.manual_seed(1)
        component.block = BLOCKS[kind]().requires_grad_(False)
    clean.enable(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = small_component.calls(reference) + small_component.calls(reference)
        got = small_component.calls(pipe.component) + small_component.calls(pipe.component)
    for g, e in zip(got, expected, strict=True):
        assert parity.relative_error(g, e) < parity.COMPONENT
    stats = clean.stats()["component"]
    assert (stats.calls, stats.fallbacks, stats.parts) == (8, 0, PARTS[kind])
    assert ("component" in stats.left) is bool(PARTS[kind])
