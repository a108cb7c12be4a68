"""An engine whose components answer with zeros: to see what a pipeline would have compiled, for any device."""

from __future__ import annotations

import torch

from ..hookspecs import Compiled, Options
from .component import MindSporeEngine
from .target import Target
from .watch import Watch


class Blank:
    """In place of an executable: its output with every tensor zero."""

    prologue = baked = None
    draws = False
    watch = Watch(())

    def __init__(self, captured):
        self.event = Compiled(captured.name)
        self._captured = captured

    def zeros(self):
        values = [n.meta["val"] for n in self._captured.outputs]
        return self._captured.rebuild([torch.zeros(v.shape, dtype=v.dtype) for v in values])

    def __call__(self, tensors, count):
        return self.zeros()

    def convert(self) -> None:
        pass


class BlankEngine(MindSporeEngine):
    """Captures every site that is called, runs the graph passes and hands the graph to :meth:`look`."""

    in_parts = False

    def __init__(self, target: Target, cache_dir: str | None = None):
        super().__init__(target, Options(device=target.device, cache_dir=cache_dir))

    def look(self, captured, constant) -> None:
        """Raises Refused for what is to stay on torch. constant: as of :func:`.executable.build`."""
        raise NotImplementedError

    def build(self, captured, tensors, *, constant=(), **options):
        self.optimise(captured)
        self.look(captured, constant)
        blank = Blank(captured)
        return blank, blank.zeros()

    def tell(self, event: Compiled) -> None:
        """Nothing was compiled."""
