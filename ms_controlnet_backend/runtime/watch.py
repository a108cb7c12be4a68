"""Looks at all converted weights of a graph at once: one comparison before every call in place of one a weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..compat.torch_export import version_of
from .resident import on_host
from .weights import Weight, step_of_sample


class Watch:
    """weights: each is refreshed when its torch tensor changed in place (see ``Weight.refresh``)."""

    def __init__(self, weights: Sequence[Weight]):
        self._weights = weights
        self.forget()

    def forget(self) -> None:
        """Hold on to nobody's memory; the next call looks at each weight."""
        self._states: list | None = None
        self._views: dict[torch.dtype, list[torch.Tensor]] = {}
        self._values: dict[torch.dtype, torch.Tensor] = {}

    def refresh(self) -> None:
        """Convert again what was changed since the last call."""
        tensors = [on_host(w.source()) for w in self._weights]
        if self._states == _states(tensors) and all(torch.equal(a, self._values[d]) for d, a in self._now()):
            return
        for weight in self._weights:
            weight.refresh()
        self._look(tensors)

    def _look(self, tensors) -> None:
        """Remember what the tensors are; nothing where one of them cannot be looked at so."""
        self.forget()
        for t in tensors:
            view = None if t is None else _sample(t)
            if view is None:
                return self.forget()
            self._views.setdefault(t.dtype, []).append(view)
        self._states, self._values = _states(tensors), dict(self._now())

    def _now(self):
        return ((dtype, torch.cat(views)) for dtype, views in self._views.items())


def _states(tensors) -> list:
    return [t if t is None else (t.data_ptr(), version_of(t)) for t in tensors]


def _sample(t: torch.Tensor) -> torch.Tensor | None:
    """A view of its sample, spread evenly over the memory; None where the elements do not lie together. Of a tensor on
    an accelerator nothing is looked at but its version."""
    if t.device.type != "cpu":
        return t.new_empty(0, device="cpu")
    if not (t.is_contiguous() or t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last)):
        return None
    return t.detach().as_strided((t.numel(),), (1,), t.storage_offset())[:: step_of_sample(t)]
