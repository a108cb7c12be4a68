"""T2I-Adapters, one and several, SD and SDXL, against torch."""

import models
import models_xl
import numpy as np
import parity
import pytest
import torch

KINDS = ["full_adapter", "light_adapter", "several", "xl", "several xl"]
FACTORS = {"full_adapter_xl": 4}  # its first two features are of one size: that of the tiny UNet's blocks
SD_BLOCKS = dict(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
)  # fmt: skip
"""Blocks in SD's order: the first takes the adapter's feature before it makes the picture smaller."""


def adapter(seed, kind="full_adapter"):
    from diffusers import T2IAdapter

    torch.manual_seed(seed)
    factor = FACTORS.get(kind, 2)
    return T2IAdapter(3, channels=[8, 16], num_res_blocks=1, downscale_factor=factor, adapter_type=kind).eval()


def pipeline(kind):
    import diffusers

    xl, several = kind.endswith("xl"), kind.startswith("several")
    pipe = models_xl.pipeline() if xl else models.pipeline(unet=models.unet(**SD_BLOCKS))
    parts = {k: v for k, v in pipe.components.items() if k not in ("controlnet", "image_encoder")}
    sort = "full_adapter_xl" if xl else "full_adapter" if several else kind
    adapters = [adapter(1, sort), adapter(2, sort)] if several else adapter(1, sort)
    if xl:
        whole = diffusers.MultiAdapter(adapters) if several else adapters  # upstream makes one of a list for SD only
        made = diffusers.StableDiffusionXLAdapterPipeline(**parts, adapter=whole)
    else:
        made = diffusers.StableDiffusionAdapterPipeline(**parts, adapter=adapters, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline(clean, kind):
    pipe = pipeline(kind)
    several = kind.startswith("several")

    def run(scale, seed=1):
        pictures = [models.picture(seed), models.picture(2)] if several else models.picture(seed)
        return pipe("a house", image=pictures, num_inference_steps=4, output_type="np", height=64, width=64,
                    adapter_conditioning_scale=[scale, 0.5] if several else scale,
                    generator=torch.Generator().manual_seed(0)).images  # fmt: skip

    cases = [dict(scale=1.0), dict(scale=0.3), dict(scale=1.0, seed=5)]
    expected = [run(**case) for case in cases]
    clean.enable(pipe, strict=True)
    got = [run(**case) for case in cases]
    for g, e in zip(got, expected):
        assert np.abs(g - e).max() < parity.PIXELS
    assert min(np.abs(expected[0] - e).max() for e in expected[1:]) > parity.PIXELS, "the picture does not matter"
    stats = clean.stats()
    labels = ["adapter.adapters.0", "adapter.adapters.1"] if several else ["adapter"]
    for label in (*labels, "unet"):
        assert stats[label].compiles == 1 and stats[label].fallbacks == 0
    assert all(stats[label].calls == len(cases) for label in labels)


def test_for_the_first_steps_only(clean):
    """SDXL's pipeline gives the UNet no residuals after a part of the steps: one more graph, the same latents."""
    pipe = pipeline("xl")
    factors = (1.0, 0.25, 0.0)

    def run(factor):
        arguments = dict(num_inference_steps=4, output_type="latent", height=64, width=64)
        generator = torch.Generator().manual_seed(0)
        return pipe(
            "a house", image=models.picture(1), adapter_conditioning_factor=factor, generator=generator, **arguments
        ).images

    expected = [run(factor) for factor in factors]
    clean.enable(pipe, strict=True)
    got = [run(factor) for factor in factors]
    assert max(map(parity.relative_error, got, expected)) < parity.COMPONENT
    assert min(parity.relative_error(e, expected[0]) for e in expected[1:]) > 5 * parity.COMPONENT
    assert clean.stats()["unet"].compiles == 2
