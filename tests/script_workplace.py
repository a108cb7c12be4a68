"""The folder a script runs in."""

from __future__ import annotations

from pathlib import Path


def make(folder: Path, side: str, script: Path) -> Path:
    """FOLDER/SIDE/name of the script, with the checkpoints and pictures of FOLDER in it."""
    place = folder / side / script.stem
    place.mkdir(parents=True)
    for name in ("tiny", "pictures"):
        (place / name).symlink_to(folder / name)
    return place
