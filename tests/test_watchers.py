"""Where somebody watches modules or operators, or transforms them, torch computes; afterwards the graph does again."""

import logging
import timeit

import models
import parity
import pytest
import torch
from ms_controlnet_backend.compat import torch_export, watchers
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import BaseTorchFunctionMode, TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ms_controlnet_backend import plugins
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.hookspecs import Adapter, Site, hookimpl
from ms_controlnet_backend.runtime.resident import ResidentTensor

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x, more=None):
        y = torch.nn.functional.silu(self.linear(x))
        return y if more is None else y + more


class Holder(torch.nn.Module):
    def __init__(self, small):
        super().__init__()
        self.small = small

    def forward(self, x):
        return self.small(x * 2) + 1


class Plugin:
    """Small is a component whose output stays on the device."""

    @hookimpl
    def register_adapters(self):
        return [Adapter("small", lambda c: isinstance(c, Small), lambda c, name: [Site(name, c, resident=True)])]


@pytest.fixture
def small(clean):
    """A Small in a pipeline, compiled, and which must not be refused."""
    from diffusers import DiffusionPipeline

    class Pipeline(DiffusionPipeline):
        def __init__(self, small):
            super().__init__()
            self.small = small

    plugin = Plugin()
    plugins.manager().register(plugin)
    pipe = Pipeline(Small())
    clean.enable(pipe, strict=True, redirect=False)
    assert isinstance(pipe.small(X), ResidentTensor)
    yield pipe.small
    plugins.manager().unregister(plugin)


def counts(clean, label="small"):
    stats = clean.stats()[label]
    return stats.calls, stats.compiles, stats.fallbacks, stats.watched


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append((str(func), [type(a).__name__ for a in args]))
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Hooks:
    """Hooks on all modules of the process."""

    def __init__(self):
        self.seen = []

    def __enter__(self):
        self.handles = [
            register_module_forward_pre_hook(lambda m, i: self.seen.append(("before", type(m).__name__))),
            register_module_forward_hook(lambda m, i, o: self.seen.append(("after", type(m).__name__))),
        ]
        return self

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()


class Patch:
    """torch.nn.Module.__call__ replaced by a function that counts."""

    def __init__(self):
        self.seen = []

    def __enter__(self):
        self.before = torch.nn.Module.__call__

        def call(module, *args, **kwargs):
            self.seen.append(type(module).__name__)
            return self.before(module, *args, **kwargs)

        torch.nn.Module.__call__ = call
        return self

    def __exit__(self, *error):
        torch.nn.Module.__call__ = self.before


class Flops(FlopCounterMode):
    def __init__(self):
        super().__init__(display=False)

    @property
    def seen(self):
        return [(name, str(op), n) for name, ops in self.get_flop_counts().items() for op, n in ops.items()]


@pytest.mark.parametrize("kind", [Operators, Functions, Hooks, Patch, Flops])
def test_they_see_what_they_see_on_torch(clean, caplog, kind):
    caplog.set_level(logging.DEBUG, logger="ms_controlnet_backend")
    inputs = torch.randn(2, 4, 16, 16), 5, torch.randn(2, 77, 16)
    net, reference = models.controlnet(), models.controlnet()
    unet, reference_unet = models.unet(), models.unet()
    control = torch.randn(2, 3, 32, 32)
    clean.enable(models.pipeline(unet=unet, controlnet=net), strict=True)

    def once(watch, net, unet, residuals):
        with watch:
            down, mid = net(*inputs, control, return_dict=False)
            x = unet(*inputs, down_block_additional_residuals=residuals[0], mid_block_additional_residual=residuals[1])
            return x.sample * 2, down[0]

    with torch.no_grad():
        graph = net(*inputs, control, return_dict=False)
        assert isinstance(graph[1], ResidentTensor)
        unet(*inputs, down_block_additional_residuals=graph[0], mid_block_additional_residual=graph[1])
        ordinary = reference(*inputs, control, return_dict=False)
        for _ in range(2):
            watch, expected_watch = kind(), kind()
            expected = once(expected_watch, reference, reference_unet, ordinary)
            got = once(watch, net, unet, graph)  # the graph's residuals, from before
            assert len(watch.seen) > 4 and watch.seen == expected_watch.seen
            assert torch.equal(got[1], expected[1])  # torch itself
            assert parity.relative_error(got[0], expected[0]) < parity.COMPONENT
        before = [counts(clean, label) for label in ("unet", "controlnet")]
        assert before == [(1, 1, 0, 2)] * 2
        unet(*inputs, down_block_additional_residuals=graph[0], mid_block_additional_residual=graph[1])
        net(*inputs, control, return_dict=False)
    assert [counts(clean, label) for label in ("unet", "controlnet")] == [(2, 1, 0, 2)] * 2
    told = [r for r in caplog.records if "while somebody watches" in r.getMessage()]
    assert len(told) == 2 and all(r.levelno == logging.DEBUG for r in told)
    ours = [r for r in caplog.records if r.name.startswith("ms_controlnet_backend")]
    assert not [r for r in ours if r.levelno >= logging.WARNING]


def watched(clean, small, call):
    """The call's result, which torch computed, and it is forgotten afterwards."""
    before = counts(clean)
    out = call()
    after = counts(clean)
    assert after[:3] == before[:3], "a graph answered, or the call was refused"
    assert isinstance(small(X), ResidentTensor) and counts(clean) == (after[0] + 1, *after[1:])
    return out


