"""Weights whose only copy is the device's: torch's memory is given up, and comes back for whoever asks.

The module keeps a Parameter of the same shape and dtype in the place of each. Whatever reads it (``state_dict``, a
forward on torch) gets an ordinary tensor fetched from the device; whatever writes to it or wants its memory (a LoRA
fused, ``load_state_dict``, ``save_pretrained``) makes a copy on the host the truth again, which is then watched like
any other converted weight's.
"""

from __future__ import annotations

import contextlib
import sys

import torch

from ..compat import watchers
from ..layout import Layout
from .resident import Held, ResidentTensor, plain
from .weights import Weight, WeightStore

_ORDINARY = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


class _HeldWeight(Held):
    """Reading keeps no copy."""

    def read(self) -> torch.Tensor:
        return self.fetch() if self.host is None else self.host

    def give(self) -> torch.Tensor:
        if self.host is None:
            self.host = self.fetch()
        return super().give()


class ReleasedWeight(ResidentTensor):
    """A module's parameter (or buffer) that lies on the device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func == torch.Tensor.data.__set__ and isinstance(args[0], cls):
            return args[0]._take(args[1])
        return super().__torch_function__(func, types, args, kwargs)

    def _take(self, data: torch.Tensor) -> None:
        """``released.data = data``, of any dtype and shape."""
        if getattr(data, "held", None) is not self.held:
            data = plain(data)
            with torch._C.DisableTorchFunctionSubclass():
                torch.Tensor.data.__set__(self, data)
            self.held = _HeldWeight(None, None, None, host=data)

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), _ordinary(self))

    def __reduce_ex__(self, protocol):
        return _ordinary(self).__reduce_ex__(protocol)


def release(module: torch.nn.Module, store: WeightStore) -> int:
    """Give up torch's memory of every tensor that the store holds a faithful copy of and that nobody but the module
    refers to; returns the bytes. (Whoever else refers to one would keep its memory, and not see later changes.)"""
    places: dict[int, list[tuple[dict, str]]] = {}
    for table in _tables(module):
        for name, t in table.items():
            if t is not None and t.numel() and not isinstance(t, ReleasedWeight):
                places.setdefault(id(t), []).append((table, name))
    released = 0
    for where in places.values():
        table, name = where[0]
        t = table[name]
        own = len(where) + 2  # the tables, the variable, the argument of getrefcount
        weight = next((w for w in store.known(t) if w.faithful and not w.shared), None)
        if t.device.type != "cpu":  # memory that MindSpore shares
            continue
        if weight is None or sys.getrefcount(t) > own or t._base is not None or not _alone(t):
            continue
        weight.refresh(thoroughly=True)
        put = _placeholder(t, weight)
        store.hand_over(t, put)
        for table, name in where:
            table[name] = put
        released += t.nbytes
    return released


def restore(module: torch.nn.Module) -> None:
    """Ordinary parameters again."""
    made: dict[int, torch.Tensor] = {}
    for table in _tables(module):
        for name, t in table.items():
            if isinstance(t, ReleasedWeight):
                table[name] = made.setdefault(id(t), _ordinary(t))


@contextlib.contextmanager
def traceable(module: torch.nn.Module):
    """Ordinary parameters lie in the places of the released ones inside the block, as export wants them; their memory
    is never touched, so it takes none. In the places of inference tensors lie others on the same memory. Yields id of a
    stand-in → the weight."""
    stand_ins: dict[int, torch.Tensor] = {}
    put = []
    made: dict[int, torch.Tensor] = {}
    for table in _tables(module):
        for name, t in table.items():
            if isinstance(t, ReleasedWeight) or type(t) in _ORDINARY and t.is_inference():
                empty = made.setdefault(id(t), _stand_in(t))
                stand_ins[id(empty)] = t
                put.append((table, name, empty, t))
    try:
        for table, name, empty, _ in put:
            table[name] = empty
        yield stand_ins
    finally:
        for table, name, empty, t in put:
            if table.get(name) is empty:
                table[name] = t


def _stand_in(t: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False):
        if isinstance(t, ReleasedWeight):
            return _like(torch.empty(t.shape, dtype=t.dtype), t)
        same = torch.empty(0, dtype=t.dtype, device=t.device)
        return _like(same.set_(t.untyped_storage(), t.storage_offset(), t.shape, t.stride()), t)


def _tables(module):
    for m in module.modules():
        yield m._parameters
        yield m._buffers


def _alone(t: torch.Tensor) -> bool:
    """Is the tensor all of its memory, and nobody else's?"""
    return t.is_contiguous() and t.untyped_storage().nbytes() == t.nbytes


def _placeholder(t: torch.Tensor, weight: Weight) -> torch.Tensor:
    shape, dtype, inference = t.shape, t.dtype, t.is_inference()

    def fetch():
        with watchers.unseen(inference):
            return weight.read().reshape(shape).to(dtype)

    with torch.inference_mode(inference):
        return _like(ReleasedWeight(_HeldWeight(weight, fetch, None), Layout.of(t)), t)


def _ordinary(t: ReleasedWeight) -> torch.Tensor:
    data = t.held.host if t.held.host is not None else t.held.fetch()
    with torch.inference_mode(t.is_inference()):
        return _like(data, t)


def _like(data: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A Parameter where ``t`` is one."""
    return torch.nn.Parameter(data, requires_grad=t.requires_grad) if isinstance(t, torch.nn.Parameter) else data
