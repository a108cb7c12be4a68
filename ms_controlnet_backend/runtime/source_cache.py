"""The folder of generated sources. Files are named by their content: never stale, only absent or damaged."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import sys
import tempfile
from pathlib import Path

from ..compat import mindspore_runtime

logger = logging.getLogger(__name__)
VARIABLE = "MS_CONTROLNET_CACHE"


def default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(VARIABLE) or Path(base) / "ms_controlnet_backend")


class SourceCache:
    """folder: None for the default. An unwritable one is warned about and replaced by a temporary folder."""

    def __init__(self, folder: str | os.PathLike | None = None):
        self.folder = Path(folder) if folder else default_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            fallback = Path(tempfile.mkdtemp(prefix="ms_controlnet_backend-"))
            logger.warning(
                "cache folder %s cannot be written (%s); using %s. Set %s to a writable folder",
                self.folder, error.strerror or error, fallback, VARIABLE,
            )  # fmt: skip
            self.folder = fallback
        mindspore_runtime.dump_folder(str(self.folder / "failed"))

    def write(self, name: str, source: str) -> Path:
        """Put the source on disk (jit parses it from there) and return its path. A damaged file is written again."""
        digest = hashlib.sha256(source.encode()).hexdigest()[:16]
        path = self.folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', name)}_{digest}.py"
        if path.exists():
            try:
                if path.read_text(encoding="utf-8") == source:
                    return path
                problem = "differs from what was generated"
            except (OSError, UnicodeDecodeError) as error:
                problem = str(error)
            logger.warning("cache file %s is damaged (%s); written again", path, problem)
        handle, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            f.write(source)
        os.replace(temporary, path)
        return path


def load(path: Path):
    """Import a generated source file. MindSpore's parser looks the module up by name, so it is left in sys.modules."""
    name = f"ms_controlnet_generated_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