USES = {
    "to NumPy": lambda t: torch.from_numpy(t.numpy()),
    "product": lambda t: (t @ t.T).relu_(),
    "in place": lambda t: t.mul_(2),
    "view": lambda t: t[0].add_(1),
    "on the device": lambda t: (t + t).float(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("kind", [Operators, Functions, Flops])
def test_what_a_component_returned_before(small, kind, use):
    """Nothing is seen of how it comes to the host, and everything that is done with it."""
    out, ordinary = small(X), Small()(X)
    watch, expected_watch = kind(), kind()
    with expected_watch:
        expected = use(ordinary)
    with watch:
        got = use(out)
    assert [names(s) for s in watch.seen] == [names(s) for s in expected_watch.seen]
    assert torch.allclose(got, expected) and torch.allclose(out + 0, ordinary)


def names(seen):
    """Of what was called, without its arguments' types."""
    return seen if isinstance(seen, str) else seen[:1]


def test_another_thread_captures(small):
    """Export replaces methods of torch.nn.Module meanwhile."""
    with Patch():
        assert "__call__" in watchers.watcher()
        with torch_export._lock:
            assert watchers.watcher() is None
    assert watchers.watcher() is None


def test_dynamo(clean, small):
    holder = Holder(small)
    expected = Holder(Small())(X)
    for strict in (True, False):
        program = watched(clean, small, lambda: torch.export.export(holder, (X,), strict=strict))
        operators = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
        assert "aten.silu.default" in operators and torch.equal(program.module()(X), expected)
    torch.compiler.reset()
    compiled = torch.compile(holder, backend="eager", fullgraph=True)
    assert torch.equal(watched(clean, small, lambda: compiled(X)), expected)


def test_tracers(clean, small):
    holder = Holder(small)
    expected = Holder(Small())(X + 1)
    traced = watched(clean, small, lambda: torch.jit.trace(holder, (X,), check_trace=False))
    assert "aten::silu" in str(traced.inlined_graph) and torch.equal(traced(X + 1), expected)
    graph = watched(clean, small, lambda: torch.fx.symbolic_trace(holder))
    assert "small_linear" in {n.name for n in graph.graph.nodes} and torch.equal(graph(X + 1), expected)
    make_fx = torch.fx.experimental.proxy_tensor.make_fx
    graph = watched(clean, small, lambda: make_fx(holder)(X))
    assert torch.equal(graph(X + 1), expected)


def test_a_tracer_keeps_hold_of_its_inputs(clean, small):
    """Ordinary tensors in place of those on the device would be constants of the trace."""
    out = small(X)
    make_fx = torch.fx.experimental.proxy_tensor.make_fx
    graph = make_fx(lambda r: small(X, r))(out)
    assert torch.equal(graph(X), Small()(X, X))
    assert torch.equal(torch.jit.trace(lambda r: small(X, r), (out,), check_trace=False)(X), Small()(X, X))


def test_transforms(clean, small):
    holder, reference = Holder(small), Holder(Small())
    residual = small(X)
    func = torch.func
    for transform in (
        lambda f: func.vmap(f)(X),
        lambda f: func.jvp(f, (X,), (torch.ones_like(X),))[1],
        lambda f: func.grad(lambda x: f(x).sum())(X),
        lambda f: func.jacrev(f)(X),
        lambda f: func.vmap(lambda x: f(x) * residual[0] + residual.sum())(X),
    ):
        expected = transform(reference)
        assert torch.equal(watched(clean, small, lambda: transform(holder)), expected)
    expected = func.vmap(Small())(X, torch.from_numpy(residual.numpy()))
    assert torch.allclose(watched(clean, small, lambda: func.vmap(small)(X, residual)), expected)

    def tangent(f):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
            return torch.autograd.forward_ad.unpack_dual(f(dual)).tangent

    expected = tangent(reference)
    assert torch.equal(watched(clean, small, lambda: tangent(holder)), expected)


def test_tensors_without_numbers(clean, small):
    residual = small(X)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(X)
        out = small(fake)
        assert out.shape == (2, 4) and isinstance(out, type(fake))
        assert isinstance(small(fake, residual), type(fake)) and isinstance(residual * 2, type(fake))
    assert isinstance(small(fake), type(fake))  # after its mode
    assert counts(clean)[1:] == (1, 0, 3)
    small.to("meta")
    assert small(X.to("meta")).is_meta and counts(clean)[1:] == (1, 0, 4)


def test_a_subclass_of_somebodys_own_is_refused_aloud(clean, small):
    class Own(torch.Tensor):
        pass

    with pytest.raises(Refused, match="an input is a Own"):
        small(X.as_subclass(Own))


def test_innocent_modes(clean, small):
    before = counts(clean)
    with torch.device("cpu"), BaseTorchFunctionMode():
        small(X)
    torch.set_default_device("cpu")
    try:
        small(X)
        with Functions():
            small(X)
    finally:
        torch.set_default_device(None)
    handle = torch.nn.modules.module.register_module_full_backward_hook(lambda *a: None)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x), torch.autograd.set_detect_anomaly(True):
        small(X)
    handle.remove()
    assert counts(clean) == (before[0] + 3, before[1], 0, 1)


def test_the_profiler_sees_a_range(clean, small):
    from torch.profiler import ProfilerActivity, profile

    before = counts(clean)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        small(X)
    assert [e.key for e in seen.key_averages() if "ms_controlnet" in e.key] == ["ms_controlnet_backend: small"]
    assert counts(clean) == (before[0] + 1, *before[1:])


def test_asking_costs_nearly_nothing():
    assert min(timeit.repeat(watchers.watcher, number=1000, repeat=20)) / 1000 < 5e-6
