"""Which primitives have a kernel in the wheel's library for Ascend."""

import platform
import re
import struct

import pytest
import torch
from ascend import graphs
from ascend.test_lowerings import CASES, TARGET, lowered
from ms_controlnet_backend.compat import ascend_kernels

from ms_controlnet_backend import plugins
from ms_controlnet_backend.lowering import cost
from ms_controlnet_backend.lowering.lower import lower
from ms_controlnet_backend.lowering.program import Program
from ms_controlnet_backend.lowering.trial import trial
from ms_controlnet_backend.runtime.target import Target

CONVOLUTION = torch.ops.aten.conv2d.default

pytestmark = pytest.mark.skipif(
    ascend_kernels.registered() is None, reason=f"no kernels' library that can be read on {platform.machine()}"
)


def test_what_is_known_to_be_there_and_not():
    """Primitives that MindSpore documents for Ascend by aclnn, and some it documents for the CPU alone or for none."""
    known = ascend_kernels.registered()
    assert {"Conv2DExt", "FlashAttentionScore", "Dense", "GroupNorm", "SiLU", "AddLayerNormV2", "Mul"} <= known
    assert {"GroupedMatmulV4", "PromptFlashAttention"} <= known
    assert not {"Im2Col", "BiasAdd", "Gather", "ResizeNearestNeighbor", "NoSuchPrimitive", "AllReduce"} & known
    assert 400 < len(known) < 1000
    assert ascend_kernels.missing(["Mul", "Reshape", "Im2Col", "Im2Col", "BiasAdd"]) == ["BiasAdd", "Im2Col"]


def test_what_there_is_no_kernel_for_yet():
    """CANN fuses GroupNorm with SiLU, and GEGLU; MindSpore has no primitive for them, neither one with a kernel nor a
    Python name. When this fails there is something to gain: lowering/ascend/__init__.py says what."""
    from mindspore import mint, ops

    fused = re.compile("ge_?glu|group_?norm_?(silu|swish)|gelu_?mul", re.IGNORECASE)
    names = {*ascend_kernels.registered(), *dir(ops), *dir(ops.auto_generate), *dir(mint), *dir(mint.nn.functional)}
    assert {"Swiglu", "FFNExt", "group_norm"} <= names  # the nearest there are
    assert [n for n in names if fused.search(n)] == []


@pytest.mark.parametrize("primitive, op", [("Im2Col", CONVOLUTION), ("BiasAdd", torch.ops.aten.linear.default)])
def test_a_lowering_for_the_cpu_is_noticed(primitive, op, tmp_path, monkeypatch):
    """The CPU's convolutions and linear layers use primitives that Ascend has no kernel for."""
    monkeypatch.setattr(cost.Kept, "cheapest", lambda self, plans, _: next(p for p in plans if p.name == "im2col"))
    sample = plugins.registry().lowering(op, "CPU").samples[0]
    captured, _, _ = trial(op, sample.args, {}, torch.Generator().manual_seed(0))
    target = Target("CPU")
    program = lower(captured, plugins.registry(), "CPU", target.compute_dtype)
    assert primitive in ascend_kernels.missing(graphs.exported(program, target, tmp_path))


@pytest.mark.parametrize("part", range(6))
def test_every_lowering_has_its_kernels(part, tmp_path):
    """By MindSpore's own inference in float16, and with a kernel for every primitive that it leaves in the graph. Many
    programs in one: an export of its own for each takes minutes."""
    merged = Program(f"lowerings {part}")
    for case in CASES[part::6]:
        op, sample = case.values
        program, _, _ = lowered(op, sample.args, sample.kwargs, torch.float16)
        made = {v for i in program.instructions for v in i.outputs}
        merged.inputs += program.inputs
        merged.weights |= program.weights
        merged.prepared |= program.prepared
        merged.constants |= program.constants
        merged.instructions += program.instructions
        merged.outputs += [v for v in program.outputs if v in made]
    assert len(merged.outputs) > 40
    assert ascend_kernels.missing(graphs.exported(merged, TARGET, tmp_path)) == []


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "library.so"
    path.write_bytes(b"no ELF at all" + bytes(64))
    assert ascend_kernels.registered(path) is None
    path.write_bytes(b"\x7fELF" + bytes(14) + struct.pack("<H", 183) + bytes(64))  # AArch64
    assert ascend_kernels.registered(path) is None
