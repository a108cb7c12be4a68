"""T2I-Adapters, one and several, SD and SDXL, against torch."""

import models
import models_xl
import numpy as np
import parity
import pytest
import torch

KINDS = ["full_adapter", "light_adapter", "several", "xl"]
# As in SD 1.5: upstream adds a residual to a DownBlock2D after its downsampling, which then must be the last block.
BLOCKS = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
              up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))  # fmt: skip


def adapter(seed, kind="full_adapter"):
    from diffusers import T2IAdapter

    torch.manual_seed(seed)
    factor = 4 if kind == "full_adapter_xl" else 2
    net = T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=factor, adapter_type=kind)
    return net.eval()


def pipeline(kind):
    import diffusers

    pipe = models_xl.pipeline() if kind == "xl" else models.pipeline(unet=models.unet(**BLOCKS))
    parts = {k: v for k, v in pipe.components.items() if k not in ("controlnet", "image_encoder")}
    if kind == "xl":
        made = diffusers.StableDiffusionXLAdapterPipeline(**parts, adapter=adapter(1, "full_adapter_xl"))
    else:
        adapters = [adapter(1), adapter(2)] if kind == "several" else adapter(1, kind)
        made = diffusers.StableDiffusionAdapterPipeline(**parts, adapter=adapters, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline(clean, kind):
    pipe = pipeline(kind)
    several = kind == "several"

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
