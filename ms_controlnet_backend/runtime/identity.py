"""Is this tensor, contents included, the one that was seen before?

The contents of what torch has on an accelerator are not looked at: the host would wait for them. There a write through
``.data``, which leaves no other mark, is not seen; inference tensors, which have no version, are compared all the same.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch

SMALL = 2**13
"""Elements of a tensor up to which it is looked at together with others."""


def checksum(t: torch.Tensor) -> int:
    """The sum of a tensor's bits, read as 64-bit numbers where that is possible: a fifth of a conversion's time."""
    if t.device.type != "cpu":
        return _on_device(t).item()
    flat = t.detach().contiguous().view(-1)
    per_word = 8 // flat.element_size()
    aligned = flat.data_ptr() % 8 == 0 and flat.storage_offset() % per_word == 0
    words = flat.numel() // per_word * per_word if aligned else 0
    total = flat[:words].view(torch.int64).sum().item() if words else 0
    return total + flat[words:].view(torch.uint8).sum().item()


def _on_device(t: torch.Tensor) -> torch.Tensor:
    """Of small numbers, whose sum is exact on an accelerator."""
    flat = t.detach().contiguous().view(-1)
    return flat.view(torch.int16 if flat.element_size() % 2 == 0 else torch.uint8).sum()


def checksums(tensors: Sequence[torch.Tensor | None]) -> list[int | None]:
    """:func:`checksum` of each; for all that an accelerator has the host waits once."""
    there = [i for i, t in enumerate(tensors) if t is not None and t.device.type != "cpu"]
    found = torch.stack([_on_device(tensors[i]) for i in there]).tolist() if there else []
    known = dict(zip(there, found))
    return [known[i] if i in known else None if t is None else checksum(t) for i, t in enumerate(tensors)]


def _place(t: torch.Tensor) -> tuple:
    """Of an inference tensor with every bit of its contents: a sum of numbers loses the smallest changes."""
    version = checksum(t) if t.is_inference() else t._version
    return t.data_ptr(), t.shape, t.stride(), t.dtype, version


def identity(t: torch.Tensor) -> tuple:
    """Equal for two views of the same memory that nothing was written to in between. Contents take part as a weighted
    sum: writes through ``.data`` or NumPy leave no other mark. Only valid while the memory is kept from being freed."""
    return *_place(t), *([contents(t)] if t.device.type == "cpu" else [])


def identities(tensors: Sequence[torch.Tensor]) -> tuple:
    """Equal as long as :func:`identity` of each is; the contents of small ones take part together."""
    small, numbers = [], []
    for t in (t for t in tensors if t.device.type == "cpu"):
        if t.dtype is torch.float32 and t.numel() <= SMALL:
            small.append(t.detach().reshape(-1))
        else:
            numbers.append(contents(t))
    if small:
        numbers.append(contents(torch.cat(small)))
    return tuple(map(_place, tensors)), tuple(numbers)


def contents(t: torch.Tensor) -> float:
    """A number that changes with the contents: the sum of the elements, weighted by their places; where one of them is
    infinite (a mask's) or none, which the sum would be too whatever the others are, the sum of the bits."""
    flat = t.detach().reshape(-1)
    if flat.dtype is not torch.float32:
        flat = flat.float()
    weighted = torch.dot(flat, _ramp(_round_up(flat.numel()))[: flat.numel()]).item()
    return weighted if math.isfinite(weighted) else checksum(flat)


def _round_up(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@functools.cache
def _ramp(n: int) -> torch.Tensor:
    """n different weights between 1 and 2, without a pattern that a tensor could follow."""
    with torch.inference_mode(False):
        return 1 + torch.rand(n, generator=torch.Generator().manual_seed(n))


def same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Is one a view of the other?"""
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
