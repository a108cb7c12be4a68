"""The stages of a verification, cheap ones first, each in a process of its own; what is found outlives the process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from .. import doctor
from . import advice
from .report import Finding, Report
from .worker import LOADING, Request

PATIENCE = 300.0
"""Seconds that one operator, or one call of a component with its compilation, may take."""
LOADS_IN = 300.0
"""Seconds that a process may at least take to start and to load the pipeline: that is no call of the device's."""
LOST = 5
"""So many processes of a stage may be lost; what then is left is not tried."""


class Clock:
    """What is left of the time that a verification may take. budget: seconds, None: no limit."""

    def __init__(self, budget: float | None = None, patience: float = PATIENCE):
        self._end = None if budget is None else time.monotonic() + budget
        self.patience = patience

    @property
    def left(self) -> float:
        return float("inf") if self._end is None else self._end - time.monotonic()


def supervise(device: str | None, requests: list[Request], clock: Clock, progress: Callable, save: Callable) -> Report:
    """The report of these stages; the device is tried first of all. progress: called with (what is tried, how many
    there are or None). save: called with the report after each stage."""
    machine, problems = doctor.report(device)
    report = Report(device or "the device that is there", machine, problems)
    for request in [Request("opened", device), *requests]:
        if clock.left <= 0 or (report.opened and not report.opened[0].ok):
            report.untried.append(request.stage)
        else:
            found = getattr(report, request.stage)
            report.device = stage(request, clock, found, report.untried, progress) or report.device
        save(report)
    report.advice = advice.of(report, lambda rewrites: _right(requests, report, rewrites, clock, progress))
    save(report)
    return report


def stage(
    request: Request, clock: Clock, found: list[Finding], untried: list[str], progress: Callable, lost: int = LOST
) -> str:
    """Tries all of a stage; a process that dies or hangs is followed by another, which goes on after what it was at.
    Returns the device in one line, as the last process knew it."""
    for _ in range(lost):
        at, device, reason = LOADING, None, ""
        for kind, *rest in _words(request, clock):
            if kind == "at":
                at = rest[0]
                progress(at, None)
            elif kind == "total":
                progress("", rest[0])
            elif kind == "found":
                found.append(Finding(**rest[0]))
            elif kind == "end":
                device = rest[0]
            else:  # the process is no more
                reason = rest[0]
        if device is not None:
            return device
        if reason == "budget":
            untried.append(f"{request.stage} from {at} on")
            return ""
        name, _, dtype = at.partition(" ") if at != LOADING and request.stage == "operators" else (at, "", "")
        found.append(Finding(name, dtype, False, problem=reason, lost=True))
        if at == LOADING:
            return ""
        request = replace(request, done=[*request.done, *(f"{f.name} {f.dtype}".strip() for f in found), name])
    untried.append(f"{request.stage} after {at}, as {lost} processes were lost")
    return ""


def _words(request: Request, clock: Clock) -> Iterator[list]:
    """What a worker says; at last, where it did not come to its end, ["gone", why]."""
    read, write = os.pipe()
    asked = json.dumps(asdict(replace(request, to=write)))
    command = [sys.executable, "-m", "ms_controlnet_backend.verify.worker", asked]
    # what MindSpore and CANN print goes where it always goes
    process = subprocess.Popen(command, pass_fds=(write,), stdin=subprocess.DEVNULL)
    os.close(write)
    loading, ended, rest = True, False, b""
    try:
        with os.fdopen(read, "rb", buffering=0) as pipe:
            while True:
                patience = max(clock.patience, LOADS_IN) if loading else clock.patience
                wait = min(patience, clock.left)
                if wait <= 0 or not select.select([pipe], [], [], wait)[0]:
                    yield ["gone", "budget" if clock.left <= 0 else f"no answer for {patience:g} s"]
                    return
                data = pipe.read(65536)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    words = json.loads(line)
                    ended |= words[0] == "end"
                    loading &= words[0] != "at"
                    yield words
        code = process.wait()
        if not ended:
            yield ["gone", _ending(code)]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _ending(code: int) -> str:
    """How a process ended, in words."""
    if code < 0:
        try:
            return f"the process was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"the process was ended by signal {-code}"
    return f"the process ended with code {code}"


def _right(requests: list[Request], report: Report, rewrites: list[str], clock: Clock, progress: Callable) -> bool:
    """Whether all that was wrong is right without these rewrites; no where there is no time to see."""
    for request in requests:
        names = sorted({f.name for f in getattr(report, request.stage) if not f.ok})
        found: list[Finding] = []
        if names and clock.left > 0:
            asked = replace(request, only=names, exactly=True, without=rewrites)
            stage(asked, clock, found, [], progress, lost=1)
        if {f.name for f in found if f.ok} != set(names) or not all(f.ok for f in found):
            return False
    return True
