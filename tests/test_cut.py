"""An operator that cannot be lowered runs on the host, by torch; everything around it is compiled."""

import gc
import logging
import weakref

import models
import parity
import pytest
import torch
from cutting import Module, assert_same, build, inputs, upstream

from ms_controlnet_backend import plugins
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.hookspecs import Lowering, hookimpl

aten = torch.ops.aten
seen: list = []


@torch.library.custom_op("cut_tests::mixed", mutates_args=())
def mixed(xs: list[torch.Tensor], bias: torch.Tensor | None, factor: float, name: str) -> list[torch.Tensor]:
    seen.append([x.dtype for x in xs])
    total = sum(xs) * factor
    return [total, total.argmax(-1), total > 0]


@mixed.register_fake
def _(xs, bias, factor, name):
    x = xs[0]
    return [torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.int64), torch.empty_like(x, dtype=torch.bool)]


def in_the_middle(m, x):
    return m.b(torch.special.i0e(m.a(x))).relu()


def two_in_a_row(m, x):
    return m.b(torch.special.i0e(m.a(torch.special.i1e(m.a(x)))))


def in_branches(m, x):
    return m.b(torch.special.i0e(m.a(x)) + torch.special.i1e(m.b(x))) * m.a(x)


def host_to_host(m, x):
    return m.b(torch.special.i0e(torch.special.i1e(m.a(x))))


def of_the_input(m, x):
    return m.a(torch.special.i0e(x))


def returned_as_it_is(m, x):
    y = m.a(x)
    return torch.special.i0e(y), y


def of_weights(m, x):
    return m.a(x) @ torch.linalg.inv(m.b.weight + 3 * torch.eye(4))


def of_a_weight(m, x):
    return m.a(x) @ torch.linalg.inv(m.b.weight)


def of_part_of_a_weight(m, x):
    """Which the compiled graph keeps in another arrangement."""
    return m.a(x) @ torch.special.i0e(m.b.weight[1:3]).repeat(2, 1), m.b.weight.reshape(-1)


def several_outputs(m, x):
    u, s, vh = torch.linalg.svd(m.a(x), full_matrices=False)
    return m.b((u * s) @ vh)


def integers(m, x):
    order = torch.searchsorted(torch.arange(-2.0, 2.0), m.a(x))
    return m.b(order.float()), order * 2


def scalar(m, x):
    y = m.a(x)
    return y * torch.linalg.det(y.T @ y + torch.eye(4))


def doubles(m, x):
    return torch.special.i0e(m.a(x).double()).float() + x


def complex_numbers(m, x):
    y = torch.fft.fft(m.a(x))
    return m.b(y.abs()) + y.real


def fourier_of_doubles(m, x):
    return m.b(torch.fft.ifft(torch.fft.fft(m.a(x).double())).real.float())


def real_fourier(m, x):
    return m.b(torch.fft.irfft(torch.fft.rfft(m.a(x)) * (2 - 1j), n=4))


def custom(m, x):
    y, index, positive = torch.ops.cut_tests.mixed([m.a(x), x], None, 2.0, "name")
    return m.b(y) * positive, index + 1


