"""Results that are constant over the steps of a run, kept until something they were computed from changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .identity import identities
from .resident import on_host, plain
from .weights import Weight


@dataclass
class Prologue:
    """order: which tensors of the call are its inputs. once_a_run: does one of them change from run to run?

    The results are used again only if every input is the same tensor (same memory, shape and version) with the same
    contents, and every weight has the same version and contents.
    """

    cell: Any
    weights: list[Weight]
    order: list[int]
    once_a_run: bool
    runs: int = 0
    _key: tuple | None = None
    _held: list = field(default_factory=list)  # keeps the memory from being used for another tensor
    _results: tuple = ()

    def results(self, tensors: list[torch.Tensor], to_device, first: Callable[[], None]) -> tuple:
        """The device tensors for the step, computed now if need be, after calling ``first``."""
        inputs = [plain(tensors[i]) for i in self.order]
        weights = [on_host(w.source()) for w in self.weights if not w.constant]  # None: the device alone has it
        key = identities(inputs + [t for t in weights if t is not None]), [t is None for t in weights]
        if key != self._key:
            self._key = None  # nothing to be found if the run below fails
            first()
            self._results = tuple(self.cell(*(to_device(t) for t in inputs)))
            self._key, self._held = key, inputs
            self.runs += 1
        return self._results
