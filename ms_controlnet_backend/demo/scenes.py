"""Procedurally drawn scenes with captions and control pictures: what the demo's checkpoint is trained on and judged by.

A scene is one shape, or one on the left and one on the right, in front of a plain or fading background. Everything
about it follows from its seed, on every machine.
"""

from __future__ import annotations

import functools
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 128
"""pixels of a side"""
COLOURS = {
    "red": (220, 40, 40), "green": (40, 165, 70), "blue": (45, 75, 220), "yellow": (245, 215, 50),
    "purple": (150, 50, 185), "orange": (245, 130, 25), "white": (245, 245, 245), "black": (25, 25, 25),
}  # fmt: skip
TEXTURES = ("plain", "striped", "dotted")
_FINE = 3  # pixels are averages of this many squared


@dataclass(frozen=True)
class Thing:
    """A shape: its kind, colour and texture by name, centre and half side in pixels."""

    shape: str
    colour: str
    texture: str
    x: float
    y: float
    radius: float
    phase: tuple[int, int] = (0, 0)

    @property
    def box(self) -> tuple[float, float, float, float]:
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: str
    fading: bool


def _polygon(corners: int, inner: float = 1.0) -> list[tuple[float, float]]:
    """A regular polygon, first corner up, every second one drawn in to ``inner``; it fills the unit square."""
    radii = [1.0 if i % 2 == 0 else inner for i in range(corners)]
    points = [
        (r * math.sin(2 * math.pi * i / corners), -r * math.cos(2 * math.pi * i / corners)) for i, r in enumerate(radii)
    ]
    low, high = ([f(p[axis] for p in points) for axis in (0, 1)] for f in (min, max))
    return [tuple((p[axis] - low[axis]) / (high[axis] - low[axis]) for axis in (0, 1)) for p in points]


_A, _B = 1 / 3, 2 / 3
SHAPES = {
    "circle": _polygon(64),
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "diamond": _polygon(4),
    "star": _polygon(10, 0.42),
    "cross": [(_A, 0), (_B, 0), (_B, _A), (1, _A), (1, _B), (_B, _B), (_B, 1), (_A, 1), (_A, _B), (0, _B), (0, _A),
              (_A, _A)],
}  # fmt: skip


def sample(seed: int) -> Scene:
    """The scene of a seed."""
    rng = random.Random(seed)
    background = rng.choice(list(COLOURS))
    spots = [(rng.uniform(44, 84), rng.uniform(44, 84), rng.uniform(20, 36))]
    if rng.random() < 0.3:
        spots = [(rng.uniform(x - 3, x + 3), rng.uniform(40, 88), rng.uniform(17, 24)) for x in (34, 94)]
    things = []
    for x, y, radius in spots:
        colour = rng.choice([c for c in COLOURS if _contrast(c, background) >= 100])
        texture = rng.choices(TEXTURES, (6, 1, 1))[0]
        phase = (rng.randrange(16), rng.randrange(16))
        things.append(Thing(rng.choice(list(SHAPES)), colour, texture, x, y, radius, phase))
    return Scene(tuple(things), background, fading=rng.random() < 0.25)


def _contrast(a: str, b: str) -> int:
    return max(abs(x - y) for x, y in zip(COLOURS[a], COLOURS[b], strict=True))


def title(scene: Scene) -> str:
    """The whole description in words: textures, colours, shapes, sides where there are two, background."""
    words = [_describe("" if t.texture == "plain" else t.texture, t.colour, t.shape) for t in scene.things]
    things = words[0] if len(words) == 1 else "{} on the left and {} on the right".format(*words)
    return f"{things} on {_article(('fading ' if scene.fading else '') + scene.background)} background"


