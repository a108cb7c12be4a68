"""One run in which every component computes on both sides from the same inputs: the first place that differs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

from .recording import Difference, Recorder, compare_tensors, tensors_of
from .state import State
from .verdict import beyond


@dataclass
class Suspect:
    """The first component call that differs, with what it was called with, to be looked into."""

    difference: Difference
    site: object
    original: object
    args: tuple
    kwargs: dict


class Shadow:
    """An engine that computes every component on the other engine too, and goes on with the reference's output.

    looking: keep the inputs of the first call that differs, as ``suspect``. Both sides draw the same random numbers.
    """

    def __init__(self, reference, other, recorder: Recorder, looking: bool):
        self._reference, self._other, self._recorder = reference, other, recorder
        self._looking = looking
        self._inside = None  # the engine in force inside a component: a site inside a site belongs to the same side
        self.differences: list[Difference] = []
        self.suspect: Suspect | None = None

    def component(self, site):
        if self._inside is not None:
            return self._inside.component(site)

        def call(original, args, kwargs):
            place = self._recorder.place(site.label)
            keep = self._looking and self.suspect is None
            inputs = pytree.tree_map_only(torch.Tensor, torch.clone, (args, kwargs)) if keep else None
            before = State(())
            expected = self._run(self._reference, site, original, args, kwargs)
            reference = [t.clone() for t in tensors_of(expected)]  # a backend may use the memory again
            after = State(())
            before.restore()
            got = tensors_of(self._run(self._other, site, original, args, kwargs))
            after.restore()
            found = compare_tensors(place, got, reference)
            self.differences += found
            wrong = next((d for d in found if beyond(d, "component")), None)
            if wrong is not None and keep:
                self.suspect = Suspect(wrong, site, original, *inputs)
            return expected

        return call

    def _run(self, engine, site, original, args, kwargs):
        handler = engine.component(site)
        self._inside = engine
        try:
            return original(*args, **kwargs) if handler is None else handler(original, args, kwargs)
        finally:
            self._inside = None

    def describe(self) -> str:
        return f"{self._reference.describe()} shadowed by {self._other.describe()}"
