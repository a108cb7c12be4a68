"""Weights changed once, before they are fed, so that the graph need not change what it computes with them.

Each is a function from the torch tensor to the one fed; equal ones on one weight share their result. Those that are
``faithful`` keep every number: ``undo`` gives the torch tensor of that shape back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PadHeads:
    """(heads * size, …) → (heads * width, …): zeros at the end of each head of a projection's output."""

    heads: int
    width: int
    faithful = True

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        size = weight.shape[0] // self.heads
        parts = weight.reshape(self.heads, size, *weight.shape[1:])
        padded = parts.new_zeros(self.heads, self.width, *weight.shape[1:])
        padded[:, :size] = parts
        return padded.flatten(0, 1)

    def undo(self, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        parts = weight.reshape(self.heads, self.width, *weight.shape[1:])
        return parts[:, : shape[0] // self.heads].reshape(shape)


@dataclass(frozen=True)
class PadColumns:
    """(out, heads * size) → (out, heads * width): what takes padded heads, and gives their zeros no weight."""

    heads: int
    width: int
    faithful = True

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return PadHeads(self.heads, self.width)(weight.t()).t()

    def undo(self, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return PadHeads(self.heads, self.width).undo(weight.t(), shape[::-1]).t()


@dataclass(frozen=True)
class Transposed:
    """(out, in) → (in, out), after ``first`` where there is one: a right-hand side of a product."""

    first: Callable | None = None

    @property
    def faithful(self) -> bool:
        return self.first is None or getattr(self.first, "faithful", False)

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return (weight if self.first is None else self.first(weight)).t()

    def undo(self, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return weight.t() if self.first is None else self.first.undo(weight.t(), shape)
