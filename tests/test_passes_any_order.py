"""The graph passes in any order keep what a function computes, whatever it views, copies and writes to."""

import itertools
import math
from dataclasses import replace

import models
import parity
import programs
import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from ms_controlnet_backend import passes, plugins
from ms_controlnet_backend.backends import mindspore as backend
from ms_controlnet_backend.backends.eager_torch import TorchEngine
from ms_controlnet_backend.capture import Captured, capture
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.hookspecs import Options, Site
from ms_controlnet_backend.passes import fold_constants
from ms_controlnet_backend.passes.drop_no_ops import drop_no_ops
from ms_controlnet_backend.signature import Arguments
from ms_controlnet_backend.verify.checks import without_passes

aten = torch.ops.aten
PASSES = plugins.registry().passes("CPU")
orders = st.permutations(PASSES)
repeatable = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck),
                  phases=[Phase.explicit, Phase.generate])  # fmt: skip


class Function(torch.nn.Module):
    """Of a tensor and a weight."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.arange(48.0).reshape(12, 4) / 20 - 1, requires_grad=False)

    def forward(self, x):
        return self.function(x, self.weight)


def captured(module, *args):
    structure, tensors = Arguments(module.forward, ()).split(args, {})
    return capture("module", module, module.forward, structure, tensors), tensors


def captured_program(steps):
    """(graph, tensors, what torch returns) of a program."""
    program = programs.Program(steps)
    try:
        graph, tensors = captured(program, programs.X)
    except Refused as refusal:
        assume("Cannot view a tensor" not in str(refusal))  # torch makes writes functional with other strides
        raise
    return graph, tensors, program(programs.X)


def copy(captured):
    """To run other passes on."""
    graph, twins = torch.fx.Graph(), {}
    graph.output(graph.graph_copy(captured.graph, twins))
    module = torch.fx.GraphModule({}, graph)
    module.folded = dict(getattr(captured.graph_module, "folded", {}))
    return replace(
        captured,
        graph_module=module,
        inputs={twins[n]: i for n, i in captured.inputs.items()},
        weights={twins[n]: w for n, w in captured.weights.items()},
        outputs=[twins[n] for n in captured.outputs],
    )


def after(captured, order):
    changed = copy(captured)
    passes.run(changed, order)
    changed.graph.lint()
    return changed


def assert_same(got, expected, tolerance=0.0):
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert (g.shape, g.dtype) == (e.shape, e.dtype)
        torch.testing.assert_close(g, e, rtol=tolerance, atol=tolerance)


def assert_as_captured(changed, captured):
    """Of the outputs' shapes, dtypes and strides, as the graphs tell them, and which of them are one tensor."""
    assert len(changed.outputs) == len(captured.outputs)
    for now, before in zip(changed.outputs, captured.outputs):
        a, b = now.meta["val"], before.meta["val"]
        assert (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())
    assert len(set(changed.outputs)) == len(set(captured.outputs))


@settings(max_examples=50, **repeatable)
@given(programs.steps(programs.EVERYTHING), st.lists(orders, min_size=2, max_size=2))
def test_random_programs(steps, orders):
    graph, tensors, expected = captured_program(steps)
    for order in orders:
        changed = after(graph, order)
        assert_same(TorchEngine().evaluate(changed, tensors), expected)
        assert_as_captured(changed, graph)
        twice = after(changed, order[::-1])
        assert_same(TorchEngine().evaluate(twice, tensors), expected)
        assert_as_captured(twice, graph)


@pytest.fixture(scope="module")
def engine():
    """It runs a graph as it is."""
    return without_passes(backend.build(Options("CPU", strict=True)))


@settings(max_examples=15, **repeatable)
@given(programs.steps(programs.EVERYTHING - {*programs.UNLOWERED}), orders)
def test_random_programs_on_mindspore(engine, steps, order):
    graph, tensors, expected = captured_program(steps)
    assert_same(engine.evaluate(after(graph, order), tensors), expected, 1e-6)


# -- fixed graphs, in every order ------------------------------------------------------------------------------------


def merged_tokens(x, weight):
    """A constant written to, cut into windows; the copy that made it viewable is dropped."""
    order = torch.zeros(2, 2, 4, dtype=torch.int64)
    order.scatter_(2, torch.zeros(2, 2, 1, dtype=torch.int64), -torch.ones(2, 2, 1, dtype=torch.int64))
    order = order.view(2, 2, 2, 2).transpose(1, 2).reshape(1, -1, 1).argsort(dim=1, stable=True)
    tokens = x.reshape(1, 24, 1)[:, :16]
    merged = tokens.gather(1, order[:, :4]).contiguous()
    return merged.transpose(1, 2).contiguous().view(2, 2), tokens.transpose(1, 2).clone().view(4, 4)


def attention(x, weight):
    q, k = x[:, :, :4], x.flip(1)
    scores = torch.baddbmm(torch.empty(2, 3, 3), q, k.transpose(1, 2).contiguous(), beta=0, alpha=0.5)
    y = (scores.clone().softmax(-1) * 1) @ (x + 1)
    return y.transpose(0, 1).contiguous().view(3, -1), y.clone().view(-1)


