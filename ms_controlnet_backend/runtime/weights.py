"""One MindSpore Parameter per torch tensor, shared by every graph that uses the tensor.

On CPU a float32 weight is not copied: the Parameter lies on torch's memory and sees in-place changes. A weight in
another dtype or layout is converted once and converted again when the original changed: when its version did, when a
sample of its elements did (writes through ``.data`` leave no version), and once a run whatever they say.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..compat import mindspore_runtime
from ..lowering.program import Program
from .target import Target

SAMPLE = 32
"""Elements of a converted weight that are looked at before every call."""


def version_of(t: torch.Tensor) -> int:
    """torch's in-place counter; inference tensors have none and cannot be changed outside inference mode."""
    return -1 if t.is_inference() else t._version


def checksum(t: torch.Tensor) -> int:
    """The sum of a tensor's bits, read as 64-bit numbers where that is possible: a fifth of a conversion's time."""
    flat = t.detach().contiguous().view(-1)
    per_word = 8 // flat.element_size()
    aligned = flat.data_ptr() % 8 == 0 and flat.storage_offset() % per_word == 0
    words = flat.numel() // per_word * per_word if aligned else 0
    total = flat[:words].view(torch.int64).sum().item() if words else 0
    return total + flat[words:].view(torch.uint8).sum().item()


@dataclass
class Weight:
    """host: the contiguous array the Parameter lies on, in the shape the graph wants. shared: is that torch's own
    memory? constant: belongs to one graph and never changes. prepare: from the torch tensor to what ``host`` holds.
    upload: the Parameter has memory of its own, to which a change must be copied."""

    parameter: Any
    host: torch.Tensor
    shared: bool
    address: int
    version: int
    source: Callable[[], torch.Tensor | None]
    prepare: Callable[[torch.Tensor], torch.Tensor]
    size: int
    constant: bool = False
    checksum: int = 0
    upload: bool = False
    _sample: tuple | None = None

    def moved(self) -> bool:
        """Does the torch tensor now live elsewhere (or not at all)? Graphs on this Weight are then stale."""
        t = self.source()
        return t is None or t.data_ptr() != self.address

    def refresh(self, thoroughly: bool = False) -> bool:
        """Convert again if the torch tensor was changed in place; True if it was. thoroughly: look at all of it."""
        t = self.source()
        if t is None or t.numel() != self.size:  # replaced: no true graph uses this Weight any more
            return False
        version = version_of(t)
        unchanged = self.shared or (version == self.version and self._sample_is_true(t))
        if unchanged and not (thoroughly and not self.shared and checksum(t) != self.checksum):
            self.version = version
            return False
        if self.host.data_ptr() != t.data_ptr():
            self.host.copy_(self.prepare(t.detach()))
        if self.upload:
            mindspore_runtime.assign(self.parameter, self.host)
        self.version, self.checksum = version, checksum(t)
        self.take_sample(t)
        return True

    def take_sample(self, t: torch.Tensor) -> None:
        """Remember some elements, spread evenly, of what was converted."""
        step = max(1, t.numel() // SAMPLE) | 1  # odd: does not stay in one column of a matrix
        places = torch.arange(0, t.numel(), step)
        indices = torch.unravel_index(places, t.shape) if t.ndim else (None,)
        self._sample = indices, t.detach()[indices].clone()

    def _sample_is_true(self, t: torch.Tensor) -> bool:
        """Are those elements what they were?"""
        if self._sample is None:
            return t.numel() == 0
        indices, values = self._sample
        return torch.equal(t.detach()[indices], values)


class WeightStore:
    """(torch tensor, shape) → Weight, for one target. A graph may want a weight reshaped (a convolution's as a
    matrix): that is a view of the same memory, where a Reshape in the graph would copy it in every call."""

    def __init__(self, target: Target):
        self._target = target
        self._weights: dict[tuple, Weight] = {}
        self._count = 0

    def get(self, t: torch.Tensor, name: str, shape: tuple[int, ...], prepare: Callable | None = None) -> Weight:
        """The Weight of a tensor, after ``prepare`` where there is one; a new one if the tensor moved since."""
        key = id(t), shape, prepare
        known = self._weights.get(key)
        if known is not None and known.source() is t and not known.moved():
            if known.host.dtype == self._target.host_dtype(t.dtype) and known.size == t.numel():
                known.refresh()  # it may have changed since the last graph that used it ran
                return known
        weight = self._make(t, name, shape, prepare)
        weight.source = weakref.ref(t, lambda _: self._weights.pop(key, None))
        self._weights[key] = weight
        return weight

    def constant(self, t: torch.Tensor, name: str, shape: tuple[int, ...]) -> Weight:
        """A Weight of a tensor that belongs to one graph."""
        weight = self._make(t, name, shape)
        weight.source, weight.constant = (lambda: t), True
        return weight

    def of(self, program: Program) -> list[Weight]:
        """The Weights of a program, in its order."""
        return [
            self.constant(t, v.name, v.shape)
            if v in program.constants
            else self.get(t, v.name, v.shape, program.prepared.get(v))
            for v, t in program.weights.items()
        ]

    def _make(self, t: torch.Tensor, name: str, shape: tuple[int, ...], prepare: Callable | None = None) -> Weight:
        dtype = self._target.host_dtype(t.dtype)

        def converted(data: torch.Tensor) -> torch.Tensor:
            data = data.to(device="cpu", dtype=dtype)
            return (data if prepare is None else prepare(data)).contiguous().reshape(shape)

        with torch.no_grad():
            host = converted(t.detach())
        own = not self._target.shares_memory
        shared = host.data_ptr() == t.data_ptr() and host.data_ptr() != 0 and not own
        self._count += 1
        parameter = mindspore_runtime.parameter(host, f"w{self._count}.{name}")
        total = 0 if shared else checksum(t)
        weight = Weight(
            parameter, host, shared, t.data_ptr(), version_of(t), lambda: None, converted, t.numel(), checksum=total,
            upload=own,
        )  # fmt: skip
        if not shared and t.numel():
            weight.take_sample(t)
        return weight
