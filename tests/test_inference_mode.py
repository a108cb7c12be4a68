"""Pipelines built or run under ``torch.inference_mode()``: their parameters and results have no version counter."""

import models
import numpy as np
import parity
import pytest
import torch
from ms_controlnet_backend.compat import mindspore_runtime

from ms_controlnet_backend.runtime.identity import identities, identity
from ms_controlnet_backend.runtime.released import ReleasedWeight
from ms_controlnet_backend.runtime.resident import ResidentTensor
from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.runtime.weights import WeightStore

KINDS = [torch.float32, torch.float16]
LATENTS = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))
CONTROL = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def build(inside: bool, dtype):
    """(a pipeline, its twin on torch)"""
    with torch.inference_mode(inside):
        pipes = models.pipeline().to(dtype), models.pipeline().to(dtype)
    assert all(p.is_inference() == inside for pipe in pipes for p in pipe.unet.parameters())
    return pipes


def same(pipe, twin, inside: bool, dtype) -> np.ndarray:
    """torch's picture, which the pipeline draws too."""
    with torch.inference_mode(inside):
        expected, got = (p(**models.call_kwargs()).images for p in (twin, pipe))
    assert np.abs(got - expected).max() < (1e-4 if dtype is torch.float32 else 2e-2)
    return expected


def call(module, inside: bool, *more, inputs=(LATENTS, TEXT)):
    with torch.inference_mode(inside), torch.no_grad():
        return module(inputs[0], 7, inputs[1], *more, return_dict=False)


def places(pipe) -> list:
    modules = [m for c in (pipe.unet, pipe.controlnet, pipe.vae, pipe.text_encoder) for m in c.modules()]
    return [t for m in modules for table in (m._parameters, m._buffers) for t in table.values()]


@pytest.mark.parametrize("inside, dtype", [(True, torch.float16), (False, torch.float32)])
def test_built_and_called(clean, inside, dtype):
    pipe, twin = build(inside, dtype)
    before = places(pipe)
    clean.enable(pipe, strict=True)
    for called_inside in (True, False, True):
        same(pipe, twin, called_inside, dtype)
    stats = clean.stats()
    assert {s.compiles for s in stats.values()} == {1} and {s.fallbacks for s in stats.values()} == {0}
    clean.disable()
    assert all(a is b for a, b in zip(before, places(pipe), strict=True))
    same(pipe, twin, True, dtype)


def halve(unet):
    unet.conv_out.weight.mul_(0.5)


def copy_other(unet):
    """Of a weight that is used once a run."""
    weight = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_v.weight
    weight.copy_(torch.linspace(-90, 90, weight.numel()).reshape(weight.shape))


def load(unet):
    unet.load_state_dict({k: v * 0.75 for k, v in unet.state_dict().items()})


def one_element(unet):
    """Of a weight of the steps; none of the sample."""
    unet.conv_out.weight[1, 0, 1, 1] += 5


class Pair:
    """A UNet in a pipeline that is enabled, and its twin on torch."""

    def __init__(self, clean, inside: bool, dtype, **options):
        with torch.inference_mode(inside):
            self.unet, self.twin = (models.unet().to(dtype) for _ in range(2))
        self.inputs, self.seen = [t.to(dtype) for t in (LATENTS, TEXT)], []
        clean.enable(models.pipeline(unet=self.unet), strict=True, **options)

    def each(self, change, inside: bool = True) -> None:
        for unet in (self.unet, self.twin):
            with torch.inference_mode(inside), torch.no_grad():
                change(unet)

    def agree(self, new: bool = True, inside: bool = True) -> None:
        """The UNet returns what torch does, and, if new, other than before."""
        limit = 1e-4 if self.unet.dtype is torch.float32 else 1e-2
        got, expected = (call(u, inside, inputs=self.inputs)[0].float() for u in (self.unet, self.twin))
        assert parity.relative_error(got, expected) < limit
        assert not (new and self.seen) or parity.relative_error(expected, self.seen[-1]) > 3 * limit
        self.seen.append(expected)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("built_inside", [True, False])
