"""``ms-controlnet verify``: what is to be verified where the options do not say, and the report's files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tqdm import tqdm

from ..compat import mindspore_runtime
from ..demo import model
from .report import Report
from .supervisor import Clock, supervise
from .worker import Request


def run(options) -> int:
    """0: all is as torch has it; 1: something is not, or was not tried; 2: bad options."""
    requests = _requests(options)
    asked = options.stages.split(",")
    if unknown := sorted(set(asked) - set(requests)):
        print(f"ms-controlnet: no stage {', '.join(unknown)}; known: {', '.join(requests)}", file=sys.stderr)
        return 2
    clock = Clock(None if options.budget is None else 60 * options.budget, options.patience)
    with tqdm(leave=False, disable=None) as bar:

        def progress(name: str, total: int | None) -> None:
            if total is not None:
                bar.reset(total)
            else:
                bar.set_postfix_str(name, refresh=False)
                bar.update()

        stages = [request for stage, request in requests.items() if stage in asked]
        report = supervise(options.device, stages, clock, progress, lambda r: _save(r, options.report))
    print("\n".join(report.lines()))
    return 0 if report.ok else 1


def _requests(options) -> dict[str, Request]:
    """What each stage verifies. An NPU computes pipelines in float16, and a model made for tests needs no large
    picture."""
    device = mindspore_runtime.canonical_device(options.device)
    on_npu = str(device).startswith("Ascend") or (device is None and mindspore_runtime.available("Ascend"))
    dtypes = options.dtypes or ("float16,float32" if on_npu else "float32")
    folder, controlnet, size = options.model, options.controlnet, options.size or 512
    if not folder:
        folder, controlnet, size = str(model.folder()), str(model.folder() / "controlnet"), options.size or 128
    shared = dict(device=options.device, only=options.only.split(",") if options.only else [])
    pipeline = dict(model=folder, controlnet=controlnet, size=size, dtype="float16" if on_npu else "float32")
    return {
        "operators": Request("operators", dtypes=dtypes.split(","), **shared),
        "components": Request("components", **pipeline, **shared),
    }


def _save(report: Report, stem: Path) -> None:
    text = "\n".join(report.lines()) + "\n"
    for suffix, content in ((".json", json.dumps(report.to_dict(), indent=1)), (".txt", text)):
        stem.with_name(stem.name + suffix).write_text(content, encoding="utf-8")
