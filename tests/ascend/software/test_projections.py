"""Linear layers of one input in one kernel: which, the same numbers, and weights that follow the module's."""

import pytest
import torch
from ascend.software.running import Running, run
from ms_controlnet_backend.compat import mindspore_runtime
from torch import nn

from ms_controlnet_backend import passes, plugins
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.lowering.ascend import fuse
from ms_controlnet_backend.lowering.ascend.prepare import PadColumns, PadHeads, Transposed
from ms_controlnet_backend.lowering.ascend.work import work
from ms_controlnet_backend.lowering.forms import Rows
from ms_controlnet_backend.lowering.lower import lower
from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.runtime.weights import WeightStore
from ms_controlnet_backend.signature import Arguments

TARGET = Target("Ascend")
GROUPED, LINEAR = fuse.GROUPED, fuse.LINEAR


class Projections(nn.Module):
    """Self-attention's, without the attention. bias: one a layer; sizes: of their outputs."""

    def __init__(self, dtype=torch.float16, bias=(False, False, False), sizes=(8, 24, 16)):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Linear(12, n, bias=b) for n, b in zip(sizes, bias)]
        self.to_q, self.to_k, self.to_v = layers[:3]
        self.more = nn.ModuleList(layers[3:])
        self.to(dtype).requires_grad_(False)

    def forward(self, x):
        return [layer(x) for layer in (self.to_q, self.to_k, self.to_v, *self.more)]


def inputs(dtype=torch.float16):
    return torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1)).to(dtype)


def lowered(module, x, without=()):
    structure, tensors = Arguments(module.forward, frozenset()).split((x,), {})
    with torch.no_grad():
        captured = capture("block", module, module.forward, structure, tensors)
    passes.run(captured, plugins.registry().passes("Ascend"))
    return lower(captured, plugins.registry(), "Ascend", TARGET.compute_dtype, without)


def callees(program):
    return [i.callee for i in program.instructions if i.callee in (GROUPED, LINEAR)]


def assert_equal(program, module, x):
    for g, e in zip(run(program, [x], TARGET), module.float()(x.float()), strict=True):
        assert e.std() > 0.1
        torch.testing.assert_close(g.float(), e, rtol=2e-2, atol=2e-3 if x.dtype != torch.bfloat16 else 2e-2)


@pytest.mark.parametrize(
    "dtype, bias, kernels",
    [
        (torch.float16, (False, False, False), [GROUPED]),
        (torch.float16, (True, True, True), [GROUPED]),
        (torch.float16, (False, True, False), [GROUPED, LINEAR]),
        (torch.bfloat16, (False, False, False), [GROUPED]),
        (torch.bfloat16, (True, True, False), [LINEAR] * 3),  # the kernel wants bfloat16's bias in float32
        (torch.float32, (False, False, False), [LINEAR] * 3),  # the kernel has no float32
    ],
)
def test_which(dtype, bias, kernels):
    module, x = Projections(dtype, bias), inputs(dtype)
    program = lowered(module, x)
    assert sorted(callees(program)) == sorted(kernels)
    assert callees(lowered(module, x, without={"grouped_projections"})) == [LINEAR] * 3
    assert_equal(program, module, x)


def test_it_reads_the_input_once(npu):
    module, x = Projections(), inputs()
    programs = [lowered(module, x, without) for without in ((), {"grouped_projections"})]
    (grouped,), plain = map(work, programs)
    assert grouped.matrix == sum(w.matrix for w in plain) == 2 * 10 * 12 * 48
    assert sum(w.moved for w in plain) - grouped.moved == 2 * x.nbytes
    for program, kernels in zip(programs, (1, 3)):
        npu.reset()
        run(program, [x], TARGET)
        assert sum(npu.report().launches.values()) == kernels


def test_no_more_than_the_kernel_takes(monkeypatch):
    monkeypatch.setattr(fuse, "MOST", 2)
    module, x = Projections(bias=(False,) * 5, sizes=(8, 24, 16, 4, 20)), inputs()
    program = lowered(module, x)
    assert sorted(callees(program)) == sorted([GROUPED, GROUPED, LINEAR])
    assert_equal(program, module, x)
    monkeypatch.setattr(fuse, "LONGEST", 23)
    assert sorted(callees(lowered(module.half(), x))) == sorted([GROUPED, GROUPED, LINEAR])


def test_another_input_and_a_weight_that_is_computed_stay_out():
    class Other(Projections):
        def forward(self, x):
            return self.to_q(x), self.to_k(x * 2), nn.functional.linear(x, self.to_v.weight * 2)

    module, x = Other(), inputs()
    program = lowered(module, x)
    assert callees(program) == [LINEAR] * 3
    assert_equal(program, module, x)


@pytest.mark.parametrize("change", ["in place", "by data"])
@pytest.mark.parametrize("name", ["to_q", "to_k", "to_v"])
def test_one_of_the_weights_changes(name, change):
    """What is fed follows it, and it alone is converted again."""
    module, x = Projections(), inputs()
    running = Running(lowered(module, x), TARGET)
    before = running([x])
    assert not any(w.refresh() for w in running.weights)
    weight = getattr(module, name).weight
    with torch.no_grad():
        (weight if change == "in place" else weight.data).mul_(-3)
    refreshed = [w for w in running.weights if w.refresh()]
    assert [w.source() is weight for w in refreshed] == [True]
    after = running([x])
    for label, a, b, e in zip(("to_q", "to_k", "to_v"), after, before, module.float()(x.float()), strict=True):
        torch.testing.assert_close(a.float(), e, rtol=2e-2, atol=5e-3)
        assert torch.equal(a, b) == (label != name)


@pytest.mark.parametrize(
    "prepare, shape, fed_shape",
    [
        (PadHeads(3, 16), (30, 7), (48, 7)),
        (PadHeads(3, 16), (30,), (48,)),
        (PadColumns(3, 16), (7, 30), (7, 48)),
        (Transposed(), (30, 7), (7, 30)),
        (Transposed(PadHeads(3, 16)), (30, 7), (7, 48)),
    ],
)
def test_the_weight_can_be_had_back(prepare, shape, fed_shape):
    """From the device: torch's memory of it may be released."""
    mindspore_runtime.select_device("ascend")
    t = torch.randn(shape).half()
    weight = WeightStore(TARGET, keep_on_host=False).get(t, "w", fed_shape, prepare)
    assert weight.faithful and weight.host is None and tuple(weight.parameter.shape) == fed_shape
    assert torch.equal(weight.read(), t) and weight.read().is_contiguous()


def test_a_part_of_a_weight_is_not_the_weight():
    mindspore_runtime.select_device("ascend")
    t = torch.randn(30, 7).half()
    for prepare, shape in ((Rows(0, 10), (10, 7)), (Transposed(Rows(0, 10)), (7, 10))):
        assert not WeightStore(TARGET, keep_on_host=False).get(t, "w", shape, prepare).faithful