def test_changes_in_place(clean, built_inside, dtype):
    pair = Pair(clean, built_inside, dtype)
    pair.agree()
    for change in (halve, copy_other, load, one_element):
        for changed_inside in [True] if built_inside else [True, False]:  # torch allows no other
            pair.each(change, changed_inside)
        if change is one_element:
            pair.inputs[1] = pair.inputs[1].clone()  # another run
        pair.agree()
    assert clean.stats()["unet"].compiles == 1
    clean.disable()
    pair.agree(new=False)


@pytest.mark.parametrize("dtype", KINDS)
def test_lora(clean, dtype):
    from peft import LoraConfig

    pair = Pair(clean, True, dtype)
    pair.agree()

    def add(unet):
        torch.manual_seed(4)
        config = LoraConfig(r=2, lora_alpha=24, target_modules=["to_q", "to_v"], init_lora_weights=False)
        unet.add_adapter(config, "style")
        unet.to(dtype)

    pair.each(add)
    pair.agree()
    pair.each(lambda unet: unet.set_adapters("style", 0.3))
    pair.agree()
    assert clean.stats()["unet"].compiles == 2
    pair.each(lambda unet: unet.fuse_lora(3.0))
    pair.agree()
    pair.each(lambda unet: unet.unfuse_lora())
    pair.agree(new=False)


@pytest.mark.parametrize("inside", [True, False])
def test_results_are_of_torchs_kind(clean, inside):
    """Where torch may write to them, or must not, whenever they come to the host."""
    pipe, twin = build(False, torch.float32)
    clean.enable(pipe, strict=True)
    call(pipe.unet, not inside), call(pipe.controlnet, not inside, CONTROL)  # compiled in the other mode
    got, expected = ([call(p.unet, inside)[0], *call(p.controlnet, inside, CONTROL)[0]] for p in (pipe, twin))
    assert isinstance(got[1], ResidentTensor)
    assert [t.is_inference() for t in got] == [t.is_inference() for t in expected] == [inside] * len(got)
    with torch.inference_mode(not inside), torch.no_grad():
        fetched = got[1].tolist()
    assert np.allclose(fetched, expected[1].tolist(), atol=1e-5)
    for g, e in zip(got, expected):
        if inside:
            for t in (g, e):
                for part in (t, t[0]):
                    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
                        part.mul_(2)
        with torch.inference_mode(inside), torch.no_grad():
            g.mul_(2), e.mul_(2), g[0].add_(1), e[0].add_(1)
        assert parity.relative_error(g + 0, e) < parity.COMPONENT


def test_released_weights(clean):
    pair = Pair(clean, True, torch.float16, release_host_weights=True)
    before = [p.is_inference() for p in pair.unet.parameters()]
    pair.agree(), pair.agree(inside=False, new=False)
    assert any(isinstance(p, ReleasedWeight) for p in pair.unet.parameters())
    assert [p.is_inference() for p in pair.unet.parameters()] == before
    pair.each(halve)
    pair.agree()
    clean.disable()
    assert [p.is_inference() for p in pair.unet.parameters()] == before
    assert all(torch.equal(a, b) for a, b in zip(pair.unet.parameters(), pair.twin.parameters()))


def test_weights_released_in_the_mode_may_be_written_outside_of_it(clean):
    pair = Pair(clean, False, torch.float16, release_host_weights=True)
    pair.agree()
    pair.each(load, inside=False)
    pair.agree()
    with torch.inference_mode():
        clean.disable()
    pair.each(load, inside=False)
    assert all(torch.equal(a, b) for a, b in zip(pair.unet.parameters(), pair.twin.parameters()))


def test_converted_in_the_mode_changed_outside_of_it():
    mindspore_runtime.select_device("cpu")
    t = torch.randn(40, 50).half()
    with torch.inference_mode():
        weight = WeightStore(Target("CPU")).get(t, "w", (40, 50))
    t.mul_(2)
    assert weight.refresh() and torch.equal(weight.host, t.float())


@pytest.mark.parametrize("look", [identity, lambda t: identities([t])])
def test_the_smallest_change_is_seen(look):
    with torch.inference_mode():
        t = torch.full((400, 300), 1e6)
        before = look(t)
        assert look(t) == before
        t[3, 4] += 1
        assert look(t) != before
