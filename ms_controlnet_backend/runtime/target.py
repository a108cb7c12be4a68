"""What a graph is compiled for: the device, and the dtype each torch dtype is computed in."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ..errors import Refused, UnknownDevice, UnknownRewrite
from ..lowering.ascend import REWRITES
from ..lowering.ascend.npu import DEFAULT, NPUS
from ..plugins import registry

WITHOUT = "MS_CONTROLNET_WITHOUT"
"""Environment variable: graph passes and rewrites that are not to be made, with commas between."""
NPU = "MS_CONTROLNET_NPU"
"""Environment variable: the NPU that is compiled for (:data:`..lowering.ascend.npu.NPUS`), whatever is there."""

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


_COMPUTED = {
    "CPU": {"float16": "float32", "bfloat16": "float32"},
    "Ascend": {"float64": "float32", "int64": "int32"},
}
"""device → what is computed in another dtype."""


@dataclass(frozen=True)
class Target:
    """device: ``"CPU"`` or ``"Ascend"``. without: graph passes and rewrites, by name, that are not to be made.
    npu: on Ascend, which model: kernels differ (:data:`..lowering.ascend.npu.NPUS`).
    own_memory: does the device have memory of its own, into which what is fed to a graph is copied? None: all but the
    CPU have.

    What is computed in what; a component's outputs always have the script's dtypes:

    ===========  ==========  ===============================================================================
    the script   on CPU      on Ascend
    ===========  ==========  ===============================================================================
    float16      float32     float16; sums inside convolutions, products, norms and softmax are float32
    bfloat16     float32     bfloat16, likewise
    float32      float32     float32; attention by blocks of matrix products (the fused kernel has no float32)
    float64      float64     float32: NPUs have no float64 units
    int64        int64       int32: token ids, positions and time steps; a larger constant is refused
    the others   the same    the same
    ===========  ==========  ===============================================================================

    Where upstream itself computes in float32 (time embeddings, a VAE with ``force_upcast``, ``upcast_attention``), the
    graph says so and both devices do. On CPU MindSpore has no bfloat16 kernels, and its float16 ones are slower than
    float32.
    """

    device: str
    without: frozenset[str] = frozenset()
    own_memory: bool | None = None
    npu: str = DEFAULT

    def __post_init__(self):
        if self.own_memory is None:
            object.__setattr__(self, "own_memory", self.device != "CPU")

    @property
    def options(self) -> dict:
        """Of the device's builder."""
        return {"npu": self.npu} if self.device == "Ascend" else {}

    def describe(self) -> str:
        return f"Ascend {self.npu} ({NPUS[self.npu].describe()})" if self.device == "Ascend" else self.device

    def compute_dtype(self, dtype: torch.dtype) -> str:
        """torch dtype → MindSpore dtype name; Refused for one that has none (complex, quantised)."""
        if dtype not in _NAMES:
            raise Refused(f"dtype {dtype}")
        name = _NAMES[dtype]
        return _COMPUTED[self.device].get(name, name)

    def host_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The torch dtype in which a tensor is handed to the graph."""
        return getattr(torch, self.compute_dtype(dtype))


def target(device: str, names: str | None = None, npu: str | None = None) -> Target:
    """The Target without the passes and rewrites of these names, with commas between (None: $MS_CONTROLNET_WITHOUT).
    npu: None: $MS_CONTROLNET_NPU, else DEFAULT.
    Raises UnknownRewrite and UnknownDevice, which list the known ones."""
    text = os.environ.get(WITHOUT, "") if names is None else names
    without = frozenset(name.strip() for name in text.split(",") if name.strip())
    known = {p.name for p in registry().passes(device)} | (set(REWRITES) if device == "Ascend" else set())
    if not without <= known:
        unknown = ", ".join(sorted(without - known))
        raise UnknownRewrite(f"no graph pass or rewrite {unknown} for {device}; known: {', '.join(sorted(known))}")
    npu = npu or os.environ.get(NPU) or DEFAULT
    if npu not in NPUS:
        raise UnknownDevice(f"unknown NPU {npu}; known: {', '.join(NPUS)}")
    return Target(device, without, npu=npu)
