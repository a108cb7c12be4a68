"""Random numbers of a forward: drawn on the host, by torch, in its order, so that a seed gives torch's numbers."""

import functools

import pytest
import torch
from cutting import Module, assert_same, build, inputs, upstream

GENERATOR = torch.Generator()


@torch.library.custom_op("cut_tests::noise", mutates_args=())
def noise(n: int) -> torch.Tensor:
    return torch.randn(n)


@noise.register_fake
def _(n):
    return torch.empty(n)


F = torch.nn.functional


def like(m, x):
    return m.b(m.a(x) + torch.randn_like(m.a(x)))


def like_the_input(m, x):
    return m.a(x + torch.randn_like(x))


def twins(m, x):
    return m.a(x) * torch.rand(4) - torch.rand(4) + m.b(torch.rand(4))


def literals_only(m, x):
    return m.a(x) + torch.randn(3, 4).cumsum(0) + torch.randperm(4)


def dropout(m, x):
    return m.b(F.dropout(m.a(x), 0.4, training=True)) + F.dropout(x, 0.5, training=False)


def in_place(m, x):
    return m.a(x) + torch.empty_like(x).normal_() * torch.zeros_like(x).uniform_(0.5, 2)


def unused(m, x):
    torch.randn(7)
    return m.a(x) + torch.randn_like(x)


def late_before_early(m, x):
    """The first draw waits for what another one made, the second for nothing: they keep their order all the same."""
    p = torch.special.i0e(m.a(x))
    a = torch.bernoulli(p)
    b = torch.rand(3, 4)
    return m.b(a) + b + torch.normal(m.a(b), 0.5)


def attention(m, x):
    y = m.a(x)[None]
    return F.scaled_dot_product_attention(y, y, y, dropout_p=0.3) + 1


def undeclared(m, x):
    """An operator of a user's own that does not say that it draws."""
    return m.a(x) + torch.ops.cut_tests.noise(4) * 2 - torch.ops.cut_tests.noise(4)


def half(m, x):
    return m.a(x) + torch.randn_like(x.half()).float() + torch.randn(4, dtype=torch.float64).float()


def in_the_order_of_memory(m, x):
    image = m.conv(x.reshape(1, 3, 2, 2).expand(2, 3, 2, 2))  # the layer's weight is channels_last, so is this
    y = torch.randn_like(image) + torch.bernoulli(image.sigmoid()) + F.dropout(image, 0.5, True)
    turned = image.permute(0, 2, 3, 1)
    y = y.permute(0, 2, 3, 1) + torch.randn_like(turned) * torch.rand_like(turned.contiguous())
    return y + F.dropout(turned.contiguous() * 2, 0.5, True)


FUNCTIONS = [like, like_the_input, twins, literals_only, dropout, in_place, unused, late_before_early, attention,
             undeclared, half, in_the_order_of_memory]  # fmt: skip


def module_of(function):
    module = Module(function)
    module.conv = torch.nn.Conv2d(3, 5, 1).requires_grad_(False).to(memory_format=torch.channels_last)
    return module


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_same_numbers_for_the_same_seed(function):
    module = module_of(function)
    ours, engine = build(module)
    sides = []
    for call in (ours, lambda x: upstream(module, x)):
        torch.manual_seed(11)
        sides.append([call(x) for x in inputs()] + [torch.randn(3)])  # and what the script draws after
    for got, expected in zip(*sides):
        assert_same(got, expected)
    stats = engine.stats()["cut"]
    assert (stats.compiles, stats.fallbacks, stats.calls) == (1, 0, 4)
    torch.manual_seed(12)
    assert not torch.allclose(ours(inputs(4)[3]), sides[0][3])


def test_a_call_whose_output_is_zero_draws_all_the_same():
    """It is not run where it draws nothing."""
    module = Module(lambda m, x, scale: (m.a(x) + torch.randn_like(x)) * scale)
    ours, engine = build(module, is_zero=lambda arguments: arguments["scale"] == 0)
    sides = []
    for call in (ours, functools.partial(upstream, module)):
        torch.manual_seed(11)
        sides.append([call(x, scale=torch.tensor(scale)) for x, scale in zip(inputs(), (1.0, 0.0, 2.0, 0.0))])
    assert_same(*sides)
    stats = engine.stats()["cut"]
    assert (stats.compiles, stats.calls, stats.skipped) == (1, 4, 0)


@pytest.mark.parametrize(
    "function, conclusion", [("like", "no single operator is beyond"), ("own", "generator of its")]
)
def test_a_search_for_the_operator_that_differs(function, conclusion):
    """The reference and the captured graph draw the same numbers."""
    from ms_controlnet_backend.ab.bisect import bisect
    from ms_controlnet_backend.ab.shadow import Suspect
    from ms_controlnet_backend.backends.eager_torch import TorchEngine
    from ms_controlnet_backend.hookspecs import Site

    module = Own(own) if function == "own" else Module(like)
    _, engine = build(module)
    state = torch.get_rng_state()
    with torch.no_grad():
        found = bisect(Suspect(None, Site("cut", module), module.forward, (inputs(1)[0],), {}), TorchEngine(), engine)
    assert conclusion in found.conclusion
    if function == "like":
        assert "aten.randn_like.default" in found.refused and found.compared >= 2
    else:
        assert torch.equal(state, torch.get_rng_state())