def geglu(x, weight):
    h, g = torch.nn.functional.linear(x.transpose(0, 1).contiguous(), weight.clone()).chunk(2, -1)
    table = torch.arange(6.0).view(2, 3).t().contiguous().view(-1)
    return (h.clone() * torch.nn.functional.gelu(g)).transpose(0, 2).contiguous().view(-1) + table[:1], table * 1


def complex_table(x, weight):
    table = torch.view_as_complex(torch.arange(24.0).view(2, 3, 2, 2).transpose(0, 1).contiguous()).transpose(0, 1)
    filtered = torch.fft.ifft(torch.fft.fft(x.view(2, 3, 2, 2)[..., 0]).clone() * table)
    return filtered.real.contiguous().view(-1), torch.view_as_real(filtered + table).sum(-1)


def duplicates(x, weight):
    a, b = (x * 1).clone(), torch.zeros(2, 3, 4).transpose(1, 2).contiguous()
    a[0].add_(1)
    return x.clone(), x.contiguous(), a, (x + 1).mT.contiguous().view(-1), (x + 1), x + 1, b.view(-1), b.clone(), b


FIXED = [merged_tokens, attention, geglu, complex_table, duplicates]


def contents(captured) -> tuple:
    """Equal for graphs that the same passes change in the same way."""
    return str(captured.graph), str({n: t.tolist() for n, t in captured.graph_module.folded.items()})


@pytest.mark.parametrize("function", FIXED, ids=lambda f: f.__name__)
def test_every_order(function):
    """Orders that begin alike share the beginning, and so do those that come to the same graph."""
    module = Function(function)
    expected = module(programs.X)
    start, tensors = captured(module, programs.X)
    states = {frozenset(): {None: (start, 1)}}  # passes run → contents → (graph, how many orders lead to it)
    for number in range(len(PASSES)):
        for done in map(frozenset, itertools.combinations(PASSES, number)):
            for p in set(PASSES) - done:
                known = states.setdefault(done | {p}, {})
                for graph, count in states[done].values():
                    changed = after(graph, [p])
                    key = contents(changed)
                    first, before = known.get(key, (changed, 0))
                    known[key] = first, before + count
    finished = states[frozenset(PASSES)].values()
    assert sum(count for _, count in finished) == math.factorial(8) == math.factorial(len(PASSES))
    for changed, _ in finished:
        assert_same(TorchEngine().evaluate(changed, tensors), expected, 2e-6)
        assert_as_captured(changed, start)


@settings(max_examples=12, **repeatable)
@given(st.sampled_from(FIXED), orders)
def test_fixed_graphs_on_mindspore(engine, function, order):
    module = Function(function)
    graph, tensors = captured(module, programs.X)
    assert_same(engine.evaluate(after(graph, order), tensors), module(programs.X), 1e-5)


# -- what reads or writes memory -------------------------------------------------------------------------------------


def exported(function, *args):
    """With the writes as they are."""
    graph_module = torch.export.export(Function(function), args, strict=False).graph_module
    node = next(n for n in graph_module.graph.nodes if n.op == "output")
    return Captured("module", graph_module, None, {}, {}, list(node.args[0]), list)


def test_a_graph_that_writes_is_refused():
    def function(x, weight):
        y = x.clone()
        y.add_(1)
        return x * 1, y

    with pytest.raises(Refused, match=r"aten.add_.Tensor writes to its arguments"):
        passes.run(exported(function, programs.X), PASSES)


def test_memory_of_a_constant():
    """Read as it lay there before the copies were dropped."""

    def function(x, weight):
        table = torch.arange(12.0).view(3, 4).t()
        rows = table.contiguous().as_strided((4, 4), (1, 2)), table.as_strided((4, 4), (1, 2))
        return x[0, 0] + rows[0], x[0, 0] + rows[1], table.contiguous().view(torch.int32) + 1

    expected = Function(function)(programs.X)
    assert not torch.equal(expected[0], expected[1])
    graph, tensors = captured(Function(function), programs.X)
    for order in (PASSES, PASSES[::-1], []):
        assert_same(TorchEngine().evaluate(after(graph, order), tensors), expected)


def test_adjacent_elements():
    """``view(dtype)`` and ``view_as_complex`` are illegal without the copy before them."""

    def function(x, weight):
        bits = x.transpose(0, 2).contiguous().view(torch.int64)
        pairs = torch.view_as_complex(x.permute(1, 0, 2).reshape(3, 2, 2, 2).permute(3, 2, 0, 1).contiguous())
        return bits * 1, torch.view_as_real(pairs) + 1

    expected = Function(function)(programs.X)
    graph, tensors = captured(Function(function), programs.X)
    changed = after(graph, [p for p in PASSES if p.name != "split_complex"])
    assert_same(TorchEngine().evaluate(changed, tensors), expected)


