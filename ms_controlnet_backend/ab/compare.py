"""``compare``: the same pipeline call on two backends, from the same state."""

from __future__ import annotations

import contextlib
import os
import platform
from dataclasses import dataclass
from typing import Any

import torch

from .. import binding
from ..compat import diffusers_calls, diffusers_pipelines, versions
from . import memory, metrics, verdict
from .bisect import bisect as look_into
from .progress import Progress
from .recording import Outputs, Recorder, Run, Watching, counters_of
from .report import Call, Picture, Report
from .shadow import Shadow
from .state import State

SEED = 0


@dataclass
class Settings:
    """What is compared with what, and how thoroughly. engines: of the two sides."""

    sides: tuple[str, str]
    engines: tuple[Any, Any]
    repeats: int = 1
    shadow: bool = False
    bisect: bool = False
    progress: bool = True

    @classmethod
    def of(cls, backends=("torch", "mindspore"), device: str | None = None, **options) -> Settings:
        """Raises ValueError unless there are two backends, UnknownBackend for one nobody registered."""
        names = tuple(backends.split(",") if isinstance(backends, str) else backends)
        if len(names) != 2:
            raise ValueError(f"a comparison needs two backends, got {list(names)}")
        if options.get("repeats", 1) < 0:
            raise ValueError(f"repeats must not be negative, got {options['repeats']}")
        engines = tuple(binding.build(n, device=None if n == "torch" else device) for n in names)
        return cls(names if names[0] != names[1] else (names[0], f"{names[1]} again"), engines, **options)

    def report(self) -> Report:
        """An empty report on these sides."""
        environment = {f"backend {side}": engine.describe() for side, engine in zip(self.sides, self.engines)}
        environment |= {name: versions.installed(name) or "-" for name in versions.RANGES}
        environment |= {
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            "memory": memory.MEANING,
        }
        return Report(self.sides, environment)


def compare(pipe, /, *args, backends=("torch", "mindspore"), device: str | None = None, repeats: int = 1,
            shadow: bool = False, bisect: bool = False, progress: bool = True, **kwargs) -> Report:  # fmt: skip
    """Run ``pipe(*args, **kwargs)`` on two backends from the same seeds and inputs: is it the same picture?

    backends: two registered names, the reference first. device: of a backend other than torch. repeats: measured runs
    a side, after a first one that compiles. shadow: also run every component on both sides from the same inputs, and
    name the first place that differs; bisect: and the first operator in it. progress: bars on stderr.

    Arguments and random states are put back before every run and are at the end as after one call on the reference.
    The user's own step callback runs in every run. Without a ``generator`` both sides get one with seed 0; the report
    says so. A side that fails, and Ctrl-C, end up in the report.
    Raises TypeError if ``pipe`` is no pipeline, ValueError unless there are two backends, UnknownBackend.
    """
    if not diffusers_pipelines.is_pipeline(pipe):
        raise TypeError(f"compare(pipe, …) needs a diffusers pipeline, got {type(pipe).__name__}")
    settings = Settings.of(backends, device, repeats=repeats, shadow=shadow, bisect=bisect, progress=progress)
    report = settings.report()
    arguments = diffusers_calls.bind(pipe, args, kwargs)
    notes = []
    if arguments.get("generator") is None and diffusers_calls.accepts(pipe, "generator"):
        arguments["generator"] = torch.Generator().manual_seed(SEED)
        notes.append(f"no generator was given: both sides were given one with seed {SEED}")
    with contextlib.suppress(KeyboardInterrupt):  # it is in the report
        compare_call(pipe.__call__, pipe, arguments, settings, report, notes)
    return report


def compare_call(call, pipe, arguments: dict, settings: Settings, report: Report, notes=()):
    """Compare one call, add it to the report, and return the reference's output.

    call: the pipeline's own ``__call__``. Raises KeyboardInterrupt, after marking the report. Does not raise what the
    pipeline raises: that is ``report.calls[-1].errors``.
    """
    result = Call(type(pipe).__name__, settings.sides, notes=list(notes))
    report.calls.append(result)
    try:
        # bound once, so that taking components over is in no run's time
        with binding.on(binding.build("torch")), Outputs() as outputs:
            comparison = _Comparison(call, pipe, arguments, settings, result, outputs)
            try:
                comparison.run()
            finally:
                comparison.finish()
        result.complete = True
    except KeyboardInterrupt:
        report.interrupted = True
        raise
    return comparison.first[0].output if comparison.first[0] else None


