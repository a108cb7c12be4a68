"""Weights that change after they went up, and those that the device alone has."""

from __future__ import annotations

import models
import pytest
import torch

from ms_controlnet_backend import binding, plugins
from ms_controlnet_backend.ab.metrics import distance
from ms_controlnet_backend.runtime.released import ReleasedWeight

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"


def apart(got, expected):
    return distance(got, expected).relative_rms


def denoiser(tmp_path, **options):
    """(engine, a UNet, a call of it on the device, the same by torch in float32)."""
    engine = binding.build("mindspore", device="ascend", strict=True, cache_dir=str(tmp_path), **options)
    unet = models.unet(attention_head_dim=2).half()  # heads of less than 16: padded
    (site,) = plugins.registry().adapter(unet).sites(unet, "unet")
    component = engine.component(site)
    random = lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(1)).half()  # noqa: E731
    arguments = random(2, 4, 16, 16), 7, random(2, 77, 16)
    kwargs = {"return_dict": False}

    @torch.no_grad()
    def by_torch():
        wide = models.unet(attention_head_dim=2)
        wide.load_state_dict({k: v.float() for k, v in unet.state_dict().items()})
        return wide(arguments[0].float(), 7, arguments[2].float(), **kwargs)[0]

    @torch.no_grad()
    def on_device():
        return component(unet.forward, arguments, kwargs)[0].float()

    return engine, unet, on_device, by_torch


@pytest.mark.parametrize("name", ["to_k.weight", "to_out.0.weight"])
def test_a_weight_that_changes_is_uploaded_alone(clean, npu, tmp_path, name):
    """One of the projections that are one kernel, and one whose input is padded: nothing is captured again."""
    engine, unet, on_device, by_torch = denoiser(tmp_path)
    first = on_device()
    assert apart(first, by_torch()) < 1e-2
    npu.reset()
    assert torch.equal(on_device(), first) and npu.report().up == 0
    weight = unet.get_parameter(f"{LAYER}.{name}")
    with torch.no_grad():
        weight.mul_(-3)
    npu.reset()
    second = on_device()
    found = npu.report()
    assert found.up == 1 and weight.nbytes <= found.up_bytes <= 16 * weight.nbytes  # heads of 1 are padded to 16
    assert apart(second, by_torch()) < 1e-2 < apart(second, first)
    assert engine.stats()["unet"].compiles == 1


def test_released_weights(clean, tmp_path):
    """The device's copies of padded and transposed projections are enough to have torch's back."""
    _, unet, on_device, by_torch = denoiser(tmp_path, release_host_weights=True)
    expected = {k: v.clone() for k, v in unet.state_dict().items()}
    on_device()
    attention = unet.get_submodule(LAYER)
    assert all(isinstance(layer.weight, ReleasedWeight) for layer in (attention.to_q, attention.to_k, attention.to_v))
    assert {k: torch.equal(v, expected[k]) for k, v in unet.state_dict().items()} == dict.fromkeys(expected, True)
    assert apart(on_device(), by_torch()) < 1e-2
