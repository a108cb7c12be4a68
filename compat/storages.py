"""Whether the memory of a torch tensor is still there, without keeping it there: PyTorch's own weak references, which
its multiprocessing and CUDA graphs use (``torch/multiprocessing/reductions.py``)."""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef


class Memory:
    """Of some tensors."""

    def __init__(self, tensors: list[torch.Tensor]):
        self._storages = [StorageWeakRef(t.untyped_storage()) for t in tensors]

    def is_there(self) -> bool:
        """Does somebody hold each one's? As long as it is true, no other tensor has lain there."""
        return not any(s.expired() for s in self._storages)
