"""An engine whose components answer with zeros: to see what a pipeline would have compiled, for any device."""

from __future__ import annotations

import torch

from ..hookspecs import Compiled, Options
from ..layout import laid_out
from .component import MindSporeEngine
from .target import Target
from .watch import Watch


class Blank:
    """In place of an executable: its output with every tensor zero."""

    prologue = baked = None
    draws = False
    described = property(lambda self: None, lambda self, value: None)  # each is looked at
    watch = Watch(())

    def __init__(self, captured):
        self.event = Compiled(captured.name)
        self._captured = captured

    def zeros(self):
        zeros = [torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in self._captured.layouts]
        return self._captured.rebuild([laid_out(z, x.strides) for z, x in zip(zeros, self._captured.layouts)])

    def follow(self, moved) -> None:
        return None

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
