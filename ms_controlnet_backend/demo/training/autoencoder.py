"""First stage: the autoencoder, on crops at first (four times as many for the same work) and whole pictures at last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..scenes import SIZE
from .loop import Run
from .parts import make_autoencoder

CROP = 64
CROPS = 24
"""in a batch; of whole pictures a quarter"""


def train(folder: Path, pictures: np.ndarray, *, steps: int, autocast) -> torch.nn.Module:
    """pictures: uint8, (count, size, size, 3). Returns the averaged autoencoder; its ``scaling_factor`` is not set."""
    torch.manual_seed(0)
    vae = make_autoencoder().to(memory_format=torch.channels_last)
    run = Run(folder, "autoencoder", torch.nn.ModuleDict({"vae": vae}), steps=steps, rate=2e-3, decay=0.995)

    def losses(step, generator):
        x = _batch(pictures, generator, CROP if step < 0.85 * steps else SIZE)
        with autocast():
            posterior = vae.encode(x).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            y = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return {"reconstruction": (y - x).abs().mean(), "kl": 3e-4 * kl}

    def sample(step):
        _show(run.averaged["vae"], pictures[:8], folder / f"autoencoder-{step:05d}.png")

    run.train(losses, sample)
    return run.averaged["vae"].eval()


def _batch(pictures, generator, size: int) -> torch.Tensor:
    count = CROPS if size < SIZE else CROPS // 4
    which = torch.randint(len(pictures), (count,), generator=generator)
    at = torch.randint(SIZE - size + 1, (count, 2), generator=generator)
    crops = [pictures[i, y : y + size, x : x + size] for i, (y, x) in zip(which.tolist(), at.tolist(), strict=True)]
    return to_tensor(np.stack(crops))


def to_tensor(pictures: np.ndarray) -> torch.Tensor:
    """uint8 (count, height, width, 3) → float32 (count, 3, height, width) in -1 … 1, channels last in memory."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(vae, pictures: np.ndarray) -> torch.Tensor:
    """Latent means, float16 (count, 4, size/8, size/8), not scaled."""
    return torch.cat([
        vae.encode(to_tensor(pictures[i : i + 32])).latent_dist.mean.half() for i in range(0, len(pictures), 32)
    ])  # fmt: skip


@torch.no_grad()
def _show(vae, pictures, file: Path) -> None:
    from PIL import Image

    x = to_tensor(pictures)
    y = vae.decode(vae.encode(x).latent_dist.mean).sample
    rows = torch.cat([torch.cat(list(part.clamp(-1, 1)), dim=2) for part in (x, y)], dim=1)
    Image.fromarray(((rows + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()).save(file)