class _Comparison:
    """The runs of one call."""

    def __init__(self, call, pipe, arguments, settings: Settings, result: Call, outputs: Outputs):
        self._call, self._pipe, self._arguments = call, pipe, arguments
        self._settings, self._result, self._outputs = settings, result, outputs
        self._before = State(arguments)
        self._after: State | None = None
        self.first: list[Run | None] = [None, None]

    def run(self) -> None:
        outputs = self._outputs
        for side, record in enumerate((outputs.keep, outputs.compare)):
            self.first[side] = self._run(side, "first", record)
            if side == 0:
                self._after = State(self._arguments)  # what the caller finds when all is done
        self._settle()
        if self._result.errors:
            return
        for repeat in range(self._settings.repeats):
            for side in (1, 0) if repeat % 2 == 0 else (0, 1):  # whoever goes second finds warmer caches
                self._steady(side, self._run(side, "measured"))
        if self._settings.shadow or self._settings.bisect:
            self._shadow()

    def finish(self) -> None:
        """Compare what there is, and leave arguments and random states as after the reference's call."""
        (self._after or self._before).restore()
        result, (reference, other) = self._result, self.first
        result.differences = self._outputs.differences
        result.dtype = verdict.coarsest(d.dtype for d in result.differences)
        for run in result.runs:
            bad = next((i for i, latents in enumerate(run.latents) if not torch.isfinite(latents).all()), None)
            if bad is not None:
                result.nan_steps.setdefault(run.backend, bad)
        if reference and other:
            result.steps = [metrics.distance(b, a) for a, b in zip(reference.latents, other.latents)]
            result.values = [metrics.distance(b, a) for a, b in zip(reference.tensors, other.tensors)]
            for i, (a, b) in enumerate(zip(reference.pictures, other.pictures)):
                found = {side: metrics.defects(p) for side, p in zip(result.sides, (a, b))}
                result.pictures.append(Picture(i, a, b, metrics.picture_distance(b, a), found))
            self._work()

    def _run(self, side: int, kind: str, record=None, engine=None) -> Run:
        """One run of the call. record: told of every component's output."""
        self._before.restore()
        name = self._settings.sides[side]
        own = engine is None
        run = Run(name if own else " and ".join(self._settings.sides), kind)
        self._result.runs.append(run)
        counted = counters_of(self._settings.engines[side]) if own else {}
        recorder = Recorder(run)
        engine = Watching(self._settings.engines[side], recorder, record) if own else engine(recorder)
        progress = Progress(f"{run.backend}, {kind} run", self._settings.progress, recorder)
        watched = diffusers_calls.watched(self._pipe, self._arguments, bar=progress.bar, step=recorder.step_done)
        with memory.Peak() as peak, binding.on(engine), watched as arguments:
            recorder.begin()
            try:
                run.output = self._call(**arguments)
            except Exception as error:  # noqa: BLE001 - whatever one side raises is a finding
                run.error = error
            finally:
                run.seconds = recorder.now()
                progress.close()
        run.peak_bytes, run.growth_bytes, run.device_bytes = peak.peak, peak.growth, peak.device
        if own:
            now = counters_of(self._settings.engines[side])
            run.counters = {k: v - counted.get(k, 0) for k, v in now.items()}
        if run.error is None:
            run.pictures = diffusers_calls.pictures(run.output)
            run.tensors = [] if run.pictures else diffusers_calls.tensors(run.output)
        return run

    def _settle(self) -> None:
        """What the first runs tell besides figures."""
        result = self._result
        for run in self.first:
            if run.error is not None:
                result.errors[run.backend] = run.error
        if not self.first[0].latents:
            result.notes.append(f"{result.pipeline} shows no latents ({diffusers_calls.CALLBACK}): no error by step")
        for run in self.first:
            fallbacks = run.counters.get("fallbacks", 0)
            if fallbacks:
                result.notes.append(
                    f"{fallbacks:g} of {len(run.events)} component calls fell back to torch on {run.backend}"
                )
            if watched := run.counters.get("watched", 0):
                calls = f"{watched:g} of {len(run.events)} component calls on {run.backend}"
                result.notes.append(f"{calls} were watched by a hook or mode, and so computed by torch")

    def _steady(self, side: int, run: Run) -> None:
        """Does a later run, on compiled graphs, draw what the first drew?"""
        if run.error is not None:
            self._result.errors[run.backend] = run.error
        off = [metrics.picture_distance(b, a).off for a, b in zip(self.first[side].pictures, run.pictures)]
        if off:
            self._result.unsteady[run.backend] = max(off + [self._result.unsteady.get(run.backend, 0.0)])
        drift = [metrics.distance(b, a).relative_rms for a, b in zip(self.first[side].tensors, run.tensors)]
        if drift:
            self._result.drift[run.backend] = max(drift + [self._result.drift.get(run.backend, 0.0)])
        run.pictures, run.tensors, run.output = [], [], None

    def _shadow(self) -> None:
        shadows: list[Shadow] = []

        def engine(recorder):
            shadows.append(Shadow(*self._settings.engines, recorder, looking=self._settings.bisect))
            return shadows[0]

        try:
            run = self._run(0, "shadow", engine=engine)
        finally:
            self._result.shadow = shadows[0].differences if shadows else []
        if run.error is not None:
            self._result.errors[run.backend] = run.error
        suspect = shadows[0].suspect
        if suspect is not None:
            progress = Progress(f"operators of {suspect.site.label}", self._settings.progress)
            self._result.bisect = look_into(suspect, *self._settings.engines, progress.bar)

    def _work(self) -> None:
        """Did both sides do the same, and did anything but upstream's own code run?"""
        result, (reference, other) = self._result, self.first
        counts = [{}, {}]
        for count, run in zip(counts, self.first):
            for event in run.events:
                count[event.place.component] = count.get(event.place.component, 0) + 1
        for component in counts[0] | counts[1]:
            a, b = (count.get(component, 0) for count in counts)
            if a != b:
                result.missing.append(f"{component} ran {a} times on {result.sides[0]}, {b} times on {result.sides[1]}")
        if len(reference.pictures) != len(other.pictures):
            result.missing.append(f"{len(reference.pictures)} pictures against {len(other.pictures)}")
        if self._settings.engines[0] is self._settings.engines[1]:
            return  # a backend against itself: is it repeatable?
        left = [run.counters.get("fallbacks", 0) + run.counters.get("watched", 0) for run in self.first]
        on_torch = [run.upstream + n >= len(run.events) for run, n in zip(self.first, left)]
        if all(on_torch):
            sides = " and ".join(result.sides)
            result.vacuous = f"every component ran as upstream's own code on {sides}: no backend was compared"
