"""What happens in one run of a pipeline call: an engine that watches another, and the record it fills."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..compat import accelerators
from .metrics import Distance, distance, dtype_name


@dataclass(frozen=True)
class Place:
    """Where in a call a component ran. call: how often the component had run before. step: of the denoising loop,
    from 0, None outside it. stage: ``"before"`` the loop, in its ``"steps"``, or ``"after"`` it."""

    component: str
    call: int
    stage: str
    step: int | None

    def __str__(self) -> str:
        return f"{self.component}, " + (f"step {self.step}" if self.step is not None else f"{self.stage} the steps")


@dataclass(frozen=True)
class Event:
    """A component's call. start: seconds since the run began. compiled: was a graph compiled in it?"""

    place: Place
    start: float
    seconds: float
    compiled: bool = False


@dataclass(frozen=True)
class Difference:
    """An output tensor of a component against the reference's. output: its index among the tensors returned."""

    place: Place
    output: int
    shape: tuple[int, ...]
    dtype: str
    distance: Distance


@dataclass
class Run:
    """One run of the call on one backend. kind: ``"first"``, ``"measured"`` or ``"shadow"``. seconds: whole call, the
    comparison's own work taken off. counters: what the backend's ``stats()`` grew by. upstream: component calls that
    the backend left to upstream's own code, of ``len(events)``."""

    backend: str
    kind: str
    seconds: float = 0.0
    events: list[Event] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)
    pictures: list = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    peak_bytes: int | None = None
    growth_bytes: int | None = None
    device_bytes: int | None = None
    counters: dict[str, float] = field(default_factory=dict)
    upstream: int = 0
    output: Any = None
    error: BaseException | None = None


class Recorder:
    """Fills a Run while it runs. Its clock stands still while the comparison itself works (:meth:`own_time`), and is
    read when devices have done what they were given."""

    def __init__(self, run: Run):
        self.run = run
        self.stage, self.step = "before", None
        self.nested = False
        self._calls: dict[str, int] = {}
        self._step_began = 0.0
        self.begin()

    def begin(self) -> None:
        """The run begins now."""
        self._own, self._began = 0.0, time.perf_counter()

    def now(self) -> float:
        """Seconds since the run began."""
        accelerators.synchronize()
        return time.perf_counter() - self._began - self._own

    @contextlib.contextmanager
    def own_time(self):
        started = time.perf_counter()
        try:
            yield
        finally:
            self._own += time.perf_counter() - started

    def place(self, component: str) -> Place:
        call = self._calls.get(component, 0)
        self._calls[component] = call + 1
        return Place(component, call, self.stage, self.step)

    def loop_begins(self) -> None:
        self.stage, self.step = "steps", 0
        self._step_began = self.now()

    def step_done(self, index: int, latents) -> None:
        if self.stage == "before":  # a pipeline without a progress bar: its first step went by unseen
            self.stage = "steps"
        self.run.step_seconds.append(self.now() - self._step_began)
        with self.own_time():
            if isinstance(latents, torch.Tensor):
                self.run.latents.append(latents.detach().cpu().clone())
        self.step = index + 1
        self._step_began = self.now()

    def loop_ends(self) -> None:
        self.stage, self.step = "after", None


class Watching:
    """An engine that runs another's components and records them.

    output: told ``(place, tensors)`` of every component call, or None. Sites inside sites are part of the outer one.
    """

    def __init__(self, engine, recorder: Recorder, output=None):
        self._engine, self._recorder, self._output = engine, recorder, output

    def component(self, site):
        inner = self._engine.component(site)
        recorder = self._recorder
        if recorder.nested:
            return inner

        def call(original, args, kwargs):
            place, compiles = recorder.place(site.label), compiles_of(self._engine)
            recorder.nested = True
            start = recorder.now()
            try:
                result = original(*args, **kwargs) if inner is None else inner(original, args, kwargs)
            finally:
                recorder.nested = False
            seconds = recorder.now() - start
            recorder.run.events.append(Event(place, start, seconds, compiles_of(self._engine) > compiles))
            recorder.run.upstream += inner is None
            if self._output is not None:
                with recorder.own_time():
                    self._output(place, tensors_of(result))
            return result

        return call

    def describe(self) -> str:
        return self._engine.describe()


def tensors_of(output) -> list[torch.Tensor]:
    """The tensors in a component's output, in order."""
    return [x.detach() for x in pytree.tree_leaves(output) if isinstance(x, torch.Tensor)]


def counters_of(engine) -> dict[str, float]:
    """Sums over all components of whatever numbers the engine counts; empty for an engine that counts nothing."""
    total: dict[str, float] = {}
    for numbers in getattr(engine, "stats", dict)().values():
        for f in dataclasses.fields(numbers):
            value = getattr(numbers, f.name)
            if isinstance(value, (int, float)):
                total[f.name] = total.get(f.name, 0) + value
    return total


def compiles_of(engine) -> float:
    return counters_of(engine).get("compiles", 0)


class Outputs:
    """The reference's component outputs, on disk (a full-size run returns gigabytes), and what the other side's are
    compared with. A context manager: the files go with it."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="ms_controlnet_compare-")
        self._files: dict[tuple, Path] = {}
        self.differences: list[Difference] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._folder.cleanup()

    def keep(self, place: Place, tensors: list[torch.Tensor]) -> None:
        path = Path(self._folder.name, f"{len(self._files)}.pt")
        torch.save([t.cpu().contiguous() for t in tensors], path)
        self._files[place.component, place.call] = path

    def compare(self, place: Place, tensors: list[torch.Tensor]) -> None:
        """Differences from what the reference's same call returned; a call it did not make is left out."""
        path = self._files.get((place.component, place.call))
        if path is not None:
            self.differences += compare_tensors(place, tensors, torch.load(path))
            path.unlink()


def compare_tensors(place: Place, got: list, reference: list) -> list[Difference]:
    """One Difference a tensor; one that only one side returned is infinitely far from nothing."""
    found = []
    for i in range(max(len(got), len(reference))):
        if i < len(got) and i < len(reference):
            apart, t = distance(got[i], reference[i]), reference[i]
        else:
            apart, t = Distance(float("inf"), float("inf"), 0.0, False), (got if i < len(got) else reference)[i]
        found.append(Difference(place, i, tuple(t.shape), dtype_name(t.dtype), apart))
    return found
