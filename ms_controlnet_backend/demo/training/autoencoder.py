"""The autoencoder: both halves on crops at first (four times as many for the same work) and whole pictures at last;
then the decoder alone, its edges made sharp, while the latents stay what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..scenes import SIZE
from .data import to_tensor
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

    run.train(losses, lambda step: _show(run.averaged["vae"], pictures[:8], folder / f"autoencoder-{step:05d}.png"))
    return run.averaged["vae"].eval()


def sharpen(folder: Path, vae, pictures: np.ndarray, latents: torch.Tensor, *, steps: int, autocast) -> None:
    """Train the decoder on: differences at edges weigh more. Puts the averaged decoder into ``vae``.

    latents: of the pictures, not scaled; a little noise is added, as what a UNet makes of noise is not exact either.
    """
    parts = torch.nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}).requires_grad_(True)
    run = Run(folder, "decoder", parts, steps=steps, rate=1e-3, decay=0.998)

    def losses(step, generator):
        which = torch.randint(len(latents), (CROPS // 4,), generator=generator)
        x, z = to_tensor(pictures[which.numpy()]), latents[which].float()
        z = (z + 0.08 * torch.randn(z.shape, generator=generator)).contiguous(memory_format=torch.channels_last)
        with autocast():
            y = vae.decode(z).sample.float()
        return {"at edges": ((y - x).abs() * (0.3 + 3 * _near_edges(x))).mean()}

    def show(step):
        _show(vae, pictures[:8], folder / f"decoder-{step:05d}.png")

    run.train(losses, show)
    for name, part in run.averaged.items():
        setattr(vae, name, part)
    vae.eval()


def _near_edges(x: torch.Tensor) -> torch.Tensor:
    """1 within 4 pixels of a step of colour, 0 elsewhere: (count, 1, height, width)."""
    pool = torch.nn.functional.max_pool2d
    span = pool(x, 3, 1, 1) + pool(-x, 3, 1, 1)  # of values among the neighbours
    return pool((span.amax(dim=1, keepdim=True) > 0.2).float(), 9, 1, 4)


def _batch(pictures, generator, size: int) -> torch.Tensor:
    count = CROPS if size < SIZE else CROPS // 4
    which = torch.randint(len(pictures), (count,), generator=generator)
    at = torch.randint(SIZE - size + 1, (count, 2), generator=generator)
    crops = [pictures[i, y : y + size, x : x + size] for i, (y, x) in zip(which.tolist(), at.tolist(), strict=True)]
    return to_tensor(np.stack(crops))


@torch.no_grad()
def _show(vae, pictures, file: Path) -> None:
    from PIL import Image

    x = to_tensor(pictures)
    y = vae.decode(vae.encode(x).latent_dist.mean).sample
    rows = torch.cat([torch.cat(list(part.clamp(-1, 1)), dim=2) for part in (x, y)], dim=1)
    Image.fromarray(((rows + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()).save(file)
