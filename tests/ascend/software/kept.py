"""Folders of the cache that one run of the tests makes and others find."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

DAYS = 30
"""After which what nobody used is removed."""


def folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name. make: fills an empty one, if need be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ms_controlnet_backend" / name
    if base.exists():
        os.utime(base)
        return base
    base.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
        make(Path(scratch))
        try:
            os.rename(scratch, base)
            os.mkdir(scratch)  # for its removal
        except OSError:
            if not base.exists():  # no other process was faster
                raise
    return base


def tidy(parent: Path) -> None:
    """Remove the folders in it that were not used of late."""
    for old in parent.iterdir():
        if time.time() - old.stat().st_mtime > DAYS * 24 * 3600:
            shutil.rmtree(old, ignore_errors=True)
