"""Runs scripts one after another in this process: ``script_runner.py FOLDER SIDE:SCRIPT…``

SIDE: ``torch`` (plain torch to which "cuda" means the CPU), ``mindspore`` (the command ``ms-controlnet run``), or
``bent`` (the same with a SiLU that is off by 2 %); ``torch_npu`` and ``beside`` (it, and the command beside it, where
"cuda" means the NPU by torch_npu's own ``transfer_to_npu``). Each script runs in a folder of its own, FOLDER/SIDE/its
name, which holds the checkpoints and receives the pictures and ``report.json``.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import runpy
import sys
import time
import traceback
from pathlib import Path


def workplace(folder: Path, side: str, script: Path) -> Path:
    """A new folder for the script, with the checkpoints and pictures of FOLDER in it."""
    place = folder / side / script.stem
    place.mkdir(parents=True)
    for name in ("tiny", "pictures"):
        (place / name).symlink_to(folder / name)
    return place


def on_torch(script: Path) -> dict:
    import cuda_shim

    with cuda_shim.cuda_means_cpu():
        runpy.run_path(str(script), run_name="__main__")
    return {}


def on_mindspore(script: Path) -> dict:
    """Counters of each component, and what the package warned of."""
    import ms_controlnet_backend
    from ms_controlnet_backend import cli

    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger("ms_controlnet_backend").addHandler(handler)
    try:
        code = cli.main(["run", str(script)])
        counters = {label: vars(s) for label, s in ms_controlnet_backend.stats().items()}
    finally:
        logging.getLogger("ms_controlnet_backend").removeHandler(handler)
        ms_controlnet_backend.disable()
    assert code == 0, f"exit code {code}"
    return {"stats": counters, "warnings": warnings}


def on_bent(script: Path) -> dict:
    import sides
    import torch

    with sides.wrong_lowering(torch.ops.aten.silu.default, lambda b, out: b.mul(out, 1.02)):
        return on_mindspore(script)


def on_torch_npu(script: Path) -> dict:
    from torch_npu.contrib import transfer_to_npu  # noqa: F401

    runpy.run_path(str(script), run_name="__main__")
    return {}


def beside_torch_npu(script: Path) -> dict:
    from torch_npu.contrib import transfer_to_npu  # noqa: F401

    return on_mindspore(script)


SIDES = {"torch": on_torch, "mindspore": on_mindspore, "bent": on_bent, "torch_npu": on_torch_npu,
         "beside": beside_torch_npu}  # fmt: skip


def run(folder: Path, side: str, script: Path) -> None:
    place = workplace(folder, side, script)
    os.chdir(place)
    report: dict = {"error": None}
    started, processor = time.perf_counter(), time.process_time()
    try:
        report |= SIDES[side](script)
    except (Exception, SystemExit):  # reported; the next script goes on
        report["error"] = traceback.format_exc()
    report["seconds"] = time.perf_counter() - started
    report["processor_seconds"] = time.process_time() - processor
    (place / "report.json").write_text(json.dumps(report))
    gc.collect()


if __name__ == "__main__":
    for job in sys.argv[2:]:
        side, _, script = job.partition(":")
        run(Path(sys.argv[1]), side, Path(script))
