"""Packages for the tests that run beside one, or that count what it does. Each is installed in a folder of its own, in
the cache: in the environment of the tests every ``import torch`` would load torch_npu, and mindone wants another
transformers."""

from __future__ import annotations

import functools
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ascend.software import kept


@dataclass(frozen=True)
class Peer:
    package: str
    version: str
    needs: tuple[str, ...] = ()
    """What is installed with it, since pip is not to resolve what it requires: MindSpore and torch are there."""
    torch: str | None = None
    """The release of torch that it goes with."""

    def lacking(self) -> str | None:
        """Why it cannot be had here; None where it can."""
        found = metadata.version("torch")
        if self.torch is not None and not found.startswith(f"{self.torch}."):
            return f"{self.package} {self.version} goes with torch {self.torch}, not with {found}"
        try:
            self.folder()
        except subprocess.CalledProcessError as error:
            return f"pip does not bring {self.package} {self.version}: {error.stderr.strip().splitlines()[-1:]}"
        return None

    @functools.cache
    def folder(self) -> Path:
        """The folder that holds its packages, which pip fetches once. Raises subprocess.CalledProcessError."""

        def install(scratch: Path) -> None:
            wanted = [f"{self.package}=={self.version}", *self.needs]
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", scratch, *wanted]
            subprocess.run(pip, check=True, capture_output=True, text=True)

        return kept.folder(f"{self.package}-{self.version}-{sys.implementation.cache_tag}", install)


TORCH_NPU = Peer("torch_npu", "2.13.0", torch="2.13")
MINDONE = Peer(
    "mindone", "0.5.0",
    ("diffusers==0.35.2", "transformers==4.57.1", "huggingface_hub==0.36.0", "tokenizers==0.22.1", "mindcv==0.3.0",
     "trampoline", "omegaconf", "antlr4-python3-runtime==4.9.3"),
)  # fmt: skip


def of(item) -> Peer | None:
    """The one by whose name a test is marked."""
    return next((p for p in (TORCH_NPU, MINDONE) if item.get_closest_marker(p.package)), None)
