"""IP-Adapter: loaded into a pipeline that already ran, scaled, and unloaded; each time the same as on torch."""

import tempfile
from pathlib import Path

import models
import numpy as np
import parity
import pytest
import torch
import upstream

import ms_controlnet_backend

PROJECTION = 12


def image_encoder(seed=50):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                              image_size=32, patch_size=8, projection_dim=PROJECTION)  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def state_dict(unet, seed=60, tokens=4):
    """What an IP-Adapter checkpoint holds: a projection of the image, and keys and values a cross-attention."""
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    width = unet.config.cross_attention_dim
    projection = {"proj.weight": random(tokens * width, PROJECTION), "proj.bias": random(tokens * width),
                  "norm.weight": random(width), "norm.bias": random(width)}  # fmt: skip
    attention, number = {}, 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            size = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            attention |= {f"{number}.to_{x}_ip.weight": random(size, width) for x in "kv"}
            number += 2
    return {"image_proj": projection, "ip_adapter": attention}


def load(pipe, *seeds):
    """From files, and lists only of several: all that diffusers 0.25 knows."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{seed}.bin" for seed in seeds]
        for seed, name in zip(seeds, names):
            torch.save(state_dict(pipe.unet, seed), Path(folder, name))
        if len(seeds) == 1:
            pipe.load_ip_adapter(folder, subfolder="", weight_name=names[0])
        else:
            pipe.load_ip_adapter([folder] * len(seeds), subfolder=[""] * len(seeds), weight_name=names)


def compiles():
    return {label: s.compiles for label, s in ms_controlnet_backend.stats().items()}


@pytest.fixture
def pipe(clean):
    pipe = models.pipeline(image_encoder=image_encoder(), feature_extractor=models.feature_extractor())
    clean.enable(pipe, strict=True)
    return pipe


def test_loaded_scaled_and_unloaded(pipe):
    seen = parity.Seen()
    plain, _ = parity.assert_same(pipe, models.call_kwargs)
    seen.new(plain)
    load(pipe, 60)
    with_image = lambda: models.call_kwargs(ip_adapter_image=models.picture(3))  # noqa: E731
    seen.new(parity.assert_same(pipe, with_image)[0])
    assert ms_controlnet_backend.stats()["image_encoder"].calls > 0
    before = compiles()
    for scale in (0.4, 0.0, 2, {"up": 0.8})[: 4 if upstream.at_least("diffusers", "0.28") else 3]:
        pipe.set_ip_adapter_scale(scale)
        if scale == 0.0:
            assert np.abs(parity.assert_same(pipe, with_image)[0] - plain).max() < 1 / 255
        else:
            seen.new(parity.assert_same(pipe, with_image)[0])
    if upstream.at_least("diffusers", "0.27"):
        embeds = torch.randn(2, 1, PROJECTION, generator=torch.Generator().manual_seed(9))
        seen.new(parity.assert_same(pipe, lambda: models.call_kwargs(ip_adapter_image_embeds=[embeds.clone()]))[0])
    assert compiles() == before
    if not hasattr(pipe, "unload_ip_adapter"):  # before diffusers 0.26
        return
    pipe.unload_ip_adapter()
    # 0.27 puts back another processor of the same attention
    assert np.abs(parity.assert_same(pipe, models.call_kwargs)[0] - plain).max() <= (
        0 if upstream.at_least("diffusers", "0.28") else 1e-5
    )


def test_two_adapters_with_masks(pipe):
    """One image each, and an image of which only a part counts."""
    upstream.needs(upstream.at_least("diffusers", "0.28"), "diffusers", "several IP-Adapters with masks")
    load(pipe, 60, 61)
    embeds = [torch.randn(2, 1, PROJECTION, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    masks = [torch.zeros(1, 1, models.SIZE, models.SIZE) for _ in embeds]
    masks[0][..., : models.SIZE // 2], masks[1][..., models.SIZE // 2 :] = 1.0, 1.0
    seen = parity.Seen()

    def with_embeds(**kwargs):
        return lambda: models.call_kwargs(ip_adapter_image_embeds=embeds, **kwargs)

    masked = dict(cross_attention_kwargs={"ip_adapter_masks": masks})
    for make in (with_embeds(), with_embeds(**masked)):
        for scale in ([1.0, 0.5], [0.2, 0.7], [0.0, 1.0]):
            pipe.set_ip_adapter_scale(scale)
            seen.new(parity.assert_same(pipe, make)[0])
    assert compiles()["unet"] == 2
    pipe.set_ip_adapter_scale([[0.3], [0.9]])  # a scale a mask is a list: baked in, and captured again
    for i in range(2):
        seen.new(parity.assert_same(pipe, with_embeds(**masked))[0])
        pipe.set_ip_adapter_scale([[0.9], [0.1]])
    assert compiles()["unet"] == 4
