"""``python -m ms_controlnet_backend.demo.training FOLDER`` trains the demo's checkpoint; run again, it goes on."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..scenes import SIZE, draw, sample
from . import autoencoder

parser = argparse.ArgumentParser(prog="python -m ms_controlnet_backend.demo.training", description=__doc__)
parser.add_argument("folder", type=Path, help="where everything goes; FOLDER/checkpoint is the result")
parser.add_argument("--scenes", type=int, default=16384, help="number of pictures to train on")
parser.add_argument("--autoencoder-steps", type=int, default=2600)
parser.add_argument("--steps", type=int, default=7000, help="of UNet, text encoder and ControlNets")
parser.add_argument("--threads", type=int)
parser.add_argument("--float32", action="store_true", help="no bfloat16 arithmetic")


def pictures(folder: Path, count: int) -> np.ndarray:
    """uint8 (count, size, size, 3), drawn once into a file."""
    file = folder / f"scenes-{count}.npy"
    if not file.exists():
        drawn = np.empty((count, SIZE, SIZE, 3), np.uint8)
        for seed in tqdm(range(count), desc="scenes"):
            drawn[seed] = np.asarray(draw(sample(seed)))
        np.save(file, drawn)
    return np.load(file, mmap_mode="r")


def main() -> None:
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=not options.float32)

    drawn = pictures(folder, options.scenes)
    vae = autoencoder.train(folder, drawn, steps=options.autoencoder_steps, autocast=autocast)
    from . import diffusion

    diffusion.train(folder, drawn, vae, steps=options.steps, autocast=autocast)


if __name__ == "__main__":
    main()