def test_memory_of_an_argument_is_refused():
    """It lies otherwise in another call."""
    graph, _ = captured(Function(lambda x, weight: (x + 1).as_strided((2, 2), (1, 1))), programs.X)
    with pytest.raises(Refused, match="as_strided.default reads the memory"):
        after(graph, PASSES)


def test_folding_reads_values():
    """Not memory, whoever dropped the copy that a ``view`` of a constant needs."""
    graph, _ = captured(
        Function(lambda x, weight: x + torch.arange(4.0).view(2, 2).t().contiguous().view(-1)), programs.X
    )
    drop_no_ops(graph.graph_module)
    fold_constants.fold_constants(graph.graph_module)
    assert [t.tolist() for t in graph.graph_module.folded.values()] == [[0, 2, 1, 3]]


def test_constants_of_two_runs_are_kept(monkeypatch):
    """In one table, under names of their own; what only constants were made of goes."""

    def function(x, weight):
        return complex_table(x, weight)[0] + (torch.arange(2.0) + torch.zeros(2)).repeat(6), x * torch.arange(4.0)

    def folds(captured):
        changed = after(captured, PASSES)
        constants = {w.name: w.tensor for w in changed.weights.values() if w.constant}
        assert constants == changed.graph_module.folded
        assert set(constants) == {n.name for n in changed.graph.nodes if n.users} & set(constants)
        assert_same(TorchEngine().evaluate(changed, tensors), function(programs.X, None), 2e-6)
        return changed

    graph, tensors = captured(Function(function), programs.X)
    monkeypatch.setattr(fold_constants, "LIMIT", 8)
    partly = after(graph, [p for p in PASSES if p.name == "fold_constants"])
    assert [t.tolist() for t in partly.graph_module.folded.values()] == [[0, 1]]
    monkeypatch.undo()
    at_once, later = folds(graph), folds(partly)
    assert len(at_once.graph.nodes) == len(later.graph.nodes) == len(folds(later).graph.nodes)


@pytest.mark.parametrize("resident", [False, True])
def test_what_was_two_tensors_is_not_one(resident):
    """Outputs that the passes find equal: writing to one leaves the other."""
    module = Function(lambda x, weight: (x + 1, x + 1, (x + 1).clone(), weight.clone(), weight * 1))
    component = backend.build(Options("CPU", strict=True)).component(Site("module", module, resident=resident))
    for _ in range(2):
        with torch.no_grad():
            outputs, expected = component(module.forward, (programs.X,), {}), module(programs.X)
        for i, (output, e) in enumerate(zip(outputs, expected)):
            for later, other in zip(outputs[i:], expected[i:]):
                assert torch.equal(later + 0, other)
            output.numpy()[...] = 7


# -- a whole UNet -----------------------------------------------------------------------------------------------------


def merge_tokens(block):
    """In the manner of ToMe for Stable Diffusion (Bolya and Hoffman, arXiv 2303.17604): a block's forward, replaced on
    the instance, attends to one token of each window of 2 x 2, which an index made in place chooses."""
    upstream = block.attn1.forward

    def forward(hidden_states, encoder_hidden_states=None, **kwargs):
        batch, tokens, channels = hidden_states.shape
        side = int(tokens**0.5) // 2
        order = torch.zeros(side, side, 4, dtype=torch.int64)
        chosen = torch.zeros(side, side, 1, dtype=torch.int64)
        order.scatter_(dim=2, index=chosen, src=-torch.ones_like(chosen))
        order = order.view(side, side, 2, 2).transpose(1, 2).reshape(2 * side, 2 * side)
        buffer = torch.zeros(2 * side, 2 * side, dtype=torch.int64)
        buffer[: 2 * side, : 2 * side] = order
        order = buffer.reshape(1, -1, 1).argsort(dim=1)
        kept, left = order[:, : side * side], order[:, side * side :]

        def take(index):
            return hidden_states.gather(1, index.expand(batch, -1, channels))

        out = upstream(torch.cat([take(kept), take(left)], 1), take(kept), **kwargs)
        back = torch.cat([kept, left], 1).argsort(dim=1)
        return out.gather(1, back.expand(batch, -1, channels))

    block.attn1.forward = forward


def test_token_merging(clean):
    pipe, generator = models.pipeline(), torch.Generator().manual_seed(1)
    latents, text = (torch.randn(shape, generator=generator) for shape in ((2, 4, 16, 16), (2, 7, 16)))

    def call():
        with torch.no_grad():
            return pipe.unet(latents, 7, text).sample

    plain = call()
    for module in pipe.unet.modules():
        if isinstance(module, BasicTransformerBlock):
            merge_tokens(module)
    expected = call()
    assert parity.relative_error(plain, expected) > 10 * parity.COMPONENT, "it changes nothing"
    clean.enable(pipe)
    assert parity.relative_error(call(), expected) < parity.COMPONENT
    unet = clean.stats()["unet"]
    assert (unet.calls, unet.compiles, unet.fallbacks) == (1, 1, 0)
