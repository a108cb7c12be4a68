"""Comparing every pipeline call that a script makes, while the script runs unmodified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import binding
from ..compat import diffusers_calls
from ..script import run_script
from .compare import Settings, compare_call
from .report import Report

NO_CALL = "the script made no pipeline call"


def compare_script(
    path: Path, arguments: Sequence[str], settings: Settings, redirect: bool | None = None
) -> tuple[Report, BaseException | None]:
    """(the report, what ended the script early or None). The script gets what the reference draws.

    A call without a generator starts, on both sides, from torch's global random state as the script left it. What a
    call raises on the reference is raised in the script; a failure of the other side is only in the report.
    redirect: of CUDA and NPU calls, on both sides, as of :func:`ms_controlnet_backend.enable`.
    """
    report = settings.report()
    ended = None

    def handler(call, pipe, args, kwargs):
        given = diffusers_calls.bind(pipe, args, kwargs)
        notes = []
        if given.get("generator") is None and diffusers_calls.accepts(pipe, "generator"):
            notes.append("no generator was given: both sides were given the same state of torch's global generator")
        output = compare_call(call, pipe, given, settings, report, notes)
        error = report.calls[-1].errors.get(settings.sides[0])
        if error is not None:
            raise error
        return output

    try:
        with binding.redirected(settings.engines[1], redirect), diffusers_calls.intercepted(handler):
            run_script(path, arguments)
    except KeyboardInterrupt as error:
        report.interrupted, ended = True, error
    except SystemExit as error:
        ended = error if error.code else None
    except Exception as error:  # noqa: BLE001 - the script's own; the report of its calls so far is kept
        ended = error
    if not report.calls:
        report.problem = NO_CALL
    return report, ended
