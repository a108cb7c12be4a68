"""How long a program would take on a named NPU: a prediction from peak figures, made without one.

A kernel takes as long as its operations or its memory traffic, whichever is longer, at EFFICIENCY of the peak, and
LAUNCH. The two numbers are not measured here: with them the prediction for SDXL meets the published figure of mindone
(https://github.com/mindspore-lab/mindone) on 910*, 40 steps at 1024 px in 6.66 s (predicted: 6.5 s). Stable Diffusion
1.5 at 512 px, batch 4, is then predicted at 11.5 steps a second on 910* and, without a fused attention, 3.9 on 910,
where mindone's figures are 6.69 and 3.58. What is left out would explain a part of it: the scheduler and the host
between the steps, tensors brought into the layouts that convolutions want, small or odd shapes that leave most of the
units idle (heads of 40 among them). Other code, without these fusions, was measured there. So take a prediction to be
right within a factor of 2 or 3, and comparisons between two graphs on the same NPU to be worth more than the number
itself.
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


DEFAULT = "910B"
"""What is compiled for where nobody says."""


@dataclass(frozen=True)
class Npu:
    """Peak figures and what kernels there are. flops: float16 operations a second; memory: bytes a second. source:
    where they are from. attention: the fused kernel that CANN documents for it (ops-transformer, the tables of
    supported products), None where there is none. lacks: rewrites whose kernel it does not have.

    FlashAttentionScore is documented for the training products of the A2 and A3 series, PromptFlashAttention for those
    of A2 that are for inference as well (910B4 is what they carry) and for the 310P. GroupedMatmul takes weights as
    they are on A2 and A3 alone, and there alone FFN knows GEGLU; AddLayerNorm is not there on the 910.
    """

    flops: float
    memory: float
    source: str
    attention: str | None = "FlashAttentionScore"
    lacks: frozenset[str] = frozenset()

    def describe(self) -> str:
        lacking = f", without {', '.join(sorted(self.lacks))}" if self.lacks else ""
        return f"attention by {self.attention or 'matrix products'}{lacking}"


NPUS = {
    "910B": Npu(376e12, 1.6e12, "as one of the 768 dies of a CloudMatrix 384 (289 PFLOPS, Huawei Cloud), memory as "
                                "reported; press articles give 256 to 376 TFLOPS"),
    "910B4": Npu(280e12, 0.8e12, "reported for the Atlas 800I A2 with 32 GB; not confirmed by a document of Huawei's",
                 "PromptFlashAttention"),
    "910": Npu(256e12, 1.2e12, "Huawei's announcement of August 2019; memory as reported for its HBM2",
               None, frozenset({"grouped_projections", "add_layer_norm", "feed_forward"})),
    "310P": Npu(70e12, 0.204e12, "a half of the Atlas 300I Duo (280 TOPS in int8, 408 GB/s), float16 at half of int8",
                "PromptFlashAttention", frozenset({"grouped_projections", "feed_forward"})),
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
