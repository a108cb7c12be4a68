"""Is this tensor, contents included, the one that was seen before?

The contents of what torch has on an accelerator are not looked at: the host would wait for them. There a write through
``.data``, which leaves no other mark, is not seen; inference tensors, which have no version, are compared all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

SMALL = 2**13
"""Elements of a tensor up to which it is looked at together with others."""
_ROW = 1024
"""Words of 64 bits that are summed up at a time."""


def checksum(t: torch.Tensor) -> int:
    """Of a tensor's bits, and of their places: two values that change places change it. The sum of all 64-bit words,
    each times a number of its row and one of its column, modulo 2**64 (multilinear hashing)."""
    if t.device.type != "cpu":
        return _on_device(t).item()
    flat = t.detach().contiguous().view(-1).view(torch.uint8)
    if flat.data_ptr() % 8 or flat.storage_offset() % 8:
        flat = flat.clone()
    whole = flat.numel() // 8
    words, rest = flat[: whole * 8].view(torch.int64), flat[whole * 8 :]
    rows = whole // _ROW
    numbers = _numbers(_ROW + rows + 2)
    columns, of_rows = numbers[:_ROW], numbers[_ROW:]
    sums = []
    if rows:
        sums.append(torch.mv(words[: rows * _ROW].view(rows, _ROW), columns))
    for last in (words[rows * _ROW :], rest):
        sums.append(torch.dot(last.to(torch.int64), columns[: last.numel()]).reshape(1))
    sums = torch.cat(sums)
    return torch.dot(sums, of_rows[: sums.numel()]).item()


@functools.cache
def _power_of_numbers(n: int) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.randint(-(2**62), 2**62, (n,), generator=torch.Generator().manual_seed(n)) * 2 + 1


def _numbers(n: int) -> torch.Tensor:
    """At least n odd ones without a pattern, always the same."""
    return _power_of_numbers(1 << (n - 1).bit_length())


def _on_device(t: torch.Tensor) -> torch.Tensor:
    """Of sums that are exact on an accelerator: those of rows and those of columns, each times its place."""
    flat = t.detach().contiguous().view(-1)
    flat = flat.view(torch.int16 if flat.element_size() % 2 == 0 else torch.uint8)
    rows = flat.numel() // _ROW
    block = flat[: rows * _ROW].view(rows, _ROW)
    sums = torch.cat([block.sum(0), block.sum(1), flat[rows * _ROW :].to(torch.int64)])
    return (sums * torch.arange(1, sums.numel() + 1, device=t.device)).sum()


def checksums(tensors: Sequence[torch.Tensor | None]) -> list[int | None]:
    """:func:`checksum` of each; for all that an accelerator has the host waits once."""
    there = [i for i, t in enumerate(tensors) if t is not None and t.device.type != "cpu"]
    found = torch.stack([_on_device(tensors[i]) for i in there]).tolist() if there else []
    known = dict(zip(there, found))
    return [known[i] if i in known else None if t is None else checksum(t) for i, t in enumerate(tensors)]


def _place(t: torch.Tensor) -> tuple:
    return t.data_ptr(), t.shape, t.stride(), t.dtype, None if t.is_inference() else t._version


def identity(t: torch.Tensor) -> tuple:
    """Equal for two views of the same memory that nothing was written to in between. Contents take part: writes through
    ``.data`` or NumPy leave no other mark. Only valid while the memory is kept from being freed."""
    return *_place(t), *([checksum(t)] if t.device.type == "cpu" or t.is_inference() else [])


def identities(tensors: Sequence[torch.Tensor]) -> tuple:
    """Equal as long as :func:`identity` of each is; the contents of small ones take part together."""
    small, numbers = [], []
    for t in (t for t in tensors if t.device.type == "cpu" or t.is_inference()):
        if t.device.type == "cpu" and t.dtype is torch.float32 and t.numel() <= SMALL:
            small.append(t.detach().reshape(-1))
        else:
            numbers.append(checksum(t))
    if small:
        numbers.append(checksum(torch.cat(small)))
    return tuple(map(_place, tensors)), tuple(numbers)


def same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Is one a view of the other?"""
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
