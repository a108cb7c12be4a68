"""The components of Stable Diffusion 1.5 and XL, tiny and at full size, with the arguments of a step in float16."""

from __future__ import annotations

import models
import models_xl
import numpy as np
import test_full_size as full
import torch

TEXT = 77


def half(*shape, seed=0):
    return full.random(*shape, seed=seed).half()


def ids(vocabulary):
    return torch.randint(0, vocabulary, (1, TEXT), generator=torch.Generator().manual_seed(3))


def denoiser(unet, size, width, **kwargs):
    """(component, args, kwargs) of a UNet that takes a ControlNet's residuals. size: of the latents."""
    unet = unet.half()
    down, mid = residuals(unet, size)
    kwargs |= dict(down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False)
    return unet, (half(2, 4, size, size), 500, half(2, TEXT, width, seed=1)), kwargs


def residuals(unet, size):
    """Of the shapes that a ControlNet of the same blocks returns."""
    channels, layers = unet.config.block_out_channels, unet.config.layers_per_block
    shapes, side = [(channels[0], size)], size
    for i, c in enumerate(channels):
        shapes += [(c, side)] * layers
        if i < len(channels) - 1:
            side //= 2
            shapes += [(c, side)]
    made = [half(2, c, side, side, seed=10 + i) * 0.1 for i, (c, side) in enumerate(shapes)]
    return tuple(made), half(2, channels[-1], side, side, seed=9) * 0.1


def net(controlnet, size, width, **kwargs):
    """size: of the latents."""
    picture = half(2, 3, 8 * size, 8 * size, seed=2)
    args = half(2, 4, size, size), 500, half(2, TEXT, width, seed=1), picture, 0.8
    return controlnet.half(), args, kwargs | dict(return_dict=False)


def xl(width=16, sizes=6):
    return dict(added_cond_kwargs={"text_embeds": half(2, width, seed=4), "time_ids": torch.ones(2, sizes).half()})


def tiny_net(make, width, **kwargs):
    """The tiny ControlNet's picture is twice the latents, not eight times."""
    component, args, kwargs = net(make, 16, width, **kwargs)
    return component, (*args[:3], half(2, 3, 32, 32, seed=2), *args[4:]), kwargs


TINY = {
    "unet": lambda: denoiser(models.unet(attention_head_dim=2), 16, 16),  # 8 heads of 2 or 1: all padded
    "controlnet": lambda: tiny_net(models.controlnet(), 16),
    "vae.encoder": lambda: (models.vae().half(), (half(1, 3, 32, 32),), {}),
    "vae.decoder": lambda: (models.vae().half(), (half(1, 4, 16, 16),), {}),
    "text_encoder": lambda: (models.text_encoder().half(), (ids(500),), {}),
    "safety_checker": lambda: (models.safety_checker().half(), (half(1, 3, 32, 32),), {}),
    "xl unet": lambda: denoiser(models_xl.unet(), 16, 32, **xl()),
    "xl controlnet": lambda: tiny_net(models_xl.controlnet(), 32, **xl()),
    "xl text_encoder_2": lambda: (models_xl.text_encoder_2().half(), (ids(500),), {"output_hidden_states": True}),
}

SITES = {"vae.decoder": 1}
"""Which of the adapter's modules, if not the first."""


def empty(make):
    """The component with zeros for weights: what is exported depends on shapes alone, and memory that NumPy gives for
    zeros costs none before it is written to."""
    with torch.device("meta"):
        component = make().half().eval()
    component.to_empty(device="cpu")
    for t in (*component.parameters(), *component.buffers()):
        t.data = torch.from_numpy(np.zeros(t.shape, t.detach().numpy().dtype))
    return component


def sd15_unet():
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768)


def sd15_controlnet():
    from diffusers import ControlNetModel

    return ControlNetModel(cross_attention_dim=768)


XL = dict(
    cross_attention_dim=2048, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), use_linear_projection=True,
    transformer_layers_per_block=(1, 2, 10), addition_embed_type="text_time", addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)  # fmt: skip
"""Of SDXL's UNet and of its ControlNets, full width and depth."""


def sdxl_unet():
    from diffusers import UNet2DConditionModel

    up = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    return UNet2DConditionModel(sample_size=128, up_block_types=up, **XL)


def sdxl_controlnet():
    from diffusers import ControlNetModel

    return ControlNetModel(**XL)


def sdxl_text_encoder_2():
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_attention_heads=20, num_hidden_layers=32,
                       projection_dim=1280, hidden_act="gelu")
    ).eval()  # fmt: skip


FULL = {
    "unet": lambda: denoiser(empty(sd15_unet), 64, 768),
    "controlnet": lambda: net(empty(sd15_controlnet), 64, 768),
    "vae.encoder": lambda: (empty(full.sd15_vae), (half(1, 3, 512, 512),), {}),
    "vae.decoder": lambda: (empty(full.sd15_vae), (half(1, 4, 64, 64),), {}),
    "text_encoder": lambda: (empty(full.sd15_text_encoder), (ids(49000),), {}),
    "xl unet": lambda: denoiser(empty(sdxl_unet), 128, 2048, **xl(1280)),
}
