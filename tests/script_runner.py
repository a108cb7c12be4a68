"""Runs scripts one after another in this process and reports on each: ``script_runner.py SIDE FOLDER SCRIPT…``

SIDE: ``torch`` (plain, "cuda" being the CPU), ``mindspore`` (the command ``ms-controlnet run``), or ``bent`` (the same
with a SiLU that is off by 2 %). Each script runs in FOLDER/SIDE/its name, where the checkpoints are; what is reported
goes to ``report.json`` there.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import runpy
import sys
import time
import traceback
from pathlib import Path

import script_workplace


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

    with sides.wrong_lowering(torch.ops.aten.silu.default, lambda b, x: b.mul(x, b.scalar(1.02))):
        return on_mindspore(script)


def run(side: str, folder: Path, script: Path) -> None:
    place = script_workplace.make(folder, side, script)
    os.chdir(place)
    report, started = {"error": None}, time.perf_counter()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            report |= {"torch": on_torch, "mindspore": on_mindspore, "bent": on_bent}[side](script)
    except (Exception, SystemExit):  # reported; the next script goes on
        report["error"] = traceback.format_exc()
    report["seconds"] = time.perf_counter() - started
    (place / "report.json").write_text(json.dumps(report))
    gc.collect()


if __name__ == "__main__":
    side, folder, *scripts = sys.argv[1:]
    for script in scripts:
        run(side, Path(folder), Path(script))
