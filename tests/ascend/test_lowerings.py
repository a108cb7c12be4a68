"""Lowerings as they are for Ascend, emulated and compared with torch; those of all samples run on the software NPU."""

import pytest
import torch
from ascend import emulator

from ms_controlnet_backend import plugins
from ms_controlnet_backend.lowering.lower import lower
from ms_controlnet_backend.lowering.samples import T
from ms_controlnet_backend.lowering.trial import in_float32, trial
from ms_controlnet_backend.runtime.target import Target

TARGET = Target("Ascend")
REGISTRY = plugins.registry()
OPS = REGISTRY.overloads("Ascend")
def samples(op):
    return REGISTRY.samples(op, "Ascend")


CASES = [pytest.param(op, s, id=f"{op}-{i}".replace("aten.", "")) for op in OPS for i, s in enumerate(samples(op))]


def lowered(op, args, kwargs, dtype, without=(), npu=None):
    """(program, inputs, what torch says in float32 of the same numbers)."""
    seed = torch.Generator().manual_seed(0)
    captured, tensors, expected = trial(op, args, kwargs, seed, dtype)
    results = in_float32(captured, tensors)
    assert [r.shape for r in results] == [e.shape for e in expected]
    return lower(captured, REGISTRY, "Ascend", TARGET.compute_dtype, without, npu=npu), tensors, results


def test_every_overload_has_a_sample():
    assert not [str(op) for op in OPS if not samples(op)]


ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
HEADS = T((2, 3, 6, 40)), T((2, 3, 7, 40)), T((2, 3, 7, 40))


@pytest.mark.parametrize(
    "mask, causal, fused",
    [
        (None, False, True),
        (None, True, True),
        (T((6, 7), kind="bool"), False, True),
        (T((2, 1, 1, 7), kind="bool"), False, True),
        (T((2, 1, 6, 7), kind="bool"), False, True),
        (T((2, 3, 6, 7), kind="bool"), False, True),
        (T((1, 3, 6, 7), kind="bool"), False, True),
        (T((6, 7)), False, False),
    ],
)
def test_masks(mask, causal, fused):
    """Every mask torch takes; an additive one is not for the fused kernel. Rows without any key are not compared:
    torch's are NaN or 0, by version."""
    program, tensors, (expected,) = lowered(ATTENTION, (*HEADS, mask, 0.0, causal), {}, torch.float16)
    assert any(i.callee == "ops.flash_attention_score" for i in program.instructions) == fused
    (got,) = emulator.run(program, tensors, TARGET)
    rows = expected.isfinite().all(-1) & (expected != 0).any(-1)
    assert rows.float().mean() > 0.8
    torch.testing.assert_close(got.float()[rows], expected[rows], rtol=2e-3, atol=2e-3)


def test_float32_attention_is_done_in_blocks():
    program, tensors, (expected,) = lowered(ATTENTION, HEADS, {}, torch.float32)
    assert {i.callee for i in program.instructions} >= {"BatchMatMul", "Softmax"}
    torch.testing.assert_close(emulator.run(program, tensors, TARGET)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_integers_that_int32_does_not_hold(number):
    from ms_controlnet_backend.errors import Refused

    with pytest.raises(Refused, match="beyond 32 bits"):
        lowered(torch.ops.aten.fill.Scalar, (T((2,), kind="int"), number), {}, torch.float32)
