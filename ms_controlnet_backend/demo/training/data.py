"""What the stages train on, drawn and encoded once into files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..scenes import SIZE, caption, draw, edge_map, mask_map, sample
from .parts import CONTROLS, TOKENS

CAPTIONS = 4
"""different ones of a scene"""


def pictures(folder: Path, count: int) -> np.ndarray:
    """The scenes of the seeds from 0: uint8 (count, size, size, 3)."""
    file = folder / f"scenes-{count}.npy"
    if not file.exists():
        drawn = np.empty((count, SIZE, SIZE, 3), np.uint8)
        for seed in tqdm(range(count), desc="scenes"):
            drawn[seed] = np.asarray(draw(sample(seed)))
        np.save(file, drawn)
    return np.load(file, mmap_mode="r")


def encoded(folder: Path, drawn: np.ndarray, vae, tokenizer) -> dict[str, torch.Tensor]:
    """``latents`` float16 (count, 4, size/8, size/8), ``ids`` int16 (count, captions, tokens), ``things`` (their
    number) uint8 (count,), and by the names of the ControlNets their pictures, a bit a pixel: uint8 (count, …)."""
    file = folder / f"latents-{len(drawn)}.pt"
    if not file.exists():
        bits: dict[str, list] = {name: [] for name in CONTROLS}
        ids, things = [], []
        for seed in tqdm(range(len(drawn)), desc="captions and control pictures"):
            scene, rng = sample(seed), random.Random(-1 - seed)
            things.append(len(scene.things))
            ids.append(tokens(tokenizer, [caption(scene, rng) for _ in range(CAPTIONS)]))
            for name, picture in (("edges", edge_map(Image.fromarray(drawn[seed]))), ("masks", mask_map(scene))):
                bits[name].append(np.packbits(np.asarray(picture)[..., 0] > 127))
        data = {name: torch.from_numpy(np.stack(rows)) for name, rows in bits.items()}
        data |= {"ids": torch.tensor(ids, dtype=torch.int16), "things": torch.tensor(things, dtype=torch.uint8)}
        data["latents"] = _latents(vae, drawn)
        torch.save(data, file)
    return torch.load(file, weights_only=True)


def tokens(tokenizer, captions: list[str]) -> list[list[int]]:
    return tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS).input_ids


def unpacked(rows: torch.Tensor) -> torch.Tensor:
    """uint8 (batch, size²/8) → float32 (batch, 3, size, size), 0 or 1."""
    bits = np.unpackbits(rows.numpy(), axis=1).reshape(-1, 1, SIZE, SIZE)
    return torch.from_numpy(bits).float().expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (count, height, width, 3) → float32 (count, 3, height, width) in -1 … 1, channels last in memory."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def _latents(vae, drawn: np.ndarray) -> torch.Tensor:
    """Means, not scaled."""
    batches = (drawn[i : i + 32] for i in tqdm(range(0, len(drawn), 32), desc="latents"))
    return torch.cat([vae.encode(to_tensor(batch)).latent_dist.mean.half() for batch in batches])
