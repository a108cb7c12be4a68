"""What many tensors look like, compared in one call: torch.compile's own guards (``torch._C._dynamo``), which are
private; without them, or where they say no, in Python."""

from __future__ import annotations

import operator

import torch

try:
    from torch._C._dynamo.guards import TensorGuards
except ImportError:  # a torch without them
    TensorGuards = None

_LOOKS = (torch.Tensor.stride, *map(operator.attrgetter, ("dtype", "shape")))


class Looks:
    """dtype, shape and strides of tensors."""

    def __init__(self, tensors: list[torch.Tensor]):
        self._tensors = tensors
        self._then = self._now()
        self._guards = self._new_guards()

    def same(self) -> bool:
        if self._guards is not None and self._guards.check(*self._tensors):
            return True
        # guards also compare what is no matter here: gradients wanted, inference mode, autocast
        if self._now() != self._then:
            return False
        self._guards = self._new_guards()
        return True

    def _now(self) -> list[list]:
        return [list(map(look, self._tensors)) for look in _LOOKS]

    def _new_guards(self):
        if TensorGuards is None or not self._tensors:
            return None
        try:
            sizes, strides = ([list(f(t)) for t in self._tensors] for f in (torch.Tensor.size, torch.Tensor.stride))
            return TensorGuards(*self._tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
        except (TypeError, SystemError):  # another torch's arguments
            return None
