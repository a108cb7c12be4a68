"""What a comparison found: figures, verdict, and the ways out of it (JSON, HTML, a table)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from . import verdict
from .bisect import Found
from .metrics import Distance, PictureDistance
from .recording import Difference, Run

SCHEMA, VERSION = "ms-controlnet-compare", 1


@dataclass
class Picture:
    """One picture of the call on both sides; each (height, width, channels), float32 in 0 … 1. defects: side → what
    makes it worthless (``"NaN"``, ``"black"``)."""

    index: int
    reference: np.ndarray
    other: np.ndarray
    distance: PictureDistance
    defects: dict[str, list[str]]


@dataclass
class Call:
    """One pipeline call on both sides.

    runs: every run made, in order. values: distances of outputs that are no pictures. steps: distances of the latents
    after each step. differences: of the components' outputs, each side on its own; shadow: from the same inputs, None
    if not asked for. errors: side → what it raised. missing: sentences on work that only one side did. vacuous: why
    nothing was really compared, or "". unsteady: side → largest fraction of pixels in which a later run is off from
    its own first; drift: side → largest relative RMS, of outputs that are no pictures. nan_steps: side → first step
    after which the latents are not finite. notes: for the reader.
    """

    pipeline: str
    sides: tuple[str, str]
    dtype: str = "float32"
    complete: bool = False
    runs: list[Run] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    values: list[Distance] = field(default_factory=list)
    steps: list[Distance] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    shadow: list[Difference] | None = None
    bisect: Found | None = None
    errors: dict[str, BaseException] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    vacuous: str = ""
    unsteady: dict[str, float] = field(default_factory=dict)
    drift: dict[str, float] = field(default_factory=dict)
    nan_steps: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def checks(self) -> list[verdict.Check]:
        return verdict.judge(self)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def first_difference(self) -> Difference | None:
        """The first component output beyond tolerance: from the same inputs if there was a shadow run."""
        if self.shadow is not None:
            return verdict.first_beyond(self.shadow, "component")
        return verdict.first_beyond(self.differences, "latents")

    @property
    def growth(self) -> float | None:
        """The factor by which the latents' relative error grows a step, on average; None under two steps or where an
        error is 0."""
        first, last = (self.steps[0].relative_rms, self.steps[-1].relative_rms) if len(self.steps) > 1 else (0, 0)
        return (last / first) ** (1 / (len(self.steps) - 1)) if first > 0 and 0 < last < math.inf else None

    def runs_of(self, side: str, kind: str) -> list[Run]:
        return [r for r in self.runs if r.backend == side and r.kind == kind]


@dataclass
class Report:
    """The result of :func:`~ms_controlnet_backend.compare`.

    sides: the reference's and the other backend's name. interrupted: was it cut short (Ctrl-C)? environment: versions,
    devices, machine. problem: why there is nothing to judge, or "".
    """

    sides: tuple[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    interrupted: bool = False
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Is everything within its tolerance, on all calls, to the end?"""
        return not self.interrupted and not self.problem and bool(self.calls) and all(c.ok for c in self.calls)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the schema named ``ms-controlnet-compare``, version 1. Keys are only ever added to a version.

        ``schema``, ``version``, ``ok``, ``complete`` (false: interrupted, the rest is part of it), ``problem``,
        ``backends`` [reference, other], ``environment`` {name: text}, ``calls`` [ one a pipeline call:

        - ``pipeline`` class, ``ok``, ``complete``, ``dtype`` it is judged by, ``notes`` [text],
          ``errors`` {backend: text}, ``tolerance`` {component, operator, latents, off, mean, why}
        - ``checks`` [{name, ok, value, limit, detail}]: the verdict is that all are ok
        - ``pictures`` [{index, shape, psnr (dB), ssim, max_abs, mean_abs, off, defects {backend: [text]}}]; levels are
          of 0 … 1; off: fraction of pixels with a channel off by more than 1/255
        - ``outputs`` [{max_abs, relative_rms, cosine, finite}]: of outputs that are no pictures
        - ``steps`` [{step, max_abs, relative_rms, cosine, finite}]: the latents after it; ``growth``: factor a step
        - ``components`` [{component, call, stage, step, output, shape, dtype, max_abs, relative_rms, cosine, finite}]:
          every output tensor of every component call, each side going on from its own
        - ``shadow``: the same from the same inputs, null if not asked for; ``first_difference``: one such entry or null
        - ``bisect``: null or {first, worst, compared, refused {overload: why}, conclusion}; an operator is {component,
          overload, schema, module, node, output, shape, dtype, max_abs, relative_rms, cosine, finite}
        - ``runs`` [{backend, kind ("first", "measured", "shadow"), seconds, step_seconds [s], components {label:
          {calls, seconds}}, peak_bytes, growth_bytes, device_bytes, counters {name: number}, upstream_calls,
          component_calls,
          timeline [{component, call, stage, step, start, seconds, compiled}]}]
        ]. Times are seconds. A number that is not finite is the text "inf", "-inf" or "nan".
        """
        return _finite({
            "schema": SCHEMA,
            "version": VERSION,
            "ok": self.ok,
            "complete": not self.interrupted,
            "problem": self.problem,
            "backends": list(self.sides),
            "environment": self.environment,
            "calls": [_call(c) for c in self.calls],
        })  # fmt: skip

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def save(self, path) -> Path:
        """Write the report: JSON if the name ends in ``.json``, else one HTML file that needs nothing else.

        Raises ExtraMissing, with the command, where HTML is wanted and the extra ``report`` is not installed.
        """
        path = Path(path)
        if path.suffix.lower() == ".json":
            text = self.to_json()
        else:
            from .html import render

            text = render(self)
        path.write_text(text, encoding="utf-8")
        return path

    def __str__(self) -> str:
        from .table import plain

        return plain(self)


def _call(call: Call) -> dict:
    first = call.first_difference
    return {
        "pipeline": call.pipeline,
        "ok": call.ok,
        "complete": call.complete,
        "dtype": call.dtype,
        "tolerance": asdict(verdict.tolerance(call.dtype)),
        "checks": [asdict(c) for c in call.checks],
        "notes": call.notes,
        "errors": {side: f"{type(e).__name__}: {e}" for side, e in call.errors.items()},
        "pictures": [
            {"index": p.index, "shape": list(p.reference.shape), **asdict(p.distance), "defects": p.defects}
            for p in call.pictures
        ],
        "outputs": [asdict(v) for v in call.values],
        "steps": [{"step": i, **asdict(d)} for i, d in enumerate(call.steps)],
        "growth": call.growth,
        "components": [_difference(d) for d in call.differences],
        "shadow": None if call.shadow is None else [_difference(d) for d in call.shadow],
        "first_difference": None if first is None else _difference(first),
        "bisect": None if call.bisect is None else _found(call.bisect),
        "runs": [_run(r) for r in call.runs],
    }


def _difference(d: Difference) -> dict:
    place = asdict(d.place)
    return {**place, "output": d.output, "shape": list(d.shape), "dtype": d.dtype, **asdict(d.distance)}


def _operator(o) -> dict | None:
    if o is None:
        return None
    values = asdict(o)
    return values | values.pop("distance") | {"shape": list(o.shape)}


def _found(found: Found) -> dict:
    return asdict(found) | {"first": _operator(found.first), "worst": _operator(found.worst)}


def _run(run: Run) -> dict:
    return {
        "backend": run.backend,
        "kind": run.kind,
        "seconds": run.seconds,
        "step_seconds": run.step_seconds,
        "components": component_times(run),
        "peak_bytes": run.peak_bytes,
        "growth_bytes": run.growth_bytes,
        "device_bytes": run.device_bytes,
        "counters": run.counters,
        "upstream_calls": run.upstream,
        "component_calls": len(run.events),
        "timeline": [
            {**asdict(e.place), "start": e.start, "seconds": e.seconds, "compiled": e.compiled} for e in run.events
        ],
    }


def component_times(run: Run) -> dict[str, dict]:
    """Component → {calls, seconds}, in the order they first ran."""
    times: dict[str, dict] = {}
    for event in run.events:
        entry = times.setdefault(event.place.component, {"calls": 0, "seconds": 0.0})
        entry["calls"] += 1
        entry["seconds"] += event.seconds
    return times


def _finite(value):
    """JSON has no NaN and no infinity: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, (list, tuple)) else value
