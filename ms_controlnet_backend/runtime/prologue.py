"""Results that are constant over the steps of a run, kept until something they were computed from changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..compat.storages import Memory
from .identity import identities
from .recent import Recent
from .resident import on_host, plain
from .weights import Weight


@dataclass
class Prologue:
    """order: which tensors of the call are its inputs. once_a_run: does one of them change from run to run? limit: of
    how many runs that take turns the results are kept.

    Results are used again only if every input is the same tensor (same memory, shape and version) with the same
    contents, and every weight has the same version and contents. They are dropped when the memory of an input is: the
    run is over.
    """

    cell: Any
    weights: list[Weight]
    order: list[int]
    once_a_run: bool
    limit: int = 1
    runs: int = 0
    _known: Recent = field(init=False)  # key → (memory of the inputs, results)

    def __post_init__(self):
        self._known = Recent(self.limit)

    def results(self, tensors: list[torch.Tensor], to_device, first: Callable[[], None]) -> tuple:
        """The device tensors for the step, computed now if need be, after calling ``first``."""
        inputs = [plain(tensors[i]) for i in self.order]
        weights = [on_host(w.source()) for w in self.weights if not w.constant]  # None: the device alone has it
        key = identities(inputs + [t for t in weights if t is not None]), tuple(t is None for t in weights)
        memory, results = self._known.use(key) or (None, None)
        if memory is None or not memory.is_there():
            for over in [k for k, (memory, _) in self._known.items() if not memory.is_there()]:
                del self._known[over]
            first()
            results = tuple(self.cell(*(to_device(t) for t in inputs)))
            self._known.keep(key, (Memory(inputs), results))
            self.runs += 1
        return results