def test_like_a_tensor_takes_no_tensor_to_the_host():
    """The graph is not even cut: the numbers are drawn before it runs."""
    module = Module(like)
    ours, engine = build(module)
    ours(*inputs(1))
    before = engine.stats()["cut"]
    ours(inputs(2)[1])
    after = engine.stats()["cut"]
    assert (after.to_host - before.to_host, after.to_device - before.to_device) == (1, 2)
    (graph,) = engine._components[module]._now.graphs.values()
    assert [cell is None for _, cell in graph.cut.stages] == [True, False]


def test_an_unused_number_in_a_graph_that_is_decomposed_is_not_lost(caplog):
    def function(m, x):
        torch.randn(7)
        return m.a(x).add_(torch.randn_like(x))

    module = Module(function)
    ours, _ = build(module)
    sides = []
    for call in (ours, lambda x: upstream(module, x)):
        torch.manual_seed(11)
        sides.append([call(x) for x in inputs(2)])
    assert_same(*sides)
    assert "draws random numbers that nothing uses" in caplog.text


def test_a_tensor_of_the_call_that_is_not_contiguous():
    module = Module(lambda m, x: torch.randn_like(x * 2) + m.a(x.T).T)
    ours, engine = build(module)
    for x in (*inputs(2, (4, 3)), inputs(1, (3, 4))[0].T):
        torch.manual_seed(11)
        got = ours(x)
        torch.manual_seed(11)
        assert_same(got, upstream(module, x))


class Own(torch.nn.Module):
    """With a generator of its own, one from its surroundings, and torch's."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        torch.manual_seed(0)
        self.a = torch.nn.Linear(4, 4).requires_grad_(False)
        self.own, self.box = torch.Generator().manual_seed(5), [torch.Generator().manual_seed(6)]

    def forward(self, x):
        return self.function(self, x)


def own(m, x):
    return m.a(x) + torch.randn(3, 4, generator=m.own) * torch.rand(3, 4, generator=m.box[0]) + torch.randn_like(x)


def surrounding(m, x):
    return torch.bernoulli(m.a(x).sigmoid(), generator=GENERATOR) + torch.randn(4, generator=m.own) + m.a(x)


def default(m, x):
    return m.a(x) + torch.randn(3, 4, generator=torch.default_generator) + torch.randn(3, 4)


def in_place_of_it(m, x):
    return m.a(x) + torch.empty(3, 4).normal_(generator=m.own) - torch.rand(3, 4, generator=m.own)


def both_sides(function):
    """([ours, theirs]: what four calls return and where the generators are after; the engine)."""
    sides, modules = [], [Own(function), Own(function)]
    ours, engine = build(modules[0])
    for module, call in zip(modules, (ours, functools.partial(upstream, modules[1]))):
        GENERATOR.manual_seed(7), torch.manual_seed(8)
        results = [call(x) for x in inputs()]
        generators = [module.own, *module.box, GENERATOR, torch.default_generator]
        sides.append(results + [g.get_state() for g in generators])
    return sides, engine


@pytest.mark.parametrize("function", [own, surrounding, default, in_place_of_it])
def test_the_generator_itself_advances(function):
    sides, engine = both_sides(function)
    assert_same(*sides)
    stats = engine.stats()["cut"]
    assert (stats.compiles, stats.fallbacks, stats.calls) == (1, 0, 4)


def makes_one(m, x):
    return m.a(x) + torch.randn(3, 4, generator=torch.Generator().manual_seed(3))


def seeds_one(m, x):
    m.own.manual_seed(5)  # what it was seeded with before
    return m.a(x) + torch.randn(3, 4, generator=m.own)


def seeds_torch(m, x):
    torch.manual_seed(9)
    return m.a(x) + torch.randn(3, 4)


@pytest.mark.parametrize("function", [makes_one, seeds_one, seeds_torch])
def test_a_forward_that_seeds_runs_as_python(function, caplog):
    """Traced, it would seed once."""
    sides, engine = both_sides(function)
    assert_same(*sides)
    stats = engine.stats()["cut"]
    assert (stats.calls, stats.fallbacks, stats.parts) == (4, 0, 1)  # its other layer is not called
    assert "forward makes a random generator" in caplog.text or "seed" in caplog.text


def test_another_generator_is_another_graph():
    module, reference = Own(own), Own(own)
    ours, engine = build(module)
    for seed, x in enumerate(inputs()):
        if seed == 2:
            module.own, reference.own = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        torch.manual_seed(seed)
        got = ours(x)
        torch.manual_seed(seed)
        assert_same(got, upstream(reference, x))
    assert engine.stats()["cut"].compiles == 2


def test_strict_mode_names_the_draw():
    from ms_controlnet_backend.errors import Refused

    ours, _ = build(Own(own), strict=True)
    with pytest.raises(Refused, match="no lowering for aten.randn.generator"):
        ours(*inputs(1))


def test_what_a_compilation_draws_that_fails(monkeypatch):
    """The first call fails after it has drawn: torch answers it, from the state before."""
    from ms_controlnet_backend.runtime.cut import _Run

    def fail(self, v):
        raise RuntimeError("a defect")

    monkeypatch.setattr(_Run, "output", fail)
    sides, engine = both_sides(own)
    assert_same(*sides)
    assert engine.stats()["cut"].parts == 1
