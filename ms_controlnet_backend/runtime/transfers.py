"""What crosses between host and device, and how often. On CPU both share their memory and a crossing copies nothing
unless the dtype changes; it is counted all the same, as it is what an accelerator would copy. What torch has on the
device itself does not cross: both frameworks use the same memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..compat import mindspore_runtime, npu_memory
from ..layout import Layout, laid_out
from .identity import identity, same_memory
from .recent import Recent
from .target import Target

KEPT = 16
"""Uploads remembered: the latents of a step go to the ControlNets and to the denoiser."""
NUMBERS = 1024
"""The same of single numbers: the time steps of a run come again in the next."""
GOING_UP = 256
"""Uploads on their way at most, before the host waits for them."""
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
        self._numbers = Recent(NUMBERS)
        self._zeros: dict[tuple, Any] = {}
        self._going_up: list[Any] = []

    def to_device(self, t: torch.Tensor, count: Crossings) -> Any:
        """A torch tensor as a MindSpore tensor; one that went up before, unchanged since, does not go again."""
        if npu_memory.is_shared(t.device, self.target.device):
            return npu_memory.from_torch(t.detach().to(self.target.host_dtype(t.dtype)).contiguous())
        if t.numel() == 1:
            key = t.dtype, t.shape, t.item()
            value = self._numbers.use(key)
            if value is None:  # remembered by its value: it must not change with the memory it came from
                value = self.upload(t.clone(), count)
                self._numbers.keep(key, value)
            return value
        key = identity(t) if t.nbytes <= LARGEST else None
        known = self._kept.use(key)
        if known is not None:
            return known[0]
        value = self.upload(t, count)
        if key is not None:
            self._kept.keep(key, (value, t))  # the tensor is kept so that its memory is not given to another
        return value

    def upload(self, t: torch.Tensor, count: Crossings) -> Any:
        """The same for a tensor that will not come again."""
        host = t.detach().to(device="cpu", dtype=self.target.host_dtype(t.dtype)).contiguous()
        count.to_device += 1
        count.bytes_to_device += host.nbytes
        if not self.target.own_memory:
            return mindspore_runtime.tensor(host)
        # what is given to two graphs goes up once; the script may write to its own memory before it has gone
        value = mindspore_runtime.tensor(host.clone() if same_memory(host, t) else host)
        if len(self._going_up) >= GOING_UP:  # nobody fetched anything for long
            mindspore_runtime.wait()
            self._going_up.clear()
        self._going_up.append(value)
        return mindspore_runtime.upload(value, self.target.device)

    def to_host(self, value, dtype: torch.dtype, count: Crossings) -> torch.Tensor:
        """A MindSpore tensor as a torch tensor of this dtype."""
        host = torch.from_numpy(mindspore_runtime.to_host(value))
        self._going_up.clear()  # that was waited for, and all before it
        count.to_host += 1
        count.bytes_to_host += host.nbytes
        return host.to(dtype)

    def to_torch(self, value, layout: Layout, count: Crossings) -> torch.Tensor:
        """A MindSpore tensor as a torch tensor of that layout, wherever it is to be."""
        if npu_memory.is_shared(layout.device, self.target.device):
            return laid_out(npu_memory.to_torch(value, layout.strides).to(layout.dtype), layout.strides)
        return laid_out(self.to_host(value, layout.dtype, count).to(layout.device), layout.strides)

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
        """A MindSpore tensor of zeros, shared by all who ask: never to be written to."""
        key = shape, self.target.host_dtype(dtype)
        if key not in self._zeros:
            self._zeros[key] = mindspore_runtime.tensor(torch.zeros(shape, dtype=key[1]))
        return self._zeros[key]
