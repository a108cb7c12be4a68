"""Hooks of diffusers inside a component must see every call: what they are around runs as Python, the rest in parts."""

import models
import parity
import pytest
import torch

LATENTS = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))


def cast_layers(unet):
    unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)


def broadcast_attention(unet):
    """Of two calls in a row the second uses the attention's output of the first."""
    from diffusers import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    apply_pyramid_attention_broadcast(
        unet,
        PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, spatial_attention_timestep_skip_range=(-1, 1001),
            spatial_attention_block_identifiers=("attentions",), current_timestep_callback=lambda: 500,
        ),
    )  # fmt: skip


@pytest.mark.parametrize("hook", [cast_layers, broadcast_attention], ids=lambda h: h.__name__)
def test_hooks_see_every_call(clean, caplog, hook):
    unet, reference = models.unet(), models.unet()
    pipe = models.pipeline(unet=unet)
    clean.enable(pipe)

    def call(unet, factor):
        with torch.no_grad():
            return unet(LATENTS * factor, 7, TEXT).sample.clone()

    assert parity.relative_error(call(unet, 1), call(reference, 1)) < parity.COMPONENT
    hook(unet), hook(reference)
    for factor in (1.0, 3.0, -1.0):
        assert parity.relative_error(call(unet, factor), call(reference, factor)) < parity.COMPONENT
    stats = clean.stats()["unet"]
    assert (stats.calls, stats.fallbacks) == (4, 0)
    (warning,) = [r.getMessage() for r in caplog.records if "unet runs in" in r.getMessage()]
    assert "a hook must see every call" in warning


def test_hooks_taken_off_again(clean):
    unet, reference = models.unet(), models.unet()
    pipe = models.pipeline(unet=unet)
    clean.enable(pipe)
    from diffusers.hooks import HookRegistry
    from diffusers.hooks.hooks import ModelHook

    HookRegistry.check_if_exists_or_initialize(unet.mid_block).register_hook(ModelHook(), "silent")
    with torch.no_grad():
        unet(LATENTS, 7, TEXT)
        unet.mid_block._diffusers_hook.remove_hook("silent")
        got = unet(LATENTS, 7, TEXT).sample
        expected = reference(LATENTS, 7, TEXT).sample
    assert parity.relative_error(got, expected) < parity.COMPONENT
    stats = clean.stats()["unet"]
    assert (stats.calls, stats.fallbacks, stats.parts) == (2, 0, 0)
