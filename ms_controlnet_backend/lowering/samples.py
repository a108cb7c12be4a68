"""Sample tensors for the parity tests of lowerings: described here, made by the tests from a seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class T:
    """A sample tensor. kind: ``"float"`` (normal), ``"positive"``, ``"int"`` (0 … high-1) or ``"bool"``.

    weight: fed as a module parameter (where a lowering treats weights differently), not as an input.
    """

    shape: tuple[int, ...]
    kind: str = "float"
    high: int = 10
    weight: bool = False

    def make(self, generator):
        """The torch tensor, float32, int64 or bool."""
        import torch

        if self.kind == "int":
            return torch.randint(0, self.high, self.shape, generator=generator)
        x = torch.randn(self.shape, generator=generator)
        return {"float": x, "positive": x.abs() + 0.1, "bool": x > 0}[self.kind]


def t(*shape, **kwargs) -> T:
    """Short for ``T(shape)``."""
    return T(tuple(shape), **kwargs)
