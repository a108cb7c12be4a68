"""Running a user's script unchanged, as ``python script.py`` would."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path


def run_script(path: Path, arguments: Sequence[str]) -> None:
    """Run the script as ``__main__`` with these arguments; ``sys.argv`` and ``sys.path`` are put back afterwards."""
    argv, sys_path = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path[0:1] = [str(path.resolve().parent)]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, sys_path
