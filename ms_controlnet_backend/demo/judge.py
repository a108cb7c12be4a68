"""What is in a picture: an exact classifier of the drawn scenes, and how well edges agree.

No learning and no tolerance to tune on results: a test holds it to every attribute of drawn scenes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .scenes import COLOURS, SHAPES, SIZE, Scene, edge_map, stamp

_NAMES = list(COLOURS)
_VALUES = np.array(list(COLOURS.values()), np.float32)


@dataclass(frozen=True)
class Seen:
    """What the classifier sees in one place: names, or None where nothing stands out from the background."""

    shape: str | None
    colour: str | None


def edge_f1(picture: Image.Image, control: Image.Image, tolerance: int = 2) -> float:
    """F1 of the picture's edges against a control edge map: a pixel agrees within ``tolerance`` pixels (Chebyshev)."""
    found, wanted = edge_map(picture).convert("L"), control.convert("L")
    wide = ImageFilter.MaxFilter(2 * tolerance + 1)
    precision = _share(found, wanted.filter(wide))
    recall = _share(wanted, found.filter(wide))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share(edges: Image.Image, near: Image.Image) -> float:
    of, inside = np.asarray(edges) > 127, np.asarray(near) > 127
    return float((of & inside).sum() / of.sum()) if of.any() else 0.0


def standing_out(picture: Image.Image):
    """Where the picture differs from its background, which is each row's colour at both sides: bool (height, width)."""
    values = np.asarray(picture.convert("RGB").filter(ImageFilter.MedianFilter(3)), np.float32)
    rows = np.median(np.concatenate([values[:, :4], values[:, -4:]], axis=1), axis=1, keepdims=True)
    return np.abs(values - rows).max(axis=2) > 48


def look(picture: Image.Image, things: int = 1) -> tuple[list[Seen], str]:
    """What stands in the picture (left and right half where there are two), and the background's colour."""
    stands_out = standing_out(picture)
    values = np.asarray(picture.convert("RGB"), np.float32)
    half = SIZE // 2
    parts = [slice(0, SIZE)] if things == 1 else [slice(0, half), slice(half, SIZE)]
    seen = []
    for columns in parts:
        mask = np.zeros_like(stands_out)
        mask[:, columns] = stands_out[:, columns]
        seen.append(_classify(values, mask))
    corners = np.concatenate([values[:8, :4], values[:8, -4:]])
    return seen, _colour(corners.reshape(-1, 3))


def _classify(values, mask) -> Seen:
    # Single pixels that stand out are no part of the shape: a row or column counts with three.
    rows, columns = (np.flatnonzero(mask.sum(axis=axis) >= 3) for axis in (1, 0))
    if len(rows) < 8 or len(columns) < 8:
        return Seen(None, None)
    box = (columns[0], rows[0], columns[-1], rows[-1])
    return Seen(max(SHAPES, key=lambda shape: _overlap(mask, shape, box)), _colour(values[mask]))


def _overlap(mask, shape: str, box) -> float:
    """Intersection over union with the shape drawn into the same box."""
    picture = Image.new("L", mask.shape[::-1])
    stamp(picture, shape, box)
    ideal = np.asarray(picture) > 127
    return float((mask & ideal).sum() / (mask | ideal).sum())


def _colour(pixels) -> str:
    """The name most pixels are nearest to."""
    nearest = np.linalg.norm(pixels[:, None, :] - _VALUES[None], axis=2).argmin(axis=1)
    return _NAMES[np.bincount(nearest, minlength=len(_NAMES)).argmax()]


def rightness(picture: Image.Image, scene: Scene) -> tuple[float, float, float]:
    """Shares of shapes and of colours of the scene's things that are right, and 1 or 0 for its background's colour."""
    seen, background = look(picture, len(scene.things))
    pairs = list(zip(seen, scene.things, strict=True))
    return (
        sum(s.shape == t.shape for s, t in pairs) / len(pairs),
        sum(s.colour == t.colour for s, t in pairs) / len(pairs),
        float(background == scene.background),
    )
