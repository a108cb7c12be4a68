"""``ms-controlnet verify``: every lowering and every component against torch on the device that is there, as a report
to send back from a machine that nobody else has."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace

import torch

from . import binding, doctor
from .ab.metrics import distance, dtype_name
from .ab.recording import Recorder, Run
from .ab.shadow import Shadow
from .ab.verdict import beyond, tolerance
from .compat import versions
from .hookspecs import Options
from .lowering.trial import in_float32, trial
from .plugins import registry
from .runtime.component import MindSporeEngine
from .runtime.stats import Stats

FORMAT = 1
"""Of the report."""


@dataclass
class Finding:
    """One thing that was verified. error: relative root mean square of the difference from torch; limit: what it may
    be. seconds: of an operator with its compilation, of a component's call without. problem: what was raised, or what
    else is wrong."""

    name: str
    dtype: str
    ok: bool
    error: float | None = None
    limit: float | None = None
    seconds: float = 0.0
    problem: str = ""


@dataclass
class Report:
    """device: in one line. machine: what ``doctor`` says of it, problems: what it finds wrong."""

    device: str
    machine: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    operators: list[Finding] = field(default_factory=list)
    components: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.operators or self.components) and all(f.ok for f in self.operators + self.components)

    def to_dict(self) -> dict:
        installed = {name: versions.installed(name) for name in versions.RANGES}
        return {"format": FORMAT, "ok": self.ok, "versions": installed, **asdict(self)}

    def lines(self) -> list[str]:
        text = [f"device        {self.device}", *self.machine, *(f"problem       {p}" for p in self.problems), ""]
        for title, findings in (("operators", self.operators), ("components", self.components)):
            wrong = [f for f in findings if not f.ok]
            text += [f"{title}: {len(findings) - len(wrong)} of {len(findings)} as torch's"]
            text += [_line(f) for f in (wrong if title == "operators" else findings)]
        return [*text, "", "VERIFIED" if self.ok else "NOT VERIFIED: what is marked with ! differs or fails"]


def _line(f: Finding) -> str:
    figures = "" if f.error is None else f" error {f.error:.1e} (limit {f.limit:.0e}), {f.seconds:.3g} s"
    return f"  {' ' if f.ok else '!'} {f.name} {f.dtype}{figures}{' ' + f.problem if f.problem else ''}"


def verify(engine: MindSporeEngine, pipe=None, call: dict | None = None, dtypes=(torch.float32,),
           progress: Callable = iter) -> Report:  # fmt: skip
    """What the engine computes against torch: the samples of every lowering in each dtype, and, of the pipeline if
    there is one, every component in a call with these arguments. progress: wraps the list of operators."""
    machine, problems = doctor.report(engine.options.device)
    report = Report(engine.describe(), machine, problems)
    cases = [(op, i, s, d) for op in registry().overloads(engine.target.device)
             for i, s in enumerate(registry().samples(op, engine.target.device)) for d in dtypes]  # fmt: skip
    alone = _without_passes(engine)
    report.operators = [_operator(alone, *case) for case in progress(cases)]
    if pipe is not None:
        report.components = list(_components(engine, pipe, call or {}))
    return report


def _without_passes(engine: MindSporeEngine) -> MindSporeEngine:
    """The same device; graph passes would fold a single operator away."""
    names = frozenset(p.name for p in registry().passes(engine.target.device))
    options = Options(device=engine.options.device, strict=True, cache_dir=engine.options.cache_dir)
    return MindSporeEngine(replace(engine.target, without=engine.target.without | names), options)


def _operator(engine: MindSporeEngine, op, index: int, sample, dtype: torch.dtype) -> Finding:
    finding = Finding(f"{op}-{index}", dtype_name(dtype), ok=False)
    started = time.perf_counter()
    try:
        captured, tensors, returned = trial(op, sample.args, sample.kwargs, torch.Generator().manual_seed(0), dtype)
        expected = in_float32(captured, tensors)
        got = engine.evaluate(captured, tensors)
    except Exception as error:  # noqa: BLE001 - whatever a driver or kernel raises is what is looked for
        finding.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        return finding
    finding.seconds = time.perf_counter() - started
    apart = [distance(g, e) for g, e in zip(got, expected, strict=True)]
    finding.limit = tolerance(finding.dtype).operator
    finding.error = max(d.relative_rms for d in apart)
    wrong = [f"{g.dtype} instead of {r.dtype}" for g, r in zip(got, returned) if g.dtype != r.dtype]
    finding.problem = wrong[0] if wrong else "" if all(d.finite for d in apart) else "NaN or infinite"
    finding.ok = not finding.problem and finding.error <= finding.limit
    return finding


def _components(engine: MindSporeEngine, pipe, call: dict) -> Iterator[Finding]:
    """Each component's worst output in the call; torch's outputs are what the pipeline goes on with."""
    shadow = Shadow(binding.build("torch"), engine, Recorder(Run("shadow", "shadow")), looking=False)
    failed = None
    try:
        with binding.on(shadow), torch.no_grad():
            pipe(**call)
    except Exception as error:  # noqa: BLE001 - goes into the report, as above
        failed = Finding("the pipeline's call", "", False, problem=f"{type(error).__name__}: {error}")
    stats = engine.stats()
    for label in dict.fromkeys(d.place.component for d in shadow.differences):
        found = [d for d in shadow.differences if d.place.component == label]
        worst = max(found, key=lambda d: d.distance.relative_rms if d.distance.finite else float("inf"))
        done = stats.get(label, Stats())
        left = done.calls == 0 or done.fallbacks + done.watched > 0
        problem = "stayed on torch" if left else f"in {done.parts} parts: {done.left.get(label)}" if done.parts else ""
        yield Finding(
            label, worst.dtype, not problem and not any(beyond(d, "component") for d in found),
            worst.distance.relative_rms, tolerance(worst.dtype).component,
            done.seconds / max(1, done.calls - done.compiles), problem,
        )  # fmt: skip
    if failed:
        yield failed
