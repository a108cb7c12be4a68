"""ATen overload → MindSpore: the built-in families, and the decorator that declares a lowering with its samples."""

from __future__ import annotations

import importlib

from ..hookspecs import Lowering, Sample, hookimpl

FAMILIES = ("arithmetic", "reductions", "shape", "indexing", "linear", "conv", "norm", "attention", "pooling")
ASCEND = ("activation", "attention", "conv", "indexing", "linear", "norm")


class Family(list):
    """The lowerings of one file, in the order they are declared."""

    def lowers(self, *ops, samples=(), target: str | None = None):
        """Declare a function as the lowering of one or more overloads.

        samples: :class:`Sample` objects, or tuples of positional arguments; each becomes a parity test against torch.
        """
        wrapped = tuple(s if isinstance(s, Sample) else Sample(tuple(s)) for s in samples)

        def declare(function):
            self.extend(Lowering(op, function, wrapped, target=target) for op in ops)
            return function

        return declare


@hookimpl
def register_lowerings():
    names = [*FAMILIES, *(f"ascend.{name}" for name in ASCEND)]
    families = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [lowering for family in families for lowering in family.family]
