"""Second stage: text encoder, UNet and two ControlNets, together on the autoencoder's latents.

One pass over the data instead of three: a batch sees no control picture, edges, masks, or both, so the UNet learns to
draw from words alone and each ControlNet learns to steer it, and the two to steer it together.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..scenes import SIZE, caption, draw, edge_map, mask_map, sample
from . import autoencoder
from .loop import Run
from .parts import CONTROLS, TOKENS, make_controlnet, make_scheduler, make_text_encoder, make_tokenizer, make_unet

BATCH = 32
CAPTIONS = 4
"""different ones of a scene"""
UNNAMED = 0.12
"""of the batch have an empty caption: classifier-free guidance (Ho & Salimans, arXiv:2207.12598)"""
MIXTURE = (((), 0.4), (("edges",), 0.3), (("masks",), 0.15), (("edges", "masks"), 0.15))
"""control pictures of a batch and how often"""
HELD_OUT = 1_000_000
"""seed of the first scene that is never trained on"""


def train(folder: Path, pictures: np.ndarray, vae, *, steps: int, autocast) -> None:
    """pictures: uint8 (count, size, size, 3), the scenes of the seeds from 0. Writes FOLDER/checkpoint."""
    tokenizer = make_tokenizer()
    data = _data(folder, pictures, vae, tokenizer)
    latents = data["latents"]
    vae.register_to_config(scaling_factor=round(float(1 / latents.float().std()), 4))
    torch.manual_seed(1)
    modules = torch.nn.ModuleDict({
        "text_encoder": make_text_encoder(tokenizer), "unet": make_unet(), **{c: make_controlnet() for c in CONTROLS}
    }).to(memory_format=torch.channels_last)  # fmt: skip
    scheduler = make_scheduler()
    empty = torch.tensor(_ids(tokenizer, [""])[0])
    run = Run(folder, "diffusion", modules, steps=steps, rate=1e-3, decay=0.999)

    def losses(step, generator):
        which = torch.randint(len(latents), (BATCH,), generator=generator)
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
                modules[name](noisy, times, words, _unpack(data[name][which]), return_dict=False) for name in shown
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
    export(run.averaged, vae, tokenizer, folder / "checkpoint")


def _data(folder: Path, pictures: np.ndarray, vae, tokenizer) -> dict[str, torch.Tensor]:
    """Latents float16 (count, 4, size/8, size/8), ids int16 (count, captions, tokens), control pictures in bits."""
    file = folder / f"latents-{len(pictures)}.pt"
    if not file.exists():
        bits: dict[str, list] = {name: [] for name in CONTROLS}
        ids = []
        for seed in tqdm(range(len(pictures)), desc="captions and control pictures"):
            scene, rng = sample(seed), random.Random(-1 - seed)
            ids.append(_ids(tokenizer, [caption(scene, rng) for _ in range(CAPTIONS)]))
            for name, picture in (("edges", edge_map(Image.fromarray(pictures[seed]))), ("masks", mask_map(scene))):
                bits[name].append(np.packbits(np.asarray(picture)[..., 0] > 127))
        data = {name: torch.from_numpy(np.stack(rows)) for name, rows in bits.items()}
        data |= {"ids": torch.tensor(ids, dtype=torch.int16), "latents": autoencoder.encode(vae, pictures)}
        torch.save(data, file)
    return torch.load(file, weights_only=True)


def _ids(tokenizer, captions: list[str]) -> list[list[int]]:
    return tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS).input_ids


def _unpack(rows: torch.Tensor) -> torch.Tensor:
    """uint8 (batch, size²/8) → float32 (batch, 3, size, size), 0 or 1."""
    bits = np.unpackbits(rows.numpy(), axis=1).reshape(-1, 1, SIZE, SIZE)
    return torch.from_numpy(bits).float().expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def _pipeline(modules, vae, tokenizer):
    from diffusers import StableDiffusionControlNetPipeline

    pipe = StableDiffusionControlNetPipeline(
        vae=vae, text_encoder=modules["text_encoder"], tokenizer=tokenizer, unet=modules["unet"],
        controlnet=modules["edges"], scheduler=make_scheduler(), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def export(modules, vae, tokenizer, folder: Path) -> None:
    """The pipeline in the diffusers layout, float16 (text encoder float32), and the second ControlNet beside it."""
    from copy import deepcopy

    halves = torch.nn.ModuleDict({name: deepcopy(module).half() for name, module in modules.items()})
    # transformers loads in the dtype of the file, diffusers in float32: a script without dtype would mix both.
    halves["text_encoder"].float()
    _pipeline(halves, deepcopy(vae).half(), tokenizer).save_pretrained(folder)
    halves["masks"].save_pretrained(folder / "controlnet_masks")


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
