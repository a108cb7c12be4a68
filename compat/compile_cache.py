"""MindSpore's compile cache (2.7 … 2.10): the front end's work on a graph, kept from process to process.

Left to itself it takes the n-th graph compiled by a process for the n-th graph of an earlier one, if the script was not
edited meanwhile. Here a graph is found by the contents of its source and the signature of its weights and inputs: just
the file of that graph, if there is one, lies where MindSpore will look (a folder of this process's own, read once).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from . import versions

logger = logging.getLogger(__name__)
_ENABLE, _PATH, _FORCE = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH", "MS_DEV_FORCE_USE_COMPILE_CACHE"
_next = 0
"""Number that MindSpore gives the next graph compiled with its cache switched on."""


class CompileCache:
    """folder: of the files, named by what was compiled and by their contents, so that a damaged one is not used."""

    def __init__(self, folder: Path):
        self._folder = folder

    def key(self, source: str, signature: object) -> str:
        """source: of the graph. signature: shapes and dtypes of its weights, with their names, and of its inputs."""
        version = versions.installed("mindspore")
        return hashlib.sha256(repr((version, signature, source)).encode()).hexdigest()[:32]

    @contextlib.contextmanager
    def compiling(self, key: str):
        """For the compilation of one graph; yields whether it is known. The process's lock on MindSpore is held."""
        global _next
        if _chosen_by_user():
            yield False
            return
        folder = _own_folder()
        known = self._find(key)
        if known is not None:
            _copy(known, folder / f"compile_cache_{_next}.mindir")
            _without_kernels(folder)
        try:
            with _switched_on():
                yield known is not None
            written = [f for f in _files() if known is None or f.name != f"compile_cache_{_next}.mindir"]
            _next += 1
            if written:  # perhaps under a number of its own
                _next = int(written[0].stem.rpartition("_")[2]) + 1
                self._keep(key, written[0])
        except BaseException:
            _next += 1
            if known is not None:
                with contextlib.suppress(OSError):
                    known.unlink()
            raise
        finally:
            for file in _files("*compile_cache_*"):
                file.unlink()

    def _find(self, key: str) -> Path | None:
        for path in self._folder.glob(f"{key}-*.mindir"):
            if path.stem == f"{key}-{_digest(path)}":
                return path
            logger.warning("compile cache file %s is damaged and is not used", path)
            with contextlib.suppress(OSError):
                path.unlink()
        return None

    def _keep(self, key: str, written: Path) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _copy(written, self._folder / f"{key}-{_digest(written)}.mindir")
        except OSError as error:  # a full disk: nothing is lost but time
            logger.info("compile cache: %s", error)


def _chosen_by_user() -> bool:
    """A script that uses the cache itself is not interfered with."""
    import mindspore

    return os.environ.get(_ENABLE) == "1" or bool(mindspore.get_context("enable_compile_cache"))


@functools.cache
def _root() -> Path:
    import atexit

    root = Path(tempfile.mkdtemp(prefix="ms_controlnet_compile-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def _own_folder() -> Path:
    """Where MindSpore looks and writes: ``rank_<n>/graph_cache`` below the path it is given."""
    ranks = list(_root().glob("rank_*/graph_cache"))
    folder = ranks[0] if ranks else _root() / f"rank_{os.environ.get('RANK_ID', '0')}" / "graph_cache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _files(pattern: str = "compile_cache_*.mindir") -> list[Path]:
    """Wherever MindSpore wrote them: the rank that it goes by may be another than the one guessed."""
    return sorted(_root().rglob(pattern))


def _without_kernels(folder: Path) -> None:
    """On Ascend MindSpore keeps a graph's kernels too, under the number that it had in the process that wrote them, and
    prints two errors for a graph without. Told that the number is taken, it compiles them and prints nothing."""
    import mindspore

    if mindspore.get_context("device_target") == "Ascend":
        _first_graph()
        said = {"ControlNodeCache": {"kernel_graph_to_device_context": [{"graph_id": 0}]}}
        (folder / f"backend_compile_cache_{_next}_backinfo.json").write_text(json.dumps(said))


@functools.cache
def _first_graph():
    """Of this process, which has number 0; it is kept since MindSpore gives a number again."""
    import mindspore

    def twice(x):
        return x + x

    graph = mindspore.jit(twice, jit_level="O0", backend="ms_backend")
    graph(mindspore.Tensor(1.0))
    return graph


@contextlib.contextmanager
def _switched_on():
    from mindspore.common.api import _cell_graph_executor as executor

    # MindSpore asks whether the files that the script imports are as they were, to be content with any graph; here
    # the graph itself was found
    executor._set_compile_cache_dep_files = lambda *_: executor._graph_executor.set_compile_cache_dep_files([__file__])
    before = {name: os.environ.get(name) for name in (_ENABLE, _PATH, _FORCE)}
    os.environ.update({_ENABLE: "1", _PATH: str(_root()), _FORCE: "1"})
    try:
        yield
    finally:
        del executor._set_compile_cache_dep_files
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _copy(source: Path, to: Path) -> None:
    """Whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=to.parent, suffix=".part")
    os.close(handle)
    shutil.copyfile(source, temporary)
    os.replace(temporary, to)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