# function: calls on the host; tensors a call that come to the host, with the graph's own outputs; that go up, with x
CASES = {
    in_the_middle: (1, 1 + 1, 1 + 1),
    two_in_a_row: (2, 2 + 1, 2 + 1),
    in_branches: (2, 2 + 1, 2 + 1),
    host_to_host: (2, 1 + 1, 1 + 1),  # what one call gives another stays on the host
    of_the_input: (1, 0 + 1, 1 + 0),  # x is on the host already, and not wanted elsewhere
    returned_as_it_is: (1, 1 + 1, 0 + 1),  # the host has the one output
    of_weights: (1, 1 + 1, 1 + 1),
    of_a_weight: (1, 0 + 1, 1 + 1),  # a weight is on the host, too
    of_part_of_a_weight: (1, 0 + 1, 1 + 1),
    several_outputs: (1, 1 + 1, 3 + 1),
    integers: (1, 1 + 2, 1 + 1),
    scalar: (1, 1 + 1, 1 + 1),
    doubles: (1, 1 + 1, 1 + 1),
    complex_numbers: (2, 1 + 1, 1 + 1),  # the real part is had on the device, as without the absolute value
    fourier_of_doubles: (3, 1 + 1, 1 + 1),
    real_fourier: (3, 1 + 1, 1 + 1),
    custom: (1, 1 + 2, 3 + 1),
}


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_equals_torch(function):
    module = Module(function)
    ours, engine = build(module)
    for i, x in enumerate(inputs()):
        before = engine.stats()["cut"] if i else None
        expected = upstream(module, x)
        assert_same(ours(x), expected)
    after = engine.stats()["cut"]
    assert (after.compiles, after.fallbacks, after.calls) == (1, 0, 4)
    (graph,) = engine._components[module]._now.graphs.values()
    crossed = sum(graph.event.host_calls.values()), after.to_host - before.to_host, after.to_device - before.to_device
    assert crossed == CASES[function]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_host_sees_the_dtypes_of_the_script(dtype):
    """On CPU what is computed around the call is float32."""
    module = Module(custom).to(dtype)
    ours, _ = build(module)
    for x in inputs(dtype=dtype):
        expected = upstream(module, x)
        seen.clear()
        (got, index), (wanted, _) = ours(x), expected
        assert seen == [[dtype, dtype]] and got.dtype == dtype and index.dtype == torch.int64
        assert (got - wanted).abs().max() <= 3e-2 * wanted.abs().max()


def test_segments_are_few_and_dropped_values_are_gone():
    """Two branches that both call the host once: two segments, not three."""
    module = Module(in_branches)
    ours, engine = build(module)
    ours(*inputs(1))
    (graph,) = engine._components[module]._now.graphs.values()
    source = open(graph.event.source).read()
    assert [line for line in source.splitlines() if line.startswith("class ")] == [
        "class Segment_0(ms.nn.Cell):", "class Segment_1(ms.nn.Cell):"
    ]  # fmt: skip
    first, last = (stage for stage, _ in graph.cut.stages)
    assert len(first.calls) == 2 and len(last.program.inputs) == 3
    assert {v for stage in (first, last) for v in stage.dropped} >= set(first.program.outputs)


def test_what_depends_on_weights_alone_is_computed_where_it_is_used():
    module = Module(lambda m, x: torch.special.i0e(m.a(x)) @ (m.b.weight * m.b.weight + 1))
    ours, engine = build(module)
    assert_same(ours(*inputs(1)), upstream(module, *inputs(1)))
    (graph,) = engine._components[module]._now.graphs.values()
    first, last = (stage.program for stage, _ in graph.cut.stages)
    assert len(first.outputs) == len(last.inputs) == 1


def test_strict_mode_cuts_nothing():
    module = Module(in_the_middle)
    ours, _ = build(module, strict=True)
    with pytest.raises(Refused, match=r"no lowering for aten.special_i0e.default \(.*register_lowerings"):
        ours(*inputs(1))


def nothing_else(m, x):
    return torch.special.i0e(torch.special.i1e(x))


def shape_from_data(m, x):
    return m.a(x)[torch.nonzero(m.b(x)[:, 0] > 0)[:, 0]]


def complex_result(m, x):
    return torch.fft.rfft(m.a(x))


@pytest.mark.parametrize("function", [nothing_else, shape_from_data, complex_result])
def test_what_cannot_be_cut_is_not(function, caplog):
    """Its layers may still be parts."""
    module = Module(function)
    ours, engine = build(module)
    for x in inputs(2):
        assert torch.allclose(ours(x), upstream(module, x), atol=1e-6)
    stats = engine.stats()["cut"]
    assert stats.calls + stats.fallbacks == 2 and bool(stats.calls) is (function is not nothing_else)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert warning.startswith("cut runs in" if stats.calls else "cut stays on torch: ") and "unexpected" not in warning


