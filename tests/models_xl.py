"""Tiny SDXL pipelines: two text encoders, added conditions, Union ControlNets; the rest as in models.py."""

from __future__ import annotations

import models
import torch

XL = dict(
    attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
    transformer_layers_per_block=(1, 2), cross_attention_dim=32,
)  # fmt: skip
SIZES = 6  # original size, crop, target size; the img2img refiner's aesthetic score makes it 5

KINDS = {
    "txt2img": "StableDiffusionXLControlNetPipeline",
    "img2img": "StableDiffusionXLControlNetImg2ImgPipeline",
    "inpaint": "StableDiffusionXLControlNetInpaintPipeline",
    "union txt2img": "StableDiffusionXLControlNetUnionPipeline",
    "union img2img": "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "union inpaint": "StableDiffusionXLControlNetUnionInpaintPipeline",
}


def config(sizes=SIZES, **kwargs):
    return XL | dict(projection_class_embeddings_input_dim=8 * sizes + 16) | kwargs


def listening(model):
    """A fresh model hardly listens to its added conditions."""
    with torch.no_grad():
        model.add_embedding.linear_1.weight.mul_(4)
        model.add_embedding.linear_2.weight.mul_(4)
    return model


def unet(seed=0, **kwargs):
    return listening(models.unet(seed, **config(**kwargs)))


def controlnet(seed=10, **kwargs):
    return listening(models.controlnet(seed, **config(**kwargs)))


def union(seed=50):
    """A ControlNetUnionModel whose control types, embeddings and pictures all matter."""
    from diffusers import ControlNetUnionModel

    torch.manual_seed(seed)
    net = ControlNetUnionModel(
        block_out_channels=(8, 16), layers_per_block=1, in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=2,
        conditioning_embedding_out_channels=(4, 8), num_control_type=6, num_trans_channel=8, num_trans_head=2,
        num_trans_layer=1, num_proj_channel=8, **config(),
    )  # fmt: skip
    models.randomise(net, seed + 1)
    generator = torch.Generator().manual_seed(seed + 2)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(("controlnet_", "spatial_ch_projs", "task_embedding")):
                p.copy_(torch.randn(p.shape, generator=generator) * (3 if name == "task_embedding" else 0.5))
            if name.startswith("control_add_embedding"):
                p.mul_(4)
    return net


def text_encoder_2(seed=35, hidden_size=16):
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(seed)
    config = models.text_encoder(hidden_size=hidden_size).config
    config.projection_dim = 16
    return CLIPTextModelWithProjection(config).eval()


def pipeline(kind="txt2img", nets=1, **components):
    """A fresh pipeline of the kind, with ``nets`` ControlNets."""
    import diffusers

    make = union if kind.startswith("union") else controlnet
    control = [make(10 * (i + 1)) for i in range(nets)]
    parts = dict(
        unet=unet(), controlnet=control if nets > 1 else control[0], vae=models.vae(),
        text_encoder=models.text_encoder(), text_encoder_2=text_encoder_2(), tokenizer=models.tokenizer(),
        tokenizer_2=models.tokenizer(), scheduler=models.scheduler(),
    )  # fmt: skip
    pipe = getattr(diffusers, KINDS[kind])(**parts | components, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call_kwargs(kind="txt2img", nets=1, **overrides):
    kwargs = models.call_kwargs(kind.removeprefix("union "), nets) | dict(prompt_2="oil on wood")
    if kind.startswith("union"):
        pictures = kwargs.pop("control_image" if "control_image" in kwargs else "image")
        kwargs["image"] = models.picture(7)
        kwargs["control_image"] = [pictures] if nets == 1 else pictures
        kwargs["control_mode"] = [3, 1][:nets]
        if kind == "union txt2img":
            del kwargs["image"]
    return kwargs | overrides
