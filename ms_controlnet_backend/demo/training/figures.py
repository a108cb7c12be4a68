"""``python -m ms_controlnet_backend.demo.training.figures CHECKPOINT FOLDER``: does control work, on both backends?

Draws held-out scenes from their control pictures and whole descriptions, judges the pictures (:mod:`..judge`), and
writes ``figures.json``, the same as a table in ``figures.md``, and a grid of pictures ``grid.png`` into the folder.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from ...binding import disable, using
from .. import judge
from ..scenes import SIZE, draw, edge_map, mask_map, sample, title
from .diffusion import HELD_OUT

BATCH = 8
STEPS = 12
GUIDANCE = 3.0
MAIN = ("without control", "control, scale 0.5", "control")
"""drawn of all held-out scenes, the other ways of the first ``OTHERS``"""
OTHERS = 40
SHARES = ("shape", "colour", "background")
HOLE = (SIZE // 4, SIZE // 4, 3 * SIZE // 4, 3 * SIZE // 4)
"""what inpainting draws anew; left, top, right, bottom"""


class Held:
    """Some held-out scenes and everything given to the pipelines or compared with."""

    def __init__(self, first: int, count: int):
        self.scenes = [sample(HELD_OUT + first + i) for i in range(count)]
        self.prompts = [title(scene) for scene in self.scenes]
        self.pictures = [draw(scene) for scene in self.scenes]
        self.edges = [edge_map(picture) for picture in self.pictures]
        self.masks = [mask_map(scene) for scene in self.scenes]


class Cases:
    """The ways to draw, each from held-out scenes to pictures; ``seed`` is the first scene's number."""

    def __init__(self, folder: Path, steps: int):
        import diffusers

        self._steps = steps
        self._diffusers = diffusers
        load = diffusers.ControlNetModel.from_pretrained
        self._nets = load(folder / "controlnet"), load(folder / "controlnet_masks")
        self._text = self._make(diffusers.StableDiffusionControlNetPipeline.from_pretrained(
            folder, controlnet=self._nets[0]
        ))  # fmt: skip

    def _make(self, pipe):
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _as(self, name: str, **parts):
        return self._make(
            getattr(self._diffusers, name)(**self._text.components | parts, requires_safety_checker=False)
        )

    def _call(self, pipe, held: Held, seed: int, **arguments) -> list[Image.Image]:
        import torch

        prompts = arguments.pop("prompt", held.prompts)
        call = dict(
            num_inference_steps=self._steps, guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(seed)
        )
        return pipe(prompts, **call | arguments).images

    def controlled(self, held, seed, scale=1.0, scheduler=None, **more):
        pipe = self._text
        if scheduler is not None:
            pipe = self._as(
                "StableDiffusionControlNetPipeline",
                scheduler=getattr(self._diffusers, scheduler).from_config(pipe.scheduler.config),
            )
        return self._call(pipe, held, seed, image=held.edges, controlnet_conditioning_scale=scale, **more)

    def both(self, held, seed):
        pipe = self._as("StableDiffusionControlNetPipeline", controlnet=list(self._nets))
        pairs = [list(pair) for pair in zip(held.edges, held.masks, strict=True)]
        return self._call(pipe, held, seed, image=pairs, controlnet_conditioning_scale=[0.6, 0.6])

    def masks(self, held, seed):
        pipe = self._as("StableDiffusionControlNetPipeline", controlnet=self._nets[1])
        return self._call(pipe, held, seed, image=held.masks)

    def guessed(self, held, seed):
        empty = [""] * len(held.prompts)
        return self.controlled(held, seed, prompt=empty, guess_mode=True)

    def again(self, held, seed, strength):
        pipe = self._as("StableDiffusionControlNetImg2ImgPipeline")
        return self._call(pipe, held, seed, image=held.pictures, control_image=held.edges, strength=strength)

    def inpainted(self, held, seed):
        hole = Image.new("L", (SIZE, SIZE))
        ImageDraw.Draw(hole).rectangle(HOLE, fill=255)
        pipe = self._as("StableDiffusionControlNetInpaintPipeline")
        call = dict(image=held.pictures, mask_image=[hole] * len(held.pictures), control_image=held.edges)
        return self._call(pipe, held, seed, strength=1.0, **call)

    def reconstructed(self, held, seed):
        """What the autoencoder alone makes of the scenes: the measure of closeness."""
        import torch

        vae = self._text.vae
        pixels = self._text.image_processor.preprocess(held.pictures)
        with torch.no_grad():
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        return self._text.image_processor.postprocess(decoded)


