"""Text encoder, UNet and two ControlNets, together on the autoencoder's latents.

One pass over the data instead of three: a batch sees no control picture, edges, masks, or both, so the UNet learns to
draw from words alone and each ControlNet learns to steer it, and the two to steer it together.
"""

from __future__ import annotations

import random
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..scenes import caption, draw, edge_map, sample
from .data import CAPTIONS, tokens, unpacked
from .loop import Run
from .parts import CONTROLS, make_controlnet, make_scheduler, make_text_encoder, make_unet
from .portable import make_portable

BATCH = 32
UNNAMED = 0.12
"""of the batch have an empty caption: classifier-free guidance (Ho & Salimans, arXiv:2207.12598)"""
PAIRS = 0.6
"""of the batch show two things, twice their share of the scenes: which colour belongs to which is what takes longest"""
MIXTURE = (((), 0.4), (("edges",), 0.3), (("masks",), 0.15), (("edges", "masks"), 0.15))
"""control pictures of a batch and how often"""
HELD_OUT = 1_000_000
"""seed of the first scene that is never trained on"""


def train(folder: Path, data: dict[str, torch.Tensor], vae, tokenizer, *, steps: int, autocast) -> None:
    """data: as :func:`.data.encoded` gives it. Writes FOLDER/checkpoint."""
    latents = data["latents"]
    vae.register_to_config(scaling_factor=round(float(1 / latents.float().std()), 4))
    torch.manual_seed(1)
    modules = torch.nn.ModuleDict({
        "text_encoder": make_text_encoder(tokenizer), "unet": make_unet(), **{c: make_controlnet() for c in CONTROLS}
    }).to(memory_format=torch.channels_last)  # fmt: skip
    scheduler = make_scheduler()
    drawn_from = [torch.nonzero(data["things"] == count).flatten() for count in (1, 2)]
    shares = torch.tensor([1 - PAIRS, PAIRS]) * torch.tensor([len(scenes) > 0 for scenes in drawn_from])
    empty = torch.tensor(tokens(tokenizer, [""])[0])
    run = Run(folder, "diffusion", modules, steps=steps, rate=1e-3, decay=0.999)

    def losses(step, generator):
        of = torch.multinomial(shares, BATCH, replacement=True, generator=generator)
        which = torch.stack([drawn_from[i][torch.randint(len(drawn_from[i]), (), generator=generator)] for i in of])
        x = latents[which].float() * vae.config.scaling_factor
        noise = torch.randn(x.shape, generator=generator)
        times = torch.randint(scheduler.config.num_train_timesteps, (BATCH,), generator=generator)
        ids = data["ids"][which, torch.randint(CAPTIONS, (BATCH,), generator=generator)].long()
        ids[torch.rand(BATCH, generator=generator) < UNNAMED] = empty
        target = scheduler.get_velocity(x, noise, times)
        noisy = scheduler.add_noise(x, noise, times).contiguous(memory_format=torch.channels_last)
        shown = MIXTURE[int(torch.multinomial(torch.tensor([m[1] for m in MIXTURE]), 1, generator=generator))][0]
        with autocast():
            words = modules["text_encoder"](ids)[0]
            residuals = [
                modules[name](noisy, times, words, unpacked(data[name][which]), return_dict=False) for name in shown
            ]
            down = [sum(parts) for parts in zip(*(r[0] for r in residuals), strict=True)] or None
            middle = sum(r[1] for r in residuals) if residuals else None
            found = modules["unet"](
                noisy, times, words, down_block_additional_residuals=down, mid_block_additional_residual=middle
            ).sample
        return {"+".join(shown) or "words": torch.nn.functional.mse_loss(found.float(), target)}

    def show(step):
        _grid(_pipeline(run.averaged, vae, tokenizer), folder / f"diffusion-{step:05d}.png")

    run.train(losses, show)
    _export(run.averaged, vae, tokenizer, folder / "checkpoint")


def _pipeline(modules, vae, tokenizer):
    from diffusers import StableDiffusionControlNetPipeline

    pipe = StableDiffusionControlNetPipeline(
        vae=vae, text_encoder=modules["text_encoder"], tokenizer=tokenizer, unet=modules["unet"],
        controlnet=modules["edges"], scheduler=make_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _export(modules, vae, tokenizer, folder: Path) -> None:
    """In the diffusers layout, float16: the pipeline without ControlNets, as Stable Diffusion's own checkpoints are, so
    that a script may pass one or several, and these in folders beside it."""
    from diffusers import StableDiffusionPipeline

    halves = torch.nn.ModuleDict({name: deepcopy(module).half() for name, module in modules.items()})
    # transformers loads in the dtype of the file, diffusers in float32: a script without dtype would mix both.
    halves["text_encoder"].float()
    parts = _pipeline(halves, deepcopy(vae).half(), tokenizer).components
    del parts["controlnet"]
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)
    for name, place in zip(CONTROLS, ("controlnet", "controlnet_masks"), strict=True):
        halves[name].save_pretrained(folder / place)
    make_portable(folder)


def _grid(pipe, file: Path) -> None:
    """Eight held-out scenes: as drawn, their edges, with control, without."""
    scenes = [sample(HELD_OUT + i) for i in range(8)]
    drawn = [draw(scene) for scene in scenes]
    edges = [edge_map(picture) for picture in drawn]
    prompts = [caption(scene, random.Random(0)) for scene in scenes]
    pictures = [drawn, edges]
    for scale in (1.0, 0.0):
        generator = torch.Generator().manual_seed(0)
        call = dict(num_inference_steps=12, guidance_scale=3.0, controlnet_conditioning_scale=scale)
        pictures.append(pipe(prompts, edges, generator=generator, **call).images)
    rows = np.concatenate([np.concatenate([np.asarray(p) for p in row], axis=1) for row in pictures])
    Image.fromarray(rows).save(file)
