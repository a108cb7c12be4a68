"""At most three lines on what was found: what is wrong and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..lowering.ascend import REWRITES
from .report import Finding, Report

MEMORY = re.compile(
    r"out of (device )?memory|alloc\w* .*fail|fail\w* .*alloc|memory (is )?not enough|207001", re.IGNORECASE
)


def of(report: Report, still_wrong: Callable[[str], set[str]]) -> list[str]:
    """still_wrong: name of a rewrite → what of the wrong is wrong without it too."""
    wrong = [f for f in report.findings if not f.ok]
    if not wrong:
        return ["There was no time for all of it: give it a larger --budget."] if report.untried else []
    if not report.opened[0].ok:
        return _of_the_device(report, report.opened[0])
    places = f"{len(wrong)} of {len(report.findings)}: {_some(f.name for f in wrong)}"
    memory = [f for f in wrong if MEMORY.search(f.problem)]
    if memory:
        return [
            f"The device's memory is full at {memory[0].name}.",
            "Close what else runs on the device (npu-smi info lists it), or choose a smaller --size;",
            "MS_CONTROLNET_MEMORY=…GB says how much may be taken.",
        ]
    gone = [f for f in wrong if f.problem.startswith(("no answer", "the process"))]
    differs = [f for f in wrong if f.error is not None and not f.problem]
    what = "computes something else than torch" if differs else gone[0].problem if gone else "fails"
    lines = [f"{wrong[0].name} {what} ({places})."]
    for rewrite in REWRITES if report.device.startswith("MindSpore on Ascend") else ():
        left = still_wrong(rewrite)
        if not left:
            return [*lines, f"Without the rewrite {rewrite} all of it is right: set MS_CONTROLNET_WITHOUT={rewrite}."]
    if differs:
        do = "Until that is mended, use backend='torch' for what differs, and send the report."
    elif gone:
        do = "No rewrite is to blame: update CANN or the driver, and send the report with CANN's log."
    else:
        do = "What fails stays on torch by itself, and is slower there. Send the report."
    return [*lines, do]


def _of_the_device(report: Report, finding: Finding) -> list[str]:
    first = finding.problem.splitlines()[0] if finding.problem else "wrong results of a sum"
    if MEMORY.search(finding.problem):
        return ["The device's memory is full before anything is computed.",
                "Close what else runs on it: npu-smi info lists it. MS_CONTROLNET_MEMORY=…GB says how much may be taken."]  # fmt: skip
    problems = report.problems[:2] or [
        "Run ms-controlnet doctor; see that CANN's set_env.sh is sourced and the driver is there."
    ]
    return [f"The device does not compute: {first}", *problems]


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
