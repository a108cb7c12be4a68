"""Tiny pipelines with random weights, zero-convolutions included: fresh ones would be exactly zero and hide errors."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import PIL.Image
import torch

SIZE = 64
ZERO_CONVOLUTION = 1.0


def randomise(module, seed: int, scale: float = 0.05):
    """Non-zero weights wherever a fresh module has zeros (zero-convolutions, biases)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            if not p.any():
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
    return module.eval()


def unet(seed=0, in_channels=4, **kwargs):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    config = dict(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=SIZE // 2, in_channels=in_channels, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, norm_num_groups=2, attention_head_dim=4,
    )  # fmt: skip
    unet = randomise(UNet2DConditionModel(**config | kwargs), seed + 1)
    with torch.no_grad():  # a fresh UNet hardly listens to its text, and its output hardly moves the latents
        unet.conv_out.weight.mul_(10)
        for name, module in unet.named_modules():
            if name.endswith("to_out.0"):
                module.weight.mul_(6)
    return unet


def controlnet(seed=10, **kwargs):
    from diffusers import ControlNetModel

    torch.manual_seed(seed)
    config = dict(
        block_out_channels=(8, 16), layers_per_block=1, in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=16, norm_num_groups=2,
        attention_head_dim=4, conditioning_embedding_out_channels=(4, 8),
    )  # fmt: skip
    net = randomise(ControlNetModel(**config | kwargs), seed + 1)
    generator = torch.Generator().manual_seed(seed + 2)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.startswith(
                ("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")
            ):
                p.copy_(torch.randn(p.shape, generator=generator) * ZERO_CONVOLUTION)
    return net


def vae(seed=20):
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    model = AutoencoderKL(
        block_out_channels=[8, 16], in_channels=3, out_channels=3, down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=4, norm_num_groups=2,
    )  # fmt: skip
    with torch.no_grad():
        model.encoder.conv_out.weight.mul_(8)  # a fresh encoder's latents drown in the noise added to them
    return randomise(model, seed + 1)


def text_encoder(seed=30, vocabulary=None, hidden_size=16):
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    size = vocabulary or len(tokenizer())
    config = CLIPTextConfig(
        bos_token_id=size - 2, eos_token_id=size - 1, hidden_size=hidden_size, intermediate_size=24,
        num_attention_heads=4, num_hidden_layers=3, pad_token_id=size - 1, vocab_size=size,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


@functools.cache
def tokenizer():
    """A byte-level CLIP tokenizer without merges: every character is a token, no vocabulary to download."""
    import json
    import tempfile

    from transformers import CLIPTokenizer

    # The 256 printable code points that byte-level BPE maps bytes to (Radford et al., GPT-2).
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(c) for c in printable + [256 + i for i in range(256 - len(printable))]]
    tokens = characters + [c + "</w>" for c in characters] + ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary, merges = pathlib.Path(folder, "vocab.json"), pathlib.Path(folder, "merges.txt")
        vocabulary.write_text(json.dumps({t: i for i, t in enumerate(tokens)}), encoding="utf-8")
        merges.write_text("#version: 0.2\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=77)


def safety_checker(seed=40):
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig

    torch.manual_seed(seed)
    vision = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, image_size=32,
                  patch_size=8)  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=16))
    with torch.no_grad():
        checker.concept_embeds.normal_()
        checker.special_care_embeds.normal_()
        checker.concept_embeds_weights.fill_(0.9)
        checker.special_care_embeds_weights.fill_(0.9)
    return checker.eval()


def scheduler():
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
                         set_alpha_to_one=False)  # fmt: skip


KINDS = {
    "txt2img": "StableDiffusionControlNetPipeline",
    "img2img": "StableDiffusionControlNetImg2ImgPipeline",
    "inpaint": "StableDiffusionControlNetInpaintPipeline",
}


def pipeline(kind="txt2img", nets=1, checker=False, **components):
    """A fresh pipeline of the kind, with ``nets`` ControlNets."""
    import diffusers

    control = [controlnet(10 * (i + 1)) for i in range(nets)]
    parts = dict(
        unet=unet(), controlnet=control if nets > 1 else control[0], vae=vae(), text_encoder=text_encoder(),
        tokenizer=tokenizer(), scheduler=scheduler(), safety_checker=safety_checker() if checker else None,
        feature_extractor=feature_extractor() if checker else None,
    )  # fmt: skip
    pipe = getattr(diffusers, KINDS[kind])(**parts | components, requires_safety_checker=checker)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def feature_extractor():
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def picture(seed=0, size=SIZE):
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def mask(size=SIZE):
    m = np.zeros((size, size), np.uint8)
    m[size // 4 : size // 2, size // 4 :] = 255
    return PIL.Image.fromarray(m)


def call_kwargs(kind="txt2img", nets=1, **overrides):
    """Arguments of a call, 4 steps or more, a mask that is not empty."""
    control = picture(1) if nets == 1 else [picture(i + 1) for i in range(nets)]
    kwargs = dict(prompt="a red house", negative_prompt="blurry", num_inference_steps=4, guidance_scale=5.0,
                  generator=torch.Generator().manual_seed(0), output_type="np")  # fmt: skip
    if kind == "txt2img":
        kwargs |= dict(image=control, height=SIZE, width=SIZE)
    else:
        kwargs |= dict(image=picture(7), control_image=control, strength=1.0, num_inference_steps=4)
    if kind == "inpaint":
        kwargs |= dict(mask_image=mask(), height=SIZE, width=SIZE)
    return kwargs | overrides
