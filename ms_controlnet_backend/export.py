"""``ms-controlnet export``: the components of a saved pipeline as MindIR files, with a manifest of what they take.

MindSpore reads one back with ``mindspore.nn.GraphCell(mindspore.load(file))``, MindSpore Lite with its converter or
model API. The device they are for need not be there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from .compat import mindir, versions
from .errors import Refused
from .lowering.lower import lower_for
from .plugins import registry
from .runtime import mindir as files_of
from .runtime.blank import BlankEngine
from .runtime.target import Target

MANIFEST = "manifest.json"
FORMAT = 1
"""Of the manifest; a reader of one number understands all files that carry it."""


class ExportEngine(BlankEngine):
    """Writes every site that is called, once a signature. components: what the manifest says of each."""

    def __init__(self, target: Target, folder: Path):
        super().__init__(target, cache_dir=str(folder / "sources"))
        self.folder = folder
        self.components: list[dict] = []
        self.refused: dict[str, str] = {}

    def look(self, captured, constant) -> None:
        target = self.target
        program = lower_for(target, captured, registry())
        stem = re.sub(r"\W", "_", captured.name)
        same = sum(c["label"] == captured.name for c in self.components)
        path = self.folder / (f"{stem}_{same + 1}.mindir" if same else f"{stem}.mindir")
        written = files_of.write(program, path, target, self.cache)
        self.components.append({
            "label": captured.name,
            "files": [str(p.relative_to(self.folder)) for p in written],
            "inputs": _described(program.inputs, captured.inputs),
            "outputs": _described(program.outputs, captured.outputs),
            "primitives": dict(mindir.primitives(mindir.graph_file(written))),
        })  # fmt: skip

    def warn_once(self, message: str) -> None:
        label, _, reason = message.partition(" stays on torch: ")
        self.refused.setdefault(label, reason)


def _described(values, nodes) -> list[dict]:
    """dtype: what the graph takes or returns; script_dtype: what the script has there."""
    return [
        {"name": v.name, "shape": list(v.shape), "dtype": v.dtype, "script_dtype": str(n.meta["val"].dtype)[6:]}
        for v, n in zip(values, nodes, strict=True)
    ]


def export(pipe, folder: Path, target: Target, **call) -> dict:
    """Write the components that a call of the pipeline uses, for that call's shapes, and the manifest, which is
    returned. Raises Refused where one cannot be compiled."""
    from . import binding

    folder.mkdir(parents=True, exist_ok=True)
    engine = ExportEngine(target, folder)
    with binding.on(engine):
        pipe(**call)
    if engine.refused:
        raise Refused("; ".join(f"{label}: {reason}" for label, reason in engine.refused.items()))
    manifest = {
        "format": FORMAT,
        "pipeline": type(pipe).__name__,
        "target": target.device,
        "npu": target.options.get("npu"),
        "without": sorted(target.without),
        "versions": {name: versions.installed(name) for name in versions.RANGES},
        "components": engine.components,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return manifest