def caption(scene: Scene, rng: random.Random) -> str:
    """A description as people give them: what it leaves out, and how it is put, is drawn from ``rng``."""
    brief = rng.random() < 0.15
    words = []
    for thing in scene.things:
        texture = rng.choice(("", "", "plain")) if thing.texture == "plain" else thing.texture
        shape = "shape" if rng.random() < 0.08 else thing.shape
        words.append(_describe(texture, "" if brief and rng.random() < 0.5 else thing.colour, shape))
    if len(words) == 2:
        text = rng.choice(("{} on the left and {} on the right", "{} next to {}", "{} and {}")).format(*words)
    else:
        text = words[0] + rng.choice(("", " " + _place(scene.things[0])))
    if not brief:
        fading = "fading " if scene.fading else rng.choice(("", "plain "))
        text += f" on {_article(fading + scene.background)} background"
    return rng.choice(("", "", "a picture of ", "a drawing of ")) + text


def _describe(texture: str, colour: str, shape: str) -> str:
    return _article(" ".join(word for word in (texture, colour, shape) if word))


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _place(thing: Thing) -> str:
    dx, dy = thing.x - SIZE / 2, thing.y - SIZE / 2
    if max(abs(dx), abs(dy)) < 8:
        return "in the middle"
    if abs(dx) > abs(dy):
        return "on the left" if dx < 0 else "on the right"
    return "at the top" if dy < 0 else "at the bottom"


def draw(scene: Scene) -> Image.Image:
    """The picture, RGB, ``SIZE`` squared."""
    side = SIZE * _FINE
    base = np.array(COLOURS[scene.background], np.float32)
    fade = np.linspace(1, 0.6 if scene.fading else 1, side, dtype=np.float32)
    picture = Image.fromarray(np.broadcast_to((fade[:, None, None] * base), (side, side, 3)).astype(np.uint8))
    for thing in scene.things:
        picture.paste(_filling(thing), (0, 0), _silhouette([thing], side))
    return picture.reduce(_FINE)


def _filling(thing: Thing) -> Image.Image:
    side, period = SIZE * _FINE, 16 * _FINE
    colour = COLOURS[thing.colour]
    picture = Image.new("RGB", (side, side), colour)
    pen = ImageDraw.Draw(picture)
    shade = tuple(int(c * 0.6) for c in colour) if thing.colour != "black" else (110, 110, 110)
    x0, y0 = (p * _FINE for p in thing.phase)
    for y in range(y0 - period, side, period):
        if thing.texture == "striped":
            pen.rectangle((0, y, side, y + period * 5 // 16), fill=shade)
        elif thing.texture == "dotted":
            for x in range(x0 - period, side, period):
                pen.ellipse((x, y, x + period // 2, y + period // 2), fill=shade)
    return picture


def _silhouette(things, side: int) -> Image.Image:
    picture = Image.new("L", (side, side))
    for thing in things:
        stamp(picture, thing.shape, tuple(side / SIZE * v for v in thing.box))
    return picture


def stamp(picture: Image.Image, shape: str, box: tuple[float, float, float, float]) -> None:
    """Fill the shape into the box (left, top, right, bottom, pixels) of a greyscale picture."""
    left, top, right, bottom = box
    corners = [(left + x * (right - left), top + y * (bottom - top)) for x, y in SHAPES[shape]]
    ImageDraw.Draw(picture).polygon(corners, fill=255)


def mask_map(scene: Scene) -> Image.Image:
    """Control picture of the second ControlNet: the shapes filled white on black, RGB."""
    return _silhouette(scene.things, SIZE).convert("RGB")


def edge_map(picture: Image.Image, threshold: float = 120) -> Image.Image:
    """Control picture of the first ControlNet: white where the Sobel gradient of a colour channel is strong, RGB.

    threshold: in 8-bit values times the operator's weight of 4, so 120 is a sharp step of 30.
    """
    values = np.pad(np.asarray(picture.convert("RGB"), np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    smooth_rows = values[:-2] + 2 * values[1:-1] + values[2:]
    smooth_columns = values[:, :-2] + 2 * values[:, 1:-1] + values[:, 2:]
    gradient = np.hypot(smooth_rows[:, 2:] - smooth_rows[:, :-2], smooth_columns[2:] - smooth_columns[:-2])
    edges = (gradient.max(axis=2) > threshold).astype(np.uint8) * 255
    return Image.fromarray(np.repeat(edges[..., None], 3, axis=2))


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Captions that hold every word there is, to make a tokenizer of."""
    rng = random.Random(0)
    return tuple(caption(sample(seed), rng) for seed in range(4000))
