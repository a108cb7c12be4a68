"""How a tensor lies in memory, as torch would have it: MindSpore's own tensors are contiguous."""

from __future__ import annotations

from typing import NamedTuple

import torch

CPU = torch.device("cpu")


class Layout(NamedTuple):
    """Of a tensor that is returned. offset: from where its base begins, for a view."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    strides: tuple[int, ...]
    offset: int = 0
    device: torch.device = CPU

    @classmethod
    def of(cls, t: torch.Tensor) -> Layout:
        return cls(tuple(t.shape), t.dtype, t.stride(), t.storage_offset(), t.device)

    def empty(self) -> torch.Tensor:
        """A tensor like this, numbers undefined."""
        if not self.offset:
            return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)
        whole = torch.empty(self.offset + extent(self.shape, self.strides), dtype=self.dtype, device=self.device)
        return whole.as_strided(self.shape, self.strides, self.offset)


def extent(shape, strides) -> int:
    """Elements from the first to the last one."""
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides)) if all(shape) else 0


def is_dense(shape, strides) -> bool:
    """Does every element of the memory belong to exactly one place of the tensor?"""
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def laid_out(t: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """The tensor with these strides: itself, or a copy. Gaps between its elements are zero."""
    if t.stride() == strides or 0 in t.shape:
        return t if t.stride() == strides else torch.empty_strided(t.shape, strides, dtype=t.dtype, device=t.device)
    if is_dense(t.shape, strides):
        return torch.empty_strided(t.shape, strides, dtype=t.dtype, device=t.device).copy_(t)
    memory = torch.zeros(extent(t.shape, strides), dtype=t.dtype, device=t.device)
    # what lies at one place is equal
    part = t[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)]
    if _is_apart(part.shape, strides):
        memory.as_strided(part.shape, strides).copy_(part)
    else:
        memory[torch.arange(memory.numel(), device=t.device).as_strided(part.shape, strides)] = part
    return memory.as_strided(t.shape, strides)


def _is_apart(shape, strides) -> bool:
    """Do no two places of a tensor share memory, as far as is easily seen?"""
    reached = 0
    for stride, size in sorted((stride, size) for size, stride in zip(shape, strides) if size != 1):
        if stride <= reached:
            return False
        reached += (size - 1) * stride
    return True