def test_what_is_told(caplog):
    """One warning a component, with what to do; how often, to observers and in the log."""
    events = []

    class Observer:
        @hookimpl
        def component_compiled(self, event):
            events.append(event)

    observer = Observer()
    plugins.manager().register(observer)
    try:
        ours, _ = build(Module(lambda m, x: torch.special.i0e(m.a(torch.special.i0e(m.a(x)))) + torch.special.i1(x)))
        with caplog.at_level(logging.INFO):
            ours(*inputs(1)), ours(*inputs(1, shape=(5, 4)))
    finally:
        plugins.manager().unregister(observer)
    assert [dict(e.host_calls) for e in events] == [{"aten.special_i0e.default": 2, "aten.special_i1.default": 1}] * 2
    own = [r for r in caplog.records if r.name.startswith("ms_controlnet_backend")]
    (warning,) = [r.getMessage() for r in own if r.levelno == logging.WARNING]
    assert warning.count("no lowering for aten.special_i0e.default") == 1 and "aten.special_i1.default" in warning
    assert warning.count("register_lowerings") == 1
    told = [r.getMessage() for r in own if r.levelno == logging.INFO and "compiled" in r.getMessage()]
    assert len(told) == 2 and all("aten.special_i0e.default 2, aten.special_i1.default 1" in t for t in told)


def test_a_changed_weight_is_seen():
    """By the segments and by the host, which reads one itself."""
    for dtype in (torch.float32, torch.float16):
        module = Module(lambda m, x: m.a(x) @ torch.special.i0e(m.b.weight) + m.b.weight[:3]).to(dtype)
        ours, engine = build(module)
        for x in inputs(dtype=dtype):
            assert_same(ours(x), upstream(module, x), 1e-5 if dtype is torch.float32 else 5e-3)
            module.a.weight.mul_(-1.5), module.b.weight.add_(0.25)
        assert engine.stats()["cut"].compiles == 1
        module.b.weight.data = torch.ones(4, 4, dtype=dtype)
        assert_same(ours(x), upstream(module, x), 1e-5 if dtype is torch.float32 else 5e-3)


def test_released_weights():
    module = Module(lambda m, x: m.a(x) @ torch.special.i0e(m.b.weight) + m.b.weight[:3]).half()
    expected = [upstream(module, x) for x in inputs(dtype=torch.float16)]
    ours, engine = build(module, release=True)
    for x, e in zip(inputs(dtype=torch.float16), expected):
        assert_same(ours(x), e, 5e-3)
    stats = engine.stats()["cut"]
    assert stats.bytes_released > 0 and stats.fallbacks == 0


def test_weights_are_not_kept_alive():
    module = Module(lambda m, x: m.a(x) @ torch.special.i0e(m.b.weight) + m.b.weight[:3])
    ours, engine = build(module)
    ours(*inputs(1))
    old = [weakref.ref(module.a.weight), weakref.ref(module.b.weight)]
    (graph,) = engine._components[module]._now.graphs.values()
    engine._components[module]._now.snapshot = None  # keeps what it compares
    module.a, module.b = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    gc.collect()
    assert graph.cut is not None and [r() for r in old] == [None, None]


def test_outputs_that_stay_on_the_device():
    from ms_controlnet_backend.runtime.resident import ResidentTensor

    module = Module(lambda m, x: (m.b(torch.special.i0e(m.a(x))), torch.special.i0e(m.a(x)), x, m.b.weight))
    ours, _ = build(module, resident=True)
    for x in inputs(2):
        got, expected = ours(x), upstream(module, x)
        assert isinstance(got[0], ResidentTensor)
        assert_same([t + 0 for t in got], expected)
        unlowered = torch.special.i0e(got[0])  # a graph of this operator alone is not cut
        assert type(unlowered) is torch.Tensor
        assert_same(unlowered, torch.special.i0e(expected[0]))
        assert_same(ours(got[0]), upstream(module, expected[0]))


