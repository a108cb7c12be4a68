"""One MindSpore Parameter per torch tensor, shared by every graph that uses the tensor.

On CPU a float32 weight is not copied: the Parameter lies on torch's memory and sees in-place changes. A weight in
another dtype or layout, or on a device with memory of its own, is converted once and converted again when the original
changed: when its version did, when a sample of its elements did (writes through ``.data`` leave no version, and
inference tensors have none), and once a run whatever they say. The original may be released (:mod:`.released`): then
the Weight has the only copy.

Where torch has its weights on the NPU (torch_npu), Parameters lie on that memory, too, and what must be rearranged is a
second tensor of torch's there. Such a Parameter can follow its tensor to another place.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..compat import forks, mindspore_runtime, npu_memory
from ..compat.torch_export import version_of
from ..lowering.program import Program
from .identity import checksum, same_memory
from .resident import ResidentTensor, on_host, plain
from .target import Target

SAMPLE = 32
"""Elements of a converted weight that are looked at before every call."""


def step_of_sample(t: torch.Tensor) -> int:
    """From one element of the sample of a tensor to the next: odd, so that it does not stay in one column."""
    return max(1, t.numel() // SAMPLE) | 1


@dataclass
class Weight:
    """host: the contiguous array the Parameter lies on or was copied from, in the shape the graph wants; None where the
    device alone has it, or torch's own tensor is that array, on the NPU. shared: is that torch's memory, and the
    Parameter's? own: the Parameter has memory of its own, to which a change must be copied. strides: of the torch
    tensor. constant: belongs to one graph and never changes. prepare: from the torch tensor to what the Parameter
    holds. faithful: can the torch tensor be had back from that, bit by bit? undo: how, from an array of the Parameter's
    shape. on_npu: does the Parameter lie on memory that torch has there?"""

    parameter: Any
    host: torch.Tensor | None
    shared: bool
    address: int
    version: int
    source: Callable[[], torch.Tensor | None]
    prepare: Callable[[torch.Tensor], torch.Tensor]
    size: int
    dtype: torch.dtype
    own: bool = False
    faithful: bool = False
    undo: Callable[[torch.Tensor], torch.Tensor] | None = None
    constant: bool = False
    strides: tuple[int, ...] = ()
    checksum: int = 0
    on_npu: bool = False
    _sample: tuple | None = None

    def moved(self) -> bool:
        """Does the torch tensor lie elsewhere now, or otherwise, or nowhere? Graphs on this Weight are then stale."""
        t = self.source()
        if t is None or isinstance(t, ResidentTensor):
            return t is None
        return t.data_ptr() != self.address or t.stride() != self.strides

    def refresh(self, thoroughly: bool = False, now: int | None = None) -> bool:
        """Convert again if the torch tensor was changed in place; True if it was. thoroughly: look at all of it. now:
        its checksum, where somebody has it."""
        t = on_host(self.source())
        if t is None or t.numel() != self.size:  # released, or replaced: no true graph uses this Weight any more
            return False
        version = version_of(t)
        if thoroughly and now is None and not self.shared:
            now = checksum(t)
        unchanged = self.shared or (version == self.version and self._sample_is_true(t))
        if unchanged and (now is None or self.shared or now == self.checksum):
            self.version = version
            return False
        self._write(t)
        self.version, self.checksum = version, checksum(t) if now is None else now
        self.take_sample(t)
        return True

    def can_follow(self, t: torch.Tensor) -> bool:
        """Can graphs on this Weight go on with a tensor that has taken the place of its own, or lies elsewhere now?"""
        same = t.numel() == self.size and t.stride() == self.strides
        return same and self.on_npu and npu_memory.is_shared(t.device, "Ascend") and npu_memory.may_lie_there(t)

    def follow(self, t: torch.Tensor) -> None:
        """To that tensor, whatever numbers it has."""
        if self.shared:
            mindspore_runtime.lay(self.parameter, self.prepare(t.detach()))
        else:
            self._write(t)
        self.address, self.version, self.checksum = t.data_ptr(), version_of(t), 0

    def read(self) -> torch.Tensor:
        """The numbers of the torch tensor, from what the Parameter holds, in memory of their own; of a faithful one."""
        if self.host is not None:
            held = self.host
        else:
            forks.check()
            with mindspore_runtime.LOCK:
                held = torch.from_numpy(mindspore_runtime.to_host(self.parameter))
        return (held if self.undo is None else self.undo(held)).clone(memory_format=torch.contiguous_format)

    def _write(self, t: torch.Tensor) -> None:
        data = self.prepare(t.detach())
        if self.host is not None and self.host.data_ptr() != t.data_ptr():
            self.host.copy_(data)
        if self.own:
            mindspore_runtime.assign(self.parameter, data)

    def take_sample(self, t: torch.Tensor) -> None:
        """Remember some elements, spread evenly, of what was converted."""
        if t.device.type != "cpu":  # the host would wait for it
            return
        places = torch.arange(0, t.numel(), step_of_sample(t))
        indices = torch.unravel_index(places, t.shape) if t.ndim else (None,)
        self._sample = indices, t.detach()[indices].clone()

    def _sample_is_true(self, t: torch.Tensor) -> bool:
        """Are those elements what they were?"""
        if self._sample is None:
            return t.numel() == 0 or t.device.type != "cpu"
        indices, values = self._sample
        return torch.equal(t.detach()[indices], values)


class WeightStore:
    """(torch tensor, shape) → Weight, for one target. A graph may want a weight reshaped (a convolution's as a
    matrix): that is a view of the same memory, where a Reshape in the graph would copy it in every call.

    keep_on_host: a device with memory of its own takes up weights when it first needs them; until then, and after, the
    host has them too."""

    def __init__(self, target: Target, keep_on_host: bool = True):
        self._target = target
        self._keep_on_host = keep_on_host
        self._weights: dict[tuple, Weight] = {}

    def get(self, t: torch.Tensor, name: str, shape: tuple[int, ...], prepare: Callable | None = None) -> Weight:
        """The Weight of a tensor, after ``prepare`` where there is one; a new one if the tensor moved since."""
        known = self._weights.get((id(t), shape, prepare))
        if known is not None and known.source() is t and not known.moved():
            if known.dtype == self._target.host_dtype(t.dtype) and known.size == t.numel():
                known.refresh()  # it may have changed since the last graph that used it ran
                return known
        weight = self._make(t, name, shape, prepare)
        self._keep(t, (id(t), shape, prepare), weight)
        return weight

    def constant(self, t: torch.Tensor, name: str, shape: tuple[int, ...]) -> Weight:
        """A Weight of a tensor that belongs to one graph."""
        weight = self._make(t, name, shape)
        weight.source, weight.constant = (lambda: t), True
        return weight

    def of(self, program: Program) -> list[Weight]:
        """The Weights of a program, in its order."""
        weights = [
            self.constant(t, v.name, v.shape)
            if v in program.constants
            else self.get(t, v.name, v.shape, program.prepared.get(v))
            for v, t in program.weights.items()
        ]
        mindspore_runtime.name_apart([w.parameter for w in weights])
        return weights

    def known(self, t: torch.Tensor) -> list[Weight]:
        """All Weights of a tensor."""
        return [w for key, w in list(self._weights.items()) if key[0] == id(t) and w.source() is t]

    def prepared(self) -> dict[int, dict[Callable, int]]:
        """What is kept of tensors in another arrangement: id of a tensor → {prepare: bytes}."""
        found: dict[int, dict] = {}
        for (t, shape, prepare), weight in list(self._weights.items()):  # one that dies meanwhile takes its entry away
            if prepare is not None and not weight.shared:
                found.setdefault(t, {})[prepare] = 4 * math.prod(shape)
        return found

    def hand_over(self, old: torch.Tensor, new: torch.Tensor) -> None:
        """``new`` takes the place of ``old``, with the same numbers."""
        for key in [k for k, w in list(self._weights.items()) if k[0] == id(old) and w.source() is old]:
            self._keep(new, (id(new), *key[1:]), self._weights.pop(key))

    def follow(self, weight: Weight, t: torch.Tensor) -> None:
        """The Weight is that of this tensor from now on, which :meth:`Weight.can_follow` allowed."""
        old = weight.source()
        if t is not old:
            for key in [k for k, w in list(self._weights.items()) if w is weight]:
                self._keep(t, (id(t), *key[1:]), self._weights.pop(key))
        weight.follow(t)

    def _keep(self, t: torch.Tensor, key: tuple, weight: Weight) -> None:
        weight.source = weakref.ref(t, lambda _: self._weights.pop(key, None))
        self._weights[key] = weight

    @torch.inference_mode(False)  # memory that is written to in every mode
    def _make(self, t: torch.Tensor, name: str, shape: tuple[int, ...], prepare: Callable | None = None) -> Weight:
        dtype, target = self._target.host_dtype(t.dtype), self._target

        original = plain(t)
        on_npu = npu_memory.is_shared(original.device, target.device)
        place = original.device if on_npu else "cpu"

        def converted(data: torch.Tensor) -> torch.Tensor:
            data = data.to(device=place, dtype=dtype)
            return (data if prepare is None else prepare(data)).contiguous().reshape(shape)

        with torch.no_grad():
            host = converted(original.detach())
        if on_npu and not npu_memory.may_lie_there(host):
            host = host.clone()  # its memory begins where no operator takes it
        shared = same_memory(host, original) and (on_npu or not target.own_memory)
        if target.own_memory and target.device == "CPU":  # one that stands for a device: what has memory of its own
            host = host.clone()
        # the same in every process: compiled graphs are found again by the names of their weights
        name = f"{name}.{'x'.join(map(str, shape))}.{prepare or ''}"
        away = not self._keep_on_host and target.device != "CPU" and not on_npu
        parameter = mindspore_runtime.parameter(host, name, target.device if away else "CPU")
        lossless, shape_of_t = prepare is None or getattr(prepare, "faithful", False), t.shape
        weight = Weight(
            parameter, None if away or on_npu and shared else host, shared, original.data_ptr(), version_of(original),
            lambda: None, converted, t.numel(), dtype, own=target.own_memory and not on_npu, on_npu=on_npu,
            faithful=lossless and _holds(dtype, t.dtype),
            undo=None if prepare is None else lambda held: prepare.undo(held, shape_of_t),
            strides=original.stride(), checksum=0 if shared else checksum(original),
        )  # fmt: skip
        if not shared and t.numel():
            weight.take_sample(original)
        return weight


def _holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Does one dtype have every number of the other?"""
    return torch.promote_types(wide, narrow) is wide
