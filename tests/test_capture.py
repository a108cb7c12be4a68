"""From a module to a functional graph: arguments, passes, what is refused."""

import pytest
import torch

from ms_controlnet_backend import passes, plugins
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.foreign import Impure
from ms_controlnet_backend.lowering.lower import lower
from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.signature import Arguments


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4))
        self.register_buffer("counter", torch.zeros(1))
        self._function = function

    def forward(self, x, flag=None, **more):
        return self._function(self, x, flag, **more)


def captured(function, *args, **kwargs):
    module = Module(function).eval()
    structure, tensors = Arguments(module.forward).split(args, kwargs)
    return capture("test", module, module.forward, structure, tensors)


def operators(c):
    passes.run(c, plugins.registry().passes("CPU"))
    return [str(n.target) for n in c.graph.nodes if n.op == "call_function"]


X = torch.randn(2, 4)


def test_constants_are_folded():
    table = lambda m, x, _: x * torch.arange(4).float().exp()  # noqa: E731
    c = captured(table, X)
    assert operators(c) == ["aten.mul.Tensor"]
    assert [w.constant for w in c.weights.values()] == [False, False, True] or any(
        w.constant for w in c.weights.values()
    )


def test_random_numbers_are_never_folded():
    """Folded, every call would get the same "random" numbers. They have no lowering: the component stays on torch."""
    noisy = lambda m, x, _: x + torch.randn(4)  # noqa: E731
    c = captured(noisy, X)
    assert "aten.randn.default" in operators(c)
    with pytest.raises(Refused, match="no lowering for aten.randn.default"):
        lower(c, plugins.registry(), "CPU", Target("CPU").compute_dtype)


def test_random_twins_are_not_merged():
    c = captured(lambda m, x, _: torch.rand(4) - torch.rand(4) + x, X)
    assert operators(c).count("aten.rand.default") == 2


def test_duplicates_are_merged():
    c = captured(lambda m, x, _: torch.sin(x) + torch.sin(x), X)
    assert operators(c) == ["aten.sin.default", "aten.add.Tensor"]


def test_in_place_operators_become_functional():
    def forward(m, x, _):
        y = x * 2
        y[:, 1:] += 3
        return y.mul_(m.weight)

    c = captured(forward, X)
    assert not any("_." in name or name.endswith("_.default") for name in operators(c) if "copy" not in name)
    assert all(not n.target._schema.is_mutable for n in c.graph.nodes
               if isinstance(n.target, torch._ops.OpOverload))  # fmt: skip


def test_a_module_that_changes_itself_is_refused():
    def forward(m, x, _):
        m.counter.add_(1)
        return x + m.counter

    with pytest.raises(Refused, match="changes 'component.counter' while it runs"):
        captured(forward, X)


def test_data_dependent_control_flow_is_refused():
    with pytest.raises(Refused, match="torch.export failed"):
        captured(lambda m, x, _: x if x.sum() > 0 else -x, X)


def test_output_structure_is_rebuilt():
    c = captured(lambda m, x, _: {"a": [x, None], "b": (1, x + 1)}, X)
    assert c.rebuild([torch.zeros(1), torch.ones(1)]) == {"a": [torch.zeros(1), None], "b": (1, torch.ones(1))}


class TestSignature:
    @staticmethod
    def forward(sample, timestep, flag: bool = False, extra=None, **more): ...

    def split(self, *args, **kwargs):
        return Arguments(self.forward, scalars=("timestep",)).split(args, kwargs)

    def test_positional_and_keyword_are_the_same_call(self):
        a, tensors = self.split(X, 3, True)
        b, _ = self.split(timestep=5.0, flag=True, sample=X)
        assert a.key == b.key
        assert [tuple(t.shape) for t in tensors] == [(2, 4), ()]

    @pytest.mark.parametrize("step", [7, 7.0, torch.tensor(7), torch.tensor(7.0, dtype=torch.float64)])
    def test_scalars_are_inputs(self, step):
        structure, tensors = self.split(X, step)
        assert structure.key == self.split(X, 1)[0].key
        assert tensors[1].item() == 7 and tensors[1].dtype is torch.float32

    @pytest.mark.parametrize(
        "other",
        [
            lambda: dict(flag=True),
            lambda: dict(extra=1),
            lambda: dict(extra=1.0),
            lambda: dict(extra={"scale": 0.5}),
            lambda: dict(extra=[X]),
            lambda: dict(extra=(X,)),
            lambda: dict(extra=X.half()),
            lambda: dict(extra=X[:1]),
            lambda: dict(unknown=2),
        ],
    )
    def test_every_argument_takes_part(self, other):
        structure, tensors = self.split(X, 1, **other())
        assert structure.key != self.split(X, 1)[0].key
        args, kwargs = structure.rebuild(tensors)
        assert args == ()
        given = other()
        name = next(iter(given))
        assert repr(kwargs[name]) == repr(given[name])

    def test_true_is_not_one(self):
        assert self.split(X, 1, extra=True)[0].key != self.split(X, 1, extra=1)[0].key
        assert self.split(X, 1, extra=0.0)[0].key != self.split(X, 1, extra=-0.0)[0].key


def test_containers_of_the_module_stay_what_they_are():
    """torch.export replaces them by copies; somebody may hold the original. What the trace writes to them is undone."""

    class Writes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)
            self.cache, self.scaling, self.nested = {}, {"a": 2.0}, {"x": [1.0, [2.0]]}

        def forward(self, x):
            self.cache["seen"] = x
            self.nested["x"][1].append(3.0)
            self.nested["x"] = []
            self.made = True
            return self.linear(x) * self.scaling["a"]

    outer = torch.nn.Sequential(Writes())
    held = [outer[0].cache, outer[0].scaling, outer[0].nested, outer[0].nested["x"], outer[0].nested["x"][1]]
    structure, tensors = Arguments(outer.forward).split((torch.ones(1, 2),), {})
    with pytest.raises(Impure, match="foreign code changes") as raised:
        capture("writes", outer, outer.forward, structure, tensors)
    assert list(raised.value.modules) == ["0"]
    now = [outer[0].cache, outer[0].scaling, outer[0].nested, outer[0].nested["x"], outer[0].nested["x"][1]]
    assert all(a is b for a, b in zip(held, now))
    assert now[:3] == [{}, {"a": 2.0}, {"x": [1.0, [2.0]]}]
    assert not hasattr(outer[0], "made")
