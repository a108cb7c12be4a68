"""At most three lines on what was found: what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..compat.device_errors import memory_is_full
from ..lowering.ascend import REWRITES
from .report import Finding, Report

FREE = "Close what else runs on it (npu-smi info lists it)"
LIMIT = "MS_CONTROLNET_MEMORY=…GB says how much may be taken."


def of(report: Report, right_without: Callable[[list[str]], bool]) -> list[str]:
    """right_without: whether all that is wrong is right where rewrites of these names are left out."""
    wrong = [f for f in report.findings if not f.ok]
    if not wrong:
        return ["There was no time for all of it: give it a larger --budget."] if report.untried else []
    if report.opened and not report.opened[0].ok:
        return _of_the_device(report, report.opened[0])
    memory = [f for f in wrong if memory_is_full(f.problem)]
    if memory:
        return [f"The device's memory is full at {memory[0].name}.", f"{FREE}, or choose a smaller --size;", LIMIT]
    lost = [f for f in wrong if f.lost]
    differs = [f for f in wrong if f.error is not None and not f.problem]
    what = "it computes something else than torch" if differs else lost[0].problem if lost else "it fails"
    first = (differs or lost or wrong)[0].name
    lines = [f"{first}: {what} ({len(wrong)} of {len(report.findings)} are wrong: {_some(f.name for f in wrong)})."]
    if report.device.startswith("MindSpore on Ascend"):
        blamed = _blamed(right_without)
        if blamed:
            names = ",".join(blamed)
            return [*lines, f"Without the rewrite {names} all of it is right: set MS_CONTROLNET_WITHOUT={names}."]
    if differs:
        do = "No rewrite is to blame. Use backend='torch' for what differs, and send the report."
    elif lost:
        do = "No rewrite is to blame: update CANN or the driver, and send the report with CANN's log."
    else:
        do = "No rewrite is to blame. What fails stays on torch by itself, and is slower there. Send the report."
    return [*lines, do]


def _blamed(right_without: Callable[[list[str]], bool]) -> list[str]:
    """Rewrites without which all is right: one if one will do. That none helps costs one try."""
    every = list(REWRITES)
    if not right_without(every):
        return []
    return next(([name] for name in every if right_without([name])), every)


def _of_the_device(report: Report, finding: Finding) -> list[str]:
    first = finding.problem.splitlines()[0] if finding.problem else "a sum is wrong"
    if memory_is_full(finding.problem):
        return ["The device's memory is full before anything is computed.", f"{FREE}.", LIMIT]
    of_it = [problem for problem in report.problems if problem.startswith("ascend: ")] or report.problems
    do = of_it[:2] or ["Run ms-controlnet doctor; see that CANN's set_env.sh is sourced and the driver is there."]
    return [f"The device does not compute: {first.partition('. ')[0]}.", *do]


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
