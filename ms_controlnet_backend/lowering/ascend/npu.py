"""How long a program would take on a named NPU: a prediction from peak figures, made without one.

A kernel takes as long as its operations or its memory traffic, whichever is longer, at EFFICIENCY of the peak, and
LAUNCH. The two numbers are not measured here: with them the prediction for SDXL meets the published figure of mindone
(https://github.com/mindspore-lab/mindone) on 910*, 40 steps at 1024 px in 6.66 s (predicted: 6.6 s). Stable Diffusion
1.5 at 512 px, batch 4, is then predicted at 11.4 steps a second on 910* and 8.1 on 910, where mindone's figures are
6.69 and 3.58. What is left out would explain a part of it: the scheduler and the host between the steps, tensors
brought into the layouts that convolutions want, small or odd shapes that leave most of the units idle (heads of 40
among them). Other code, without these fusions, was measured there. So take a prediction to be right within a factor of
2 or 3, and comparisons between two graphs on the same NPU to be worth more than the number itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .work import Work

EFFICIENCY = 0.3
LAUNCH = 5e-6
"""Seconds of a kernel that does nothing."""
FLOAT32 = 0.25
"""Of the peak, what matrix products in float32 reach at best (assumed)."""


@dataclass(frozen=True)
class Npu:
    """Peak figures. flops: float16 operations a second; memory: bytes a second. source: where they are from."""

    flops: float
    memory: float
    source: str


NPUS = {
    "910B": Npu(376e12, 1.6e12, "as one of the 768 dies of a CloudMatrix 384 (289 PFLOPS, Huawei Cloud), memory as "
                                "reported; press articles give 256 to 376 TFLOPS"),
    "910B4": Npu(280e12, 0.8e12, "reported for the Atlas 800I A2 with 32 GB; not confirmed by a document of Huawei's"),
    "910": Npu(256e12, 1.2e12, "Huawei's announcement of August 2019; memory as reported for its HBM2"),
    "310P": Npu(70e12, 0.204e12, "a half of the Atlas 300I Duo (280 TOPS in int8, 408 GB/s), float16 at half of int8"),
}  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """Seconds: of everything, and of the kernels that are limited by operations, by memory, and of launches."""

    npu: str
    seconds: float
    operations: float
    memory: float
    launches: float


def predict(works: Iterable[Work], npu: str) -> Prediction:
    """Raises KeyError for an NPU that is not in NPUS."""
    peak, operations, memory, launches = NPUS[npu], 0.0, 0.0, 0.0
    for w in works:
        computing = w.matrix / (peak.flops * EFFICIENCY * (FLOAT32 if w.dtype == "float32" else 1))
        moving = w.moved / (peak.memory * EFFICIENCY)
        operations, memory = (operations + computing, memory) if computing > moving else (operations, memory + moving)
        launches += LAUNCH
    return Prediction(npu, operations + memory + launches, operations, memory, launches)
