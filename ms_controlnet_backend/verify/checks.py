"""Operators and components against torch, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch

from .. import binding
from ..ab.metrics import distance, dtype_name
from ..ab.recording import Recorder, Run
from ..ab.shadow import Shadow
from ..ab.verdict import beyond, tolerance
from ..hookspecs import Options
from ..lowering.trial import in_float32, trial
from ..plugins import registry
from ..runtime.component import MindSporeEngine
from ..runtime.stats import Stats
from .report import Finding


class Case(NamedTuple):
    """A sample of a lowering in a dtype."""

    op: object
    index: int
    sample: object
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return f"{self.op}-{self.index}"

    @property
    def label(self) -> str:
        return f"{self.name} {dtype_name(self.dtype)}"


def cases(device: str, dtypes: Iterable[torch.dtype]) -> list[Case]:
    """All there are for a device, in one order."""
    return [Case(op, i, s, d) for op in registry().overloads(device)
            for i, s in enumerate(registry().samples(op, device)) for d in dtypes]  # fmt: skip


def operators(engine: MindSporeEngine, tried: list[Case], say: Callable[[Case], None] = lambda case: None
              ) -> Iterator[Finding]:  # fmt: skip
    """Each of these. say: called before it is tried."""
    alone = without_passes(engine)
    for case in tried:
        say(case)
        yield _operator(alone, case)


def without_passes(engine: MindSporeEngine) -> MindSporeEngine:
    """The same device; graph passes would fold a single operator away."""
    names = frozenset(p.name for p in registry().passes(engine.target.device))
    options = Options(device=engine.options.device, strict=True, cache_dir=engine.options.cache_dir)
    return MindSporeEngine(replace(engine.target, without=engine.target.without | names), options)


def _operator(engine: MindSporeEngine, case: Case) -> Finding:
    op, _, sample, dtype = case
    finding = Finding(case.name, dtype_name(dtype), ok=False)
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


def components(engine: MindSporeEngine, pipe, call: dict, side=None) -> Iterator[Finding]:
    """Each component's worst output in the call; torch's outputs are what the pipeline goes on with. side: what stands
    for the engine in the comparison."""
    shadow = Shadow(binding.build("torch"), side or engine, Recorder(Run("shadow", "shadow")), looking=False)
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
        why = f": {done.left[label]}" if label in done.left else ""
        problem = f"stayed on torch{why}" if left else f"in {done.parts} parts{why}" if done.parts else ""
        yield Finding(
            label, worst.dtype, not problem and not any(beyond(d, "component") for d in found),
            worst.distance.relative_rms, tolerance(worst.dtype).component,
            done.seconds / max(1, done.calls - done.compiles), problem,
        )  # fmt: skip
    if failed:
        yield failed
