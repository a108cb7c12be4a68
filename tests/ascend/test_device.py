"""Whole pipelines in float16 on an emulated NPU: the picture, what crosses in a step, weights that change."""

import models
import pytest
import torch
from ascend.device import Device, engine

from ms_controlnet_backend import binding, plugins
from ms_controlnet_backend.runtime.released import ReleasedWeight

STEPS = 3
RESIDUALS = 5
LATENTS = 2 * 4 * 32 * 32 * 2  # bytes: guidance, float16
LAUNCHES = {1: ["controlnet", "unet"],
            2: ["controlnet.nets.0", "controlnet.nets.1", *["add.Tensor"] * RESIDUALS, "unet"]}  # fmt: skip
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture
def device():
    return Device()


def half(kind="txt2img", nets=1):
    return models.pipeline(kind, nets).to(torch.float16)


def run(pipe, watch=None, **kwargs):
    def keep(pipeline, step, timestep, tensors):
        if watch:
            watch(step)
        return tensors

    call = models.call_kwargs(num_inference_steps=STEPS, output_type="latent", callback_on_step_end=keep, **kwargs)
    return pipe(**call).images.float()


def apart(got, expected):
    return ((got - expected).square().mean().sqrt() / expected.square().mean().sqrt()).item()


def reference(pipe, **kwargs):
    """torch, in float32, with the same float16 weights."""
    wide = {name: part.float() for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    try:
        return run(pipe, **kwargs)
    finally:
        for part in wide.values():
            part.half()


@pytest.mark.parametrize("nets", [1, 2])
def test_a_step_copies_three_tensors_at_most(device, clean, monkeypatch, tmp_path, nets):
    """The latents and the time step go up, the prediction comes down, which is all that the host waits for; no weight
    and nothing of what passes from the ControlNets to the UNet is copied."""
    pipe, seen = half(nets=nets), []
    expected = reference(pipe, nets=nets)

    def watch(step):
        seen.append((list(device.uploads), list(device.reads), list(device.weights), list(device.launches)))
        device.clear()

    emulated = engine(device, monkeypatch, tmp_path)
    with binding.on(emulated):
        got = run(pipe, watch, nets=nets)
    assert apart(got, expected) < 2e-2 and all(s.fallbacks == 0 for s in emulated.stats().values())
    for uploads, reads, weights, launches in seen[1:]:
        assert len(uploads) <= 2 and len(reads) == 1 and weights == []
        assert sorted(uploads)[-1] == reads[0] == LATENTS and sum(uploads) <= LATENTS + 8
        assert launches == LAUNCHES[nets]
    assert any("down" in name for name in seen[0][2]) and seen[0][1]


def denoiser(emulated):
    """(a UNet, a call of it on the device, the same by torch in float32)."""
    unet = models.unet().half()
    (site,) = plugins.registry().adapter(unet).sites(unet, "unet")
    component = emulated.component(site)
    random = lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(1)).half()  # noqa: E731
    arguments = random(2, 4, 16, 16), 7, random(2, 77, 16)
    kwargs = {"return_dict": False}

    @torch.no_grad()
    def by_torch():
        wide = models.unet()
        wide.load_state_dict({k: v.float() for k, v in unet.state_dict().items()})
        return wide(arguments[0].float(), 7, arguments[2].float(), **kwargs)[0]

    @torch.no_grad()
    def on_device():
        return component(unet.forward, arguments, kwargs)[0].float()

    return unet, on_device, by_torch


@pytest.mark.parametrize("name", ["to_k.weight", "to_out.0.weight"])
def test_a_weight_that_changes_is_uploaded_alone(device, clean, monkeypatch, tmp_path, name):
    """One of the projections that are one kernel, and one whose input is padded: nothing is captured again."""
    emulated = engine(device, monkeypatch, tmp_path)
    unet, on_device, by_torch = denoiser(emulated)
    first = on_device()
    assert apart(first, by_torch()) < 1e-2
    device.clear()
    assert torch.equal(on_device(), first) and device.weights == [] and device.launches == ["unet"]
    with torch.no_grad():
        unet.get_parameter(f"{LAYER}.{name}").mul_(-3)
    device.clear()
    second = on_device()
    assert [w.split(".")[0] for w in device.weights] == [f"{LAYER}.{name}".replace(".", "_")]
    assert apart(second, by_torch()) < 1e-2 < apart(second, first)
    assert emulated.stats()["unet"].compiles == 1


def test_released_weights(device, clean, monkeypatch, tmp_path):
    """The device's copies of padded and transposed projections are enough to have torch's back."""
    emulated = engine(device, monkeypatch, tmp_path, release_host_weights=True)
    unet, on_device, by_torch = denoiser(emulated)
    expected = {k: v.clone() for k, v in unet.state_dict().items()}
    on_device()
    attention = unet.get_submodule(LAYER)
    assert all(isinstance(layer.weight, ReleasedWeight) for layer in (attention.to_q, attention.to_k, attention.to_v))
    assert {k: torch.equal(v, expected[k]) for k, v in unet.state_dict().items()} == dict.fromkeys(expected, True)
    assert apart(on_device(), by_torch()) < 1e-2
