"""A capture leaves nothing behind: no fake tensor, cache or attribute, in no object that a forward reaches."""

from __future__ import annotations

import functools
import random
import types

import numpy as np
import parity
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.foreign import Impure
from ms_controlnet_backend.hookspecs import Options, Site
from ms_controlnet_backend.plugins import registry
from ms_controlnet_backend.reach import Reach
from ms_controlnet_backend.signature import Arguments
from ms_controlnet_backend.state import State

LIBRARY = '''
import functools
import torch

TABLES = {}


class Rotary:
    """A plain object that makes its table when it is first asked, as upstream's rotary embedders do."""

    def __init__(self):
        self.table, self.seen = None, []

    def __call__(self, n):
        if self.table is None:
            self.table = torch.arange(float(n)).outer(torch.ones(4)).cos()
        self.seen.append(n)
        TABLES[n] = self.table
        return self.table[:n]


@functools.lru_cache(None)
def scale(n):
    return torch.full((n, 1), 0.5)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.rotary = torch.nn.Linear(4, 4), Rotary()

    def forward(self, x):
        return self.layer(x) * self.rotary(len(x)) * scale(len(x))
'''


@pytest.fixture
def library():
    """As if diffusers had it: its caches are no effect."""
    module = types.ModuleType("diffusers.rotary_of_a_test")
    exec(compile(LIBRARY, "rotary_of_a_test.py", "exec"), vars(module))
    return module


def test_a_cached_table_of_a_plain_object(library):
    model = library.Model().requires_grad_(False)
    engine = registry().backend("mindspore").build(Options(strict=True))
    component = engine.component(Site("model", model))
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    got = component(model.forward, (x,), {})
    assert model.rotary.table is None and model.rotary.seen == [] and library.TABLES == {}
    assert library.scale.cache_info().currsize == 0
    expected = model(x)  # on torch, after the capture
    assert type(model.rotary.table) is torch.Tensor and type(library.scale(3)) is torch.Tensor
    assert not isinstance(expected, FakeTensor) and parity.relative_error(got, expected) < parity.COMPONENT
    assert parity.relative_error(component(model.forward, (x * 2,), {}), model(x * 2)) < parity.COMPONENT


@pytest.mark.parametrize("fails", [False, True])
def test_whatever_happens(fails):
    """Also where the capture fails, and where code is foreign: everything is as it was."""
    kept, table, cell = [1], {"a": (1, 2)}, 0
    array, tensor = np.zeros(2), torch.zeros(2)

    class Holder:
        total = 0

    holder = Holder()
    holder.value = None

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.names = torch.nn.Linear(2, 2), {"x"}

        def forward(self, x):
            nonlocal cell
            kept.append(x), table.update(b=x), self.names.add("y")
            cell, holder.value, Holder.total, self.made = x, x, 1, x
            array[0] = 1
            tensor.add_(1)
            if fails:
                raise KeyError("on the way")
            return self.layer(x)

    module = Module()
    structure, tensors = Arguments(module.forward).split((torch.ones(1, 2),), {})
    with pytest.raises(Impure, match="while it runs"):
        capture("module", module, module.forward, structure, tensors)
    assert (kept, table, cell, holder.value, Holder.total) == ([1], {"a": (1, 2)}, 0, None, 0)
    assert module.names == {"x"} and not hasattr(module, "made")
    assert not array.any() and not tensor.any() and type(tensor) is torch.Tensor


def test_random_numbers_of_a_library(library):
    """Drawn while tracing, they would be the same in every call."""
    exec("import random\ndef forward(self, x): return self.layer(x) * random.random()", vars(library))
    library.Model.forward = library.forward
    model, states = library.Model(), (random.getstate(), np.random.get_state()[1].copy())
    structure, tensors = Arguments(model.forward).split((torch.ones(1, 4),), {})
    with pytest.raises(Impure, match="random numbers"):
        capture("model", model, model.forward, structure, tensors)
    assert random.getstate() == states[0] and np.array_equal(np.random.get_state()[1], states[1])


def test_changes_are_told():
    options = {"a": 1}

    class Module(torch.nn.Module):
        def forward(self, x):
            return x * options["a"]

    module = Module()
    state = State([module], Reach([module]))
    assert state.changes() == []
    options["a"], module.extra = 2, 3
    found = {keys for change in state.changes() for keys in change.keys}
    assert found == {"a", "extra"}
    assert len(state.put_back()) == 2
    assert options == {"a": 1} and not hasattr(module, "extra") and state.changes() == []


def test_equal_copies_are_no_change():
    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scales = {"a": [1.0, {"b": 2}]}

        def forward(self, x):
            return x * self.scales["a"][0]

    module = Module()
    own = module.scales
    state = State([module], Reach([module]))
    module.scales = {"a": [1.0, {"b": 2}]}  # as torch.export does
    module.scales["a"][1] = own["a"][1]
    assert state.put_back() == [] and module.scales is own


def test_memoised_functions_forget():
    @functools.lru_cache
    def table(n):
        return torch.ones(n)

    class Module(torch.nn.Module):
        def forward(self, x):
            return x + table(2)

    module = Module()
    table(2)
    state = State([module], Reach([module]))
    table(3)
    state.put_back()
    assert table.cache_info().currsize == 0
