"""Graphs of structures that a module had and may have again: a LoRA is off for one request, and on for the next."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..errors import Refused
from ..settings import Settings
from .recent import Recent
from .snapshot import Snapshot

KEPT = 4
"""Structures remembered beside the present one."""


@dataclass
class Variant:
    """What is known of a module in one structure. graphs: signature → Executable. refused: signature → why there is
    none, and the settings it was refused with."""

    graphs: Recent
    snapshot: Snapshot | None = None
    settings: Settings = field(default_factory=Settings)
    refused: dict[tuple, tuple[Refused, tuple]] = field(default_factory=dict)

    def forget(self) -> None:
        self.graphs.clear(), self.refused.clear()
        self.snapshot = None


class Variants:
    """The former ones. One whose weights have left the module, those of an unloaded LoRA, is dropped: it would keep
    them from being freed."""

    def __init__(self):
        self._kept: list[Variant] = []  # the latest is the last one

    def keep(self, variant: Variant) -> None:
        self._kept = [*self._kept, variant][-KEPT:]

    def take(self, module: torch.nn.Module) -> Variant | None:
        """The one whose structure the module has again, which is no former one any more."""
        self._kept = [v for v in self._kept if v.snapshot.has_weights_of(module)]
        found = next((v for v in reversed(self._kept) if v.snapshot.same()), None)
        if found is not None:
            self._kept.remove(found)
        return found

    def shrink(self, limit: int) -> int:
        """Drop graphs, the oldest first, until there are no more than that; how many were dropped."""
        dropped = 0
        while sum(len(v.graphs) for v in self._kept) > max(0, limit):
            self._kept[0].graphs.popitem(last=False)
            dropped += 1
            self._kept = [v for v in self._kept if v.graphs]
        return dropped

    def clear(self) -> None:
        self._kept.clear()
