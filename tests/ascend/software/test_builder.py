"""What the builder for Ascend does on its own: transposes, casts, slices, and what it refuses."""

import itertools

import pytest
import torch
from ascend.software.running import run

from ms_controlnet_backend.errors import Unsupported
from ms_controlnet_backend.lowering.ascend.builder import AscendBuilder
from ms_controlnet_backend.lowering.liveness import keep
from ms_controlnet_backend.lowering.program import Program, Value
from ms_controlnet_backend.runtime.target import Target

TARGET = Target("Ascend")


def build(shape, dtype, function, without=()):
    """(kernels, what they compute of a seeded tensor, that tensor). function: (builder, value) → value."""
    x = Value("x", shape, dtype)
    program = Program("test", inputs=[x])
    b = AscendBuilder(program, "Ascend", TARGET.compute_dtype, without)
    y = function(b, x)
    program = keep(program, "test", [x], program.instructions, [y])
    t = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    return [i.callee for i in program.instructions], run(program, [t], TARGET)[0], t


@pytest.mark.parametrize("first, second", list(itertools.product([(1, 2, 0), (0, 2, 1), (2, 0, 1)], repeat=2)))
def test_two_transposes_are_one_or_none(first, second):
    twice = lambda b, x: b.transpose(b.transpose(x, first), second)  # noqa: E731
    callees, got, t = build((2, 3, 4), "float16", twice)
    assert torch.equal(got, t.permute(first).permute(second))
    assert callees == ([] if torch.equal(got.reshape(-1), t.reshape(-1)) else ["Transpose"])
    callees, plain, _ = build((2, 3, 4), "float16", twice, without={"transposes"})
    assert callees == ["Transpose", "Transpose"] and torch.equal(plain, got)


def test_only_axes_of_length_1_move():
    callees, got, t = build((2, 1, 4), "float16", lambda b, x: b.transpose(x, (1, 0, 2)))
    assert callees == ["Reshape"] and torch.equal(got, t.permute(1, 0, 2))


@pytest.mark.parametrize(
    "dtypes, casts",
    [(("float32", "float16"), 0), (("float32", "bfloat16"), 2), (("float16", "float32"), 2), (("int32", "float16"), 2)],
)
def test_only_casts_that_change_nothing_are_left_out(dtypes, casts):
    """x is float16: widened and back is x; by way of a narrower dtype, or to another one, it is not."""
    start = "float32" if dtypes[0] == "float16" else "float16"

    def there_and_back(b, x):
        for dtype in dtypes:
            x = b.cast(x, dtype)
        return x

    callees, got, t = build((5,), start, there_and_back)
    for dtype in dtypes:
        t = t.to(getattr(torch, dtype))
    assert callees == ["Cast"] * casts and torch.equal(got, t)


def test_slices():
    callees, got, t = build((2, 7), "float16", lambda b, x: b.slice(x, 1, 1, 6))
    assert callees == ["ops.auto_generate.slice_ext_op"] and torch.equal(got, t[:, 1:6])
    callees, got, t = build((2, 7), "float16", lambda b, x: b.slice(x, 1, 1, 7, 3))
    assert callees == ["mint.index_select"] and torch.equal(got, t[:, 1:7:3])
    with pytest.raises(Unsupported, match="empty"):
        build((2, 7), "float16", lambda b, x: b.slice(x, 1, 3, 3))
