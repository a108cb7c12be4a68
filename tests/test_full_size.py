"""Stable Diffusion 1.5 at full size (random weights, 256 px, float32), component by component against torch.

``pytest tests/test_full_size.py -s`` prints errors and times.
"""

import gc
import time

import models
import parity
import pytest
import torch

import ms_controlnet_backend

pytestmark = pytest.mark.slow

BLOCKS = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")


def sd15_unet():
    from diffusers import UNet2DConditionModel

    return models.randomise(UNet2DConditionModel(sample_size=64, cross_attention_dim=768), 1, 0.02)


def sd15_controlnet():
    from diffusers import ControlNetModel

    return models.randomise(ControlNetModel(cross_attention_dim=768), 2, 0.05)


def sd15_vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, sample_size=512,
    ).eval()  # fmt: skip


def sd15_text_encoder():
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=12)
    ).eval()


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


CASES = {
    "unet": (sd15_unet, lambda m: (m, (random(2, 4, 32, 32), 500, random(2, 77, 768, seed=1)))),
    "controlnet": (
        sd15_controlnet,
        lambda m: (m, (random(2, 4, 32, 32), 500, random(2, 77, 768, seed=1), random(2, 3, 256, 256, seed=2), 0.8)),
    ),
    "vae": (sd15_vae, lambda m: (m.decoder, (random(1, 4, 32, 32),))),
    "text_encoder": (
        sd15_text_encoder,
        lambda m: (m, (torch.randint(0, 49000, (1, 77), generator=torch.Generator().manual_seed(3)),)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sd15(name, clean):
    from diffusers import DiffusionPipeline

    class Holder(DiffusionPipeline):
        def __init__(self, **component):
            super().__init__()
            self.register_modules(**component)

    torch.manual_seed(0)
    build, call = CASES[name]
    component = build()
    pipe = Holder(**{name: component})
    module, args = call(component)
    with torch.no_grad():
        expected = module(*args)
        started = time.perf_counter()
        module(*args)
        torch_s = time.perf_counter() - started
        clean.enable(pipe, strict=True)
        got = module(*args)
        started = time.perf_counter()
        module(*args)
        ms_s = time.perf_counter() - started
    (stats,) = ms_controlnet_backend.stats().values()
    assert stats.calls == 2 and stats.fallbacks == 0
    got, expected = (torch.utils._pytree.tree_leaves(x) for x in (got, expected))
    errors = [parity.relative_error(g, e) for g, e in zip(got, expected, strict=True)]
    print(f"\n{name}: relative error {max(errors):.1e}, torch {torch_s:.2f} s, MindSpore {ms_s:.2f} s, "
          f"first call {stats.compile_seconds:.1f} s")  # fmt: skip
    assert all(e.abs().max() > 1e-2 for e in expected)
    assert max(errors) < parity.COMPONENT
    clean.disable()
    del pipe, component, module, got, expected
    gc.collect()
