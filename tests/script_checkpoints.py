"""A folder as a user's scripts expect it: checkpoints below ``tiny/`` under hub-like names, control pictures below
``pictures/``. The weights are those of models.py and models_xl.py."""

from __future__ import annotations

import copy
from pathlib import Path

import diffusers
import models
import models_xl
import original_format
import test_ip_adapter
import test_t2i_adapter
import torch
import upstream
from safetensors.torch import save_file
from test_loaders import LINEAR, peft, write_lora

NETS = {
    "controlnet-canny": lambda: models.controlnet(10),
    "controlnet-depth": lambda: models.controlnet(20),
    "controlnet-canny-sdxl": lambda: models_xl.controlnet(10),
    "controlnet-depth-sdxl": lambda: models_xl.controlnet(20),
    "controlnet-union-sdxl": lambda: models_xl.union(50),
    "t2iadapter-canny": lambda: test_t2i_adapter.adapter(1),
    "t2iadapter-depth": lambda: test_t2i_adapter.adapter(2),
    "t2iadapter-canny-sdxl": lambda: test_t2i_adapter.adapter(1, "full_adapter_xl"),
    "sdxl-vae-fp16-fix": lambda: models.vae(25),
}


def write(folder: Path) -> Path:
    tiny, pictures = folder / "tiny", folder / "pictures"
    sd, xl = _without_net(models.pipeline(checker=True)), _without_net(models_xl.pipeline())
    nine, cross_first = models.unet(5, in_channels=9), models.unet(**test_t2i_adapter.SD_BLOCKS)
    _write(diffusers.StableDiffusionPipeline(**sd), tiny / "stable-diffusion-v1-5")
    _write(diffusers.StableDiffusionPipeline(**sd | {"unet": cross_first}), tiny / "stable-diffusion-v1-4")
    _write(diffusers.StableDiffusionInpaintPipeline(**sd | {"unet": nine}), tiny / "stable-diffusion-inpainting")
    _write(diffusers.StableDiffusionXLPipeline(**xl), tiny / "stable-diffusion-xl-base-1.0")
    for name, make in NETS.items():
        if "union" not in name or upstream.has("diffusers.ControlNetUnionModel"):
            _write(make(), tiny / name)
    if upstream.has("peft.LoraConfig"):
        _write_loras(tiny)
    _write_ip_adapter(tiny / "ip-adapter" / "models", models.unet(), "ip-adapter_sd15.bin")
    _write_ip_adapter(tiny / "ip-adapter" / "sdxl_models", models_xl.unet(), "ip-adapter_sdxl.bin")
    _write_single_files(tiny / "single-file")
    vector = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    (tiny / "cat-toy").mkdir()
    save_file({"<cat-toy>": vector}, tiny / "cat-toy" / "learned_embeds.safetensors")
    pictures.mkdir()
    for seed, name in enumerate(("canny", "depth", "style", "house")):
        models.picture(seed + 1).save(pictures / f"{name}.png")
    models.mask().save(pictures / "mask.png")
    return folder


def _write_loras(tiny: Path) -> None:
    for seed, name in enumerate(("lcm-lora-sdv1-5", "ink-lora", "clay-lora")):
        write_lora(tiny / name, 10 * seed)
    for seed, name in enumerate(("lcm-lora-sdxl", "pixel-lora-sdxl")):
        weights, _ = peft(models_xl.unet(), 100 + seed, LINEAR)
        diffusers.StableDiffusionXLPipeline.save_lora_weights(tiny / name, unet_lora_layers=weights)


def _without_net(pipe) -> dict:
    return {k: v for k, v in pipe.components.items() if k != "controlnet"}


def _write(model, folder: Path) -> None:
    """In float32, and as the variant "fp16", which comes first: the dtype in a configuration file is the last one's."""
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder, variant="fp16")
    model.save_pretrained(folder)


def _write_ip_adapter(folder: Path, unet, file: str) -> None:
    test_ip_adapter.image_encoder().save_pretrained(folder / "image_encoder")
    torch.save(test_ip_adapter.state_dict(unet), folder / file)


def _write_single_files(folder: Path) -> None:
    """Original-format checkpoints, ControlNet and UNet + VAE; the rest is taken from the pipeline's folder."""
    folder.mkdir()
    sd = models.pipeline()
    both = original_format.denoiser(sd.unet, "model.diffusion_model.") | original_format.vae(sd.vae)
    save_file({k: t.contiguous() for k, t in both.items()}, folder / "v1-5-pruned.safetensors")
    save_file(original_format.denoiser(sd.controlnet, "control_model."), folder / "control_sd15_canny.safetensors")
