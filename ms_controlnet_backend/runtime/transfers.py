"""What crosses between host and device, and how often. On CPU both share their memory and a crossing copies nothing
unless the dtype changes; it is counted all the same, as it is what an accelerator would copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..compat import mindspore_runtime
from .identity import identity
from .recent import Recent
from .target import Target

KEPT = 16
"""Uploads remembered: the latents and the time step of a step go to the ControlNets and to the denoiser."""
LARGEST = 2**24
"""Bytes beyond which an upload is not remembered."""


@dataclass
class Crossings:
    """to_device, to_host: tensors that crossed, and their bytes (in the dtype they are computed in)."""

    to_device: int = 0
    bytes_to_device: int = 0
    to_host: int = 0
    bytes_to_host: int = 0


class Transfers:
    """The only place where tensors cross. LOCK must be held."""

    def __init__(self, target: Target):
        self.target = target
        self._kept = Recent(KEPT)
        self._zeros: dict[tuple, Any] = {}

    def to_device(self, t: torch.Tensor, count: Crossings) -> Any:
        """A torch tensor as a MindSpore tensor; one that went up before, unchanged since, does not go again."""
        single = t.numel() == 1
        key = ("number", t.dtype, t.shape, t.item()) if single else identity(t) if t.nbytes <= LARGEST else None
        known = self._kept.use(key)
        if known is not None:
            return known[0]
        # a number is remembered by its value: it must not change with the memory it came from
        value = self.upload(t.clone() if single else t, count)
        if key is not None:
            self._kept.keep(key, (value, t))  # the tensor is kept so that its memory is not given to another
        return value

    def upload(self, t: torch.Tensor, count: Crossings) -> Any:
        """The same for a tensor that will not come again."""
        host = t.detach().to(device="cpu", dtype=self.target.host_dtype(t.dtype)).contiguous()
        count.to_device += 1
        count.bytes_to_device += host.nbytes
        return mindspore_runtime.tensor(host)

    def to_host(self, value, dtype: torch.dtype, count: Crossings) -> torch.Tensor:
        """A MindSpore tensor as a torch tensor of this dtype."""
        host = torch.from_numpy(mindspore_runtime.to_host(value))
        count.to_host += 1
        count.bytes_to_host += host.nbytes
        return host.to(dtype)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        """A MindSpore tensor of zeros, shared by all who ask: never to be written to."""
        key = shape, self.target.host_dtype(dtype)
        if key not in self._zeros:
            self._zeros[key] = mindspore_runtime.tensor(torch.zeros(shape, dtype=key[1]))
        return self._zeros[key]