def test_the_prologue_of_the_rest():
    def function(m, x, text):
        return torch.special.i0e(m.a(x)) * m.b(text).relu() + torch.special.i1e(m.a(text))

    module = Module(function)
    ours, engine = build(module, constant=("text",))
    text = inputs(1)[0]
    for x in inputs():
        assert_same(ours(x, text=text), upstream(module, x, text=text))
    assert engine.stats()["cut"].prologue_runs == 1
    text.mul_(2)
    assert_same(ours(x, text=text), upstream(module, x, text=text))
    stats = engine.stats()["cut"]
    assert (stats.prologue_runs, stats.compiles, stats.fallbacks) == (2, 1, 0)


def test_a_setting_that_changes_stays_an_input():
    module = Module(lambda m, x: torch.special.i0e(m.a(x)) * m.scale["x"] + 1)
    module.scale = {"x": 1.5}
    ours, engine = build(module, settings=lambda m: [(m.scale, "x")])
    for i, x in enumerate(inputs()):
        module.scale["x"] = 1.5 + i
        assert_same(ours(x), upstream(module, x))
    stats = engine.stats()["cut"]
    assert (stats.compiles, stats.fallbacks) == (1, 0)


def test_an_operator_that_fails_raises_torchs_own_error():
    module = Module(lambda m, x: torch.linalg.cholesky(x @ x.T * x.sum().sign()) + torch.rand(3, 3))
    ours, _ = build(module)
    good = torch.eye(3) + 0.1
    for x in (good, -good):
        torch.manual_seed(4)
        if x is good:
            got, state = ours(x), torch.get_rng_state()
        else:
            with pytest.raises(torch.linalg.LinAlgError):
                ours(x)
        torch.manual_seed(4)
        if x is good:
            assert_same(got, upstream(module, x))
            assert torch.equal(state, torch.get_rng_state())


def wrong_shape(b, x):
    return b.reshape(x, (x.size,))


def broken(b, x):
    raise ValueError("a defect")


@pytest.mark.parametrize("lowering", [wrong_shape, broken])
def test_a_lowering_that_is_wrong_costs_its_operator(lowering, caplog):
    class Plugin:
        @hookimpl
        def register_lowerings(self):
            return [Lowering(aten.special_i0e.default, lowering)]

    plugin, module = Plugin(), Module(in_the_middle)
    plugins.manager().register(plugin)
    try:
        ours, engine = build(module)
        for x in inputs(2):
            assert_same(ours(x), upstream(module, x))
        assert engine.stats()["cut"].fallbacks == 0
        assert "the lowering of aten.special_i0e.default" in caplog.text
        ours, _ = build(module, strict=True)
        with pytest.raises(Refused, match="special_i0e|a defect"):
            ours(*inputs(1))
    finally:
        plugins.manager().unregister(plugin)


class Attention:
    """Upstream's, with an operator that nobody lowers after it."""

    def __init__(self):
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.usual = AttnProcessor2_0()

    def __call__(self, *args, **kwargs):
        y = self.usual(*args, **kwargs)
        return y * torch.special.i0e(y)


def test_a_whole_unet(clean):
    unet, reference = models.unet(), models.unet()
    unet.set_attn_processor(Attention()), reference.set_attn_processor(Attention())
    pipe = models.pipeline(unet=unet)
    clean.enable(pipe)
    text = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(9))
    before = None
    for i, x in enumerate(inputs(shape=(2, 4, 16, 16))):
        with torch.no_grad():
            got, expected = unet(x, 10 * i, text).sample, reference(x, 10 * i, text).sample
        assert parity.relative_error(got, expected) < 1e-5
        before, after = clean.stats()["unet"], before
    attentions = sum(name.endswith("processor") for name in unet.attn_processors)
    stats = before
    assert (stats.compiles, stats.fallbacks, stats.calls, stats.prologue_runs) == (1, 0, 4, 1)
    assert stats.to_host - after.to_host == attentions + 1
    assert stats.to_device - after.to_device == attentions + 2  # and the latents and the time step
