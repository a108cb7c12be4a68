"""torch_npu, for the tests that run beside it. It is installed in a folder of its own, in the cache: in the environment
of the tests every ``import torch`` would load it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

VERSION = "2.13.0"
"""Which needs the torch of the same number."""


@functools.cache
def lacking() -> str | None:
    """Why it cannot be had here; None where it can."""
    found = metadata.version("torch").partition("+")[0]
    if found.rpartition(".")[0] != VERSION.rpartition(".")[0]:
        return f"torch_npu {VERSION} goes with torch {VERSION}, not with {found}"
    try:
        folder()
    except subprocess.CalledProcessError as error:
        return f"pip does not bring torch_npu {VERSION}: {error.stderr.strip().splitlines()[-1:]}"
    return None


@functools.cache
def folder() -> Path:
    """The folder of the package, which pip fetches once. Raises subprocess.CalledProcessError."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = caches / "ms_controlnet_backend" / f"torch_npu-{VERSION}-{sys.implementation.cache_tag}"
    if not base.exists():
        base.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base.parent) as scratch:
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", scratch, f"torch_npu=={VERSION}"]
            subprocess.run(pip, check=True, capture_output=True, text=True)
            try:
                os.rename(scratch, base)
                os.mkdir(scratch)  # for its removal
            except OSError:  # another process was faster
                pass
    return base / "torch_npu"
