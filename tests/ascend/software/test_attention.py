"""Attention by the kernels an NPU has: every mask torch takes, and what each kernel does not take."""

from __future__ import annotations

import pytest
import torch
from ascend.graphs import lowered
from ascend.software.running import run

from ms_controlnet_backend.lowering.samples import T
from ms_controlnet_backend.runtime.target import Target

TARGET = Target("Ascend")
ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
HEADS = T((2, 3, 6, 40)), T((2, 3, 7, 40)), T((2, 3, 7, 40))
SCORE, PROMPT = "ops.flash_attention_score", "ops.prompt_flash_attention"


def mask(*shape):
    return T(shape, kind="bool")


def check(heads, mask, causal, npu) -> set[str]:
    """Equals torch; the functions called. Rows without any key are not compared: torch's are NaN or 0, by version."""
    program, tensors, (expected,) = lowered(ATTENTION, (*heads, mask, 0.0, causal), {}, torch.float16, npu=npu)
    (got,) = run(program, tensors, TARGET)
    rows = expected.isfinite().all(-1) & (expected != 0).any(-1)
    assert rows.float().mean() > 0.8
    torch.testing.assert_close(got.float()[rows], expected[rows], rtol=2e-3, atol=2e-3)
    return {i.callee for i in program.instructions}


@pytest.mark.parametrize(
    "mask, causal, fused",
    [
        (None, False, True),
        (None, True, True),
        (mask(6, 7), False, True),
        (mask(2, 1, 1, 7), False, True),
        (mask(2, 1, 6, 7), False, True),
        (mask(2, 3, 6, 7), False, True),
        (mask(1, 3, 6, 7), False, True),
        (T((6, 7)), False, False),  # an additive one is not for the fused kernel
    ],
)
def test_flash_attention_score(mask, causal, fused):
    assert (SCORE in check(HEADS, mask, causal, "910B")) == fused


@pytest.mark.parametrize(
    "heads, mask, causal, fused",
    [
        (HEADS, None, False, True),
        (HEADS, mask(6, 7), False, False),  # as many keys as queries, or no mask
        ([T((2, 3, 77, 16))] * 3, None, True, False),  # CLIP's text: 77 is no multiple of 128
        ([T((2, 3, 128, 16))] * 3, None, True, True),
        ([T((2, 3, 128, 16))] * 3, mask(128, 128), False, True),
        ([T((2, 3, 128, 16))] * 3, mask(2, 1, 128, 128), False, True),
        ([T((2, 3, 128, 16))] * 3, mask(2, 3, 128, 128), False, False),  # no mask of each head
        ([T((129, 1, 4, 16))] * 3, None, False, False),
    ],
)
def test_prompt_flash_attention(heads, mask, causal, fused):
    """As the 310P has it."""
    assert (PROMPT in check(heads, mask, causal, "310P")) == fused


def test_float32_is_done_in_blocks():
    program, tensors, (expected,) = lowered(ATTENTION, HEADS, {}, torch.float32)
    assert {i.callee for i in program.instructions} >= {"BatchMatMul", "Softmax"}
    torch.testing.assert_close(run(program, tensors, TARGET)[0], expected, rtol=1e-5, atol=1e-5)
