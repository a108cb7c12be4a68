"""One MindSpore Parameter per torch tensor, shared by every graph that uses the tensor.

On CPU a float32 weight is not copied: the Parameter lies on torch's memory and sees in-place changes. A weight in
another dtype or layout is converted once and converted again when the original changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..compat import mindspore_runtime
from .target import Target


def version_of(t: torch.Tensor) -> int:
    """torch's in-place counter; inference tensors have none and cannot be changed outside inference mode."""
    return -1 if t.is_inference() else t._version


@dataclass
class Weight:
    """host: the contiguous array the Parameter lies on, in the shape the graph wants. shared: is that torch's own
    memory? constant: belongs to one graph and never changes."""

    parameter: Any
    host: torch.Tensor
    shared: bool
    address: int
    version: int
    source: Callable[[], torch.Tensor | None]
    constant: bool = False

    def moved(self) -> bool:
        """Does the torch tensor now live elsewhere (or not at all)? Graphs on this Weight are then stale."""
        t = self.source()
        return t is None or t.data_ptr() != self.address

    def refresh(self, force: bool = False) -> bool:
        """Convert again if the torch tensor was changed in place; True if it was."""
        t = self.source()
        if t is None or t.numel() != self.host.numel():  # replaced: no true graph uses this Weight any more
            return False
        version = version_of(t)
        if self.shared or (version == self.version and not force):
            self.version = version
            return False
        self.host.copy_(t.detach().reshape(self.host.shape))
        self.version = version
        return True


class WeightStore:
    """(torch tensor, shape) → Weight, for one target. A graph may want a weight reshaped (a convolution's as a
    matrix): that is a view of the same memory, where a Reshape in the graph would copy it in every call."""

    def __init__(self, target: Target):
        self._target = target
        self._weights: dict[tuple, Weight] = {}
        self._count = 0

    def get(self, t: torch.Tensor, name: str, shape: tuple[int, ...]) -> Weight:
        """The Weight of a tensor; a new one if the tensor moved since."""
        key = id(t), shape
        known = self._weights.get(key)
        if known is not None and known.source() is t and not known.moved():
            if known.host.dtype == self._target.host_dtype(t.dtype) and known.host.numel() == t.numel():
                known.refresh()  # it may have changed since the last graph that used it ran
                return known
        weight = self._make(t, name, shape)
        weight.source = weakref.ref(t, lambda _: self._weights.pop(key, None))
        self._weights[key] = weight
        return weight

    def constant(self, t: torch.Tensor, name: str, shape: tuple[int, ...]) -> Weight:
        """A Weight of a tensor that belongs to one graph."""
        weight = self._make(t, name, shape)
        weight.source, weight.constant = (lambda: t), True
        return weight

    def _make(self, t: torch.Tensor, name: str, shape: tuple[int, ...]) -> Weight:
        with torch.no_grad():
            data = t.detach()
            host = data.to(device="cpu", dtype=self._target.host_dtype(t.dtype)).contiguous().reshape(shape)
        shared = host.data_ptr() == t.data_ptr() and host.data_ptr() != 0
        self._count += 1
        parameter = mindspore_runtime.parameter(host.numpy(), f"w{self._count}.{name}")
        return Weight(parameter, host, shared, t.data_ptr(), version_of(t), lambda: None)