def rows(cases: Cases) -> dict:
    """Label → how to draw it."""
    return {
        "without control": lambda h, s: cases.controlled(h, s, 0.0),
        "control, scale 0.5": lambda h, s: cases.controlled(h, s, 0.5),
        "control": cases.controlled,
        "control, UniPC": lambda h, s: cases.controlled(h, s, scheduler="UniPCMultistepScheduler"),
        "control, Euler": lambda h, s: cases.controlled(h, s, scheduler="EulerDiscreteScheduler"),
        "masks": cases.masks,
        "edges and masks": cases.both,
        "guess mode, no words": cases.guessed,
        "img2img, strength 0.3": lambda h, s: cases.again(h, s, 0.3),
        "img2img, strength 0.9": lambda h, s: cases.again(h, s, 0.9),
        "inpainting": cases.inpainted,
        "autoencoder alone": cases.reconstructed,
    }


def measure(pictures: list[Image.Image], held: Held) -> dict[str, float]:
    """Means over the pictures: F1 of edges, shares that are right, mean distance from the drawn scene (of 255) all over
    and outside of the hole of inpainting."""
    inside = np.zeros((SIZE, SIZE), bool)
    inside[HOLE[1] - 8 : HOLE[3] + 9, HOLE[0] - 8 : HOLE[2] + 9] = True  # a latent's width more: its pixels reach out
    judged = [judge.rightness(p, s) for p, s in zip(pictures, held.scenes, strict=True)]
    apart = [
        np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean(axis=2)
        for a, b in zip(pictures, held.pictures, strict=True)
    ]
    return {
        "edge F1": float(np.mean([judge.edge_f1(p, e) for p, e in zip(pictures, held.edges, strict=True)])),
        **{name: float(np.mean([j[i] for j in judged])) for i, name in enumerate(SHARES)},
        "distance": float(np.mean(apart)),
        "outside the hole": float(np.mean([a[~inside] for a in apart])),
    }


def run(
    checkpoint: Path, folder: Path, count: int, backends: list[str], steps: int = STEPS
) -> dict[str, dict[str, dict]]:
    """backend → label → figure → value; also writes the files."""
    folder.mkdir(parents=True, exist_ok=True)
    batches = [Held(first, min(BATCH, count - first)) for first in range(0, count, BATCH)]
    table: dict[str, dict] = {}
    shown: dict[str, list] = {}
    try:
        for backend in backends:
            with using(backend):
                for label, way in tqdm(rows(Cases(checkpoint, steps)).items(), desc=backend):
                    drawn = batches if label in MAIN else batches[: OTHERS // BATCH]
                    pictures = [way(held, i) for i, held in enumerate(drawn)]
                    parts = [measure(p, held) for p, held in zip(pictures, drawn, strict=True)]
                    weights = [len(p) for p in pictures]
                    table.setdefault(backend, {})[label] = {
                        key: round(float(np.average([p[key] for p in parts], weights=weights)), 4) for key in parts[0]
                    }
                    shown.setdefault(label, []).append(pictures[0])
    finally:
        disable()
    (folder / "figures.json").write_text(json.dumps({"pictures": count, "figures": table}, indent=1), encoding="utf-8")
    (folder / "figures.md").write_text(markdown(table), encoding="utf-8")
    _grid(batches[0], {label: pictures[-1] for label, pictures in shown.items()}).save(folder / "grid.png")
    return table


def markdown(table: dict[str, dict[str, dict[str, float]]]) -> str:
    """A row a way of drawing; where two backends differ in a cell, both values."""
    backends = list(table)
    keys = list(next(iter(table[backends[0]].values())))
    lines = ["| " + " | ".join(["", *keys]) + " |", "| --- |" + " --- |" * len(keys)]
    for label in table[backends[0]]:
        cells = []
        for key in keys:
            values = [_written(key, table[backend][label][key]) for backend in backends]
            cells.append(values[0] if len(set(values)) == 1 else " / ".join(values))
        lines.append("| " + " | ".join([label, *cells]) + " |")
    return "\n".join(lines) + "\n"


def _written(key: str, value: float) -> str:
    return f"{value:.1%}" if key in SHARES else f"{value:.2f}"


def _grid(held: Held, ways: dict[str, list[Image.Image]]) -> Image.Image:
    """A column a scene, a row a way, named on the left."""
    named = {"drawn scene": held.pictures, "edges": held.edges, **ways}
    margin, gap = 150, 4
    width, height = margin + len(held.scenes) * (SIZE + gap), len(named) * (SIZE + gap)
    grid = Image.new("RGB", (width, height), "white")
    for y, (label, pictures) in enumerate(named.items()):
        ImageDraw.Draw(grid).text((4, y * (SIZE + gap) + SIZE // 2), label, fill="black")
        for x, picture in enumerate(pictures):
            grid.paste(picture, (margin + x * (SIZE + gap), y * (SIZE + gap)))
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ms_controlnet_backend.demo.training.figures", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="held-out scenes")
    parser.add_argument("--backend", action="append", choices=("torch", "mindspore"), help="default: both")
    options = parser.parse_args()
    print(markdown(run(options.checkpoint, options.folder, options.count, options.backend or ["torch", "mindspore"])))


if __name__ == "__main__":
    main()
