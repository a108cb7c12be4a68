"""Lowerings for Ascend as they are made; what they compute is tested on the software NPU."""

import pytest
import torch
from ascend.graphs import lowered

from ms_controlnet_backend import plugins
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.lowering.ascend.builder import AscendBuilder
from ms_controlnet_backend.lowering.program import Program, Value
from ms_controlnet_backend.lowering.samples import T


def test_every_overload_has_a_sample():
    registry = plugins.registry()
    assert not [str(op) for op in registry.overloads("Ascend") if not registry.samples(op, "Ascend")]


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_integers_that_int32_does_not_hold(number):
    with pytest.raises(Refused, match="beyond 32 bits"):
        lowered(torch.ops.aten.fill.Scalar, (T((2,), kind="int"), number), {}, torch.float32)


def test_nothing_is_arranged_for_the_cpu():
    x = Value("x", (2, 3, 4, 4), "float16")
    with pytest.raises(NotImplementedError):
        AscendBuilder(Program("test", inputs=[x]), "Ascend", lambda dtype: "float16", ()).rows(x)


def test_what_mindspore_has_no_name_for_yet():
    """CANN fuses GroupNorm with SiLU, and GEGLU alone; MindSpore names neither. When this fails there is something to
    gain: lowering/ascend/__init__.py says what."""
    import re

    from mindspore import mint, ops

    fused = re.compile("ge_?glu|group_?norm_?(silu|swish)|gelu_?mul", re.IGNORECASE)
    names = {*dir(ops), *dir(ops.auto_generate), *dir(mint), *dir(mint.nn.functional)}
    assert {"Swiglu", "FFNExt", "group_norm"} <= names  # the nearest there are
    assert [n for n in names if fused.search(n)] == []
