"""What a graph is compiled for: the device, and the dtype each torch dtype is computed in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..errors import Refused

_NAMES = {
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    torch.float64: "float64",
    torch.int64: "int64",
    torch.int32: "int32",
    torch.int16: "int16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.bool: "bool",
}


@dataclass(frozen=True)
class Target:
    """device: ``"CPU"`` or ``"Ascend"``.

    On CPU float16 and bfloat16 are computed in float32 (MindSpore has no bfloat16 CPU kernels, and its float16 ones are
    slower than float32); a component's outputs keep the script's dtype. On Ascend every dtype is computed as it is.
    own_memory: does the device have memory of its own, into which weights are copied? None: all but the CPU have.
    """

    device: str
    own_memory: bool | None = None

    def __post_init__(self):
        if self.own_memory is None:
            object.__setattr__(self, "own_memory", self.device != "CPU")

    def compute_dtype(self, dtype: torch.dtype) -> str:
        """torch dtype → MindSpore dtype name; Refused for one that has none (complex, quantised)."""
        if dtype not in _NAMES:
            raise Refused(f"dtype {dtype}")
        name = _NAMES[dtype]
        return "float32" if self.device == "CPU" and name in ("float16", "bfloat16") else name

    def host_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The torch dtype in which a tensor is handed to the graph."""
        return getattr(torch, self.compute_dtype(dtype))
