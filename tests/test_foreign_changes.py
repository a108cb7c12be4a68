"""What foreign code depends on changes between two calls, or is replaced from outside: the next call sees it."""

from __future__ import annotations

import functools
import types

import numpy as np
import parity
import pytest
import torch
import torch.nn.functional as F
from small_component import Block, Component, X, adapter, by, calls, pipeline  # noqa: F401 - adapter is a fixture


def an_attribute(block):
    holder = types.SimpleNamespace(strength=1.0)
    by(block, lambda upstream, x: upstream(x) * holder.strength)
    return lambda: setattr(holder, "strength", 0.5)


def an_attribute_of_a_bound_object(block):
    class Strength:
        def __init__(self):
            self.value, self.upstream = 1.0, block.forward

        def forward(self, x):
            return self.upstream(x) * self.value

    strength = Strength()
    block.forward = strength.forward
    return lambda: setattr(strength, "value", 0.5)


def bound_module(block):
    """LoRA networks of their own put themselves in the place of a layer's forward like this."""

    class Lora(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.multiplier, self.upstream, self.up = 1.0, block.forward, torch.nn.Linear(4, 4).requires_grad_(False)
            torch.nn.init.eye_(self.up.weight), torch.nn.init.zeros_(self.up.bias)

        def forward(self, x):
            return self.upstream(x) + self.up(x) * self.multiplier

    lora = Lora()
    block.forward = lora.forward
    return lora


def an_attribute_of_a_bound_module(block):
    lora = bound_module(block)
    return lambda: setattr(lora, "multiplier", 0.5)


def a_weight_of_a_bound_module(block):
    lora = bound_module(block)
    return lambda: lora.up.weight.mul_(0.5)


def an_attribute_of_an_object_of_torch_in_a_partial(block):
    outside = torch.nn.Dropout(1.0)
    block.forward = functools.partial(lambda upstream, module, x: upstream(x) * module.p, block.forward, outside)
    return lambda: setattr(outside, "p", 0.5)


def a_cell(block):
    strength, upstream = 1.0, block.forward

    def change():
        nonlocal strength
        strength = 0.5

    block.forward = lambda x: upstream(x) * strength
    return change


def a_global(block):
    global NUMBER
    NUMBER = 1.0
    by(block, lambda upstream, x: upstream(x) * NUMBER)
    return lambda: globals().update(NUMBER=0.5)


def a_class_attribute(block):
    class Strength:
        value = 1.0

    by(block, lambda upstream, x: upstream(x) * Strength.value)
    return lambda: setattr(Strength, "value", 0.5)


def a_dictionary(block):
    options = {"inner": {"strength": 1.0}}
    by(block, lambda upstream, x: upstream(x) * options["inner"]["strength"])
    return lambda: options["inner"].update(strength=0.5)


def an_array(block):
    strength = np.ones(1)
    by(block, lambda upstream, x: upstream(x) * float(strength[0]))
    return lambda: strength.__setitem__(0, 0.5)


def a_tensor_in_place(block):
    strength = torch.ones(4)
    by(block, lambda upstream, x: upstream(x) * strength)
    return lambda: strength.mul_(0.5)


def a_half_tensor_in_place(block):
    strength = torch.ones(4, dtype=torch.float16)
    by(block, lambda upstream, x: upstream(x) * strength)
    return lambda: strength.mul_(0.5)


def a_tensor_replaced(block):
    holder = {"strength": torch.ones(1)}
    by(block, lambda upstream, x: upstream(x) * holder["strength"])
    return lambda: holder.update(strength=torch.full((1,), 0.5))


def weights_of_a_module_outside(block):
    outside = torch.nn.Linear(4, 4).requires_grad_(False)
    torch.nn.init.eye_(outside.weight), torch.nn.init.zeros_(outside.bias)
    by(block, lambda upstream, x: outside(upstream(x)))
    return lambda: outside.weight.mul_(0.5)


def a_partial(block):
    block.forward = functools.partial(lambda upstream, factor, x: upstream(x) * factor, block.forward, 1.0)
    return lambda: setattr(block, "forward", functools.partial(*block.forward.args[:0], block.forward.func,
                                                               block.forward.args[0], 0.5))  # fmt: skip


def the_function(block):
    upstream = block.forward
    return lambda: setattr(block, "forward", lambda x: upstream(x) * 0.5)


def the_class(block):
    class Other(type(block)):
        def forward(self, x):
            return super().forward(x) * 0.5

    return lambda: setattr(block, "__class__", Other)


def a_processor(block):
    class Processor:
        def __call__(self, x):
            return x * 1.0

    block.processor, upstream = Processor(), block.forward
    block.forward = lambda x: block.processor(upstream(x))
    return lambda: setattr(Processor, "__call__", lambda self, x: x * 0.5)


def a_helper(block):
    by(block, lambda upstream, x: helper(upstream(x)))
    return lambda: globals().update(helper=lambda x: x * 0.5)


def helper(x):
    return x * 1.0


BETWEEN = [an_attribute, an_attribute_of_a_bound_object, an_attribute_of_a_bound_module, a_weight_of_a_bound_module,
           an_attribute_of_an_object_of_torch_in_a_partial, a_cell, a_global, a_class_attribute, a_dictionary, an_array,
           a_tensor_in_place, a_half_tensor_in_place, a_tensor_replaced, weights_of_a_module_outside, a_partial,
           the_function, the_class, a_processor, a_helper]  # fmt: skip


@pytest.mark.parametrize("layer", ["block", "block.inner"])  # of a class of the script's, and of torch's
@pytest.mark.parametrize("put", BETWEEN, ids=lambda f: f.__name__)
def test_a_change_between_calls_is_seen(clean, put, layer, monkeypatch):
    monkeypatch.setitem(globals(), "helper", helper)
    with torch.no_grad():
        reference, pipe = Component(), pipeline()
        change = put(reference.get_submodule(layer))
        expected = calls(reference, 2)
        change()
        expected += calls(reference, 2)
        monkeypatch.setitem(globals(), "helper", vars(test_a_change_between_calls_is_seen)["helper"])
        change = put(pipe.component.get_submodule(layer))
        clean.enable(pipe)
        got = calls(pipe.component, 2)
        change()
        got += calls(pipe.component, 2)
    for g, e in zip(got, expected, strict=True):
        assert parity.relative_error(g, e) < parity.COMPONENT
    assert parity.relative_error(got[2], got[0]) > 0.01
    assert clean.stats()["component"].fallbacks == 0


test_a_change_between_calls_is_seen.helper = helper


def linear_of_torch():
    """A function in C, as scaled_dot_product_attention is."""
    plain = F.linear
    F.linear = lambda x, weight, bias=None: plain(x, weight, bias) * 0.5
    return lambda: setattr(F, "linear", plain)


def linear_of_torch_by_another():
    plain = F.linear
    F.linear = lambda x, weight, bias=None: torch.addmm(bias, x, weight.T) * 0.5
    return lambda: setattr(F, "linear", plain)


def forward_of_a_class():
    plain = Block.forward
    Block.forward = lambda self, x: plain(self, x) * 0.5
    return lambda: setattr(Block, "forward", plain)


def method_added_to_a_class():
    Block.__call__ = lambda self, x: torch.nn.Module.__call__(self, x) * 0.5
    return lambda: delattr(Block, "__call__")


FROM_OUTSIDE = [linear_of_torch, linear_of_torch_by_another, forward_of_a_class, method_added_to_a_class]


@pytest.mark.parametrize("replace", FROM_OUTSIDE, ids=lambda f: f.__name__)
def test_what_is_replaced_from_outside_is_seen(clean, replace):
    reference, pipe = Component(), pipeline()
    clean.enable(pipe, strict=True)
    plain = calls(reference, 1) + calls(pipe.component, 1)
    undo = replace()
    try:
        replaced = calls(reference, 1) + calls(pipe.component, 1)
    finally:
        undo()
    again = calls(pipe.component, 1)
    assert parity.relative_error(plain[1], plain[0]) < parity.COMPONENT
    assert parity.relative_error(replaced[1], replaced[0]) < parity.COMPONENT
    assert parity.relative_error(replaced[0], plain[0]) > 0.01
    assert parity.relative_error(again[0], plain[0]) < parity.COMPONENT


def test_a_python_function_of_torch_is_replaced(clean):
    """torch's own asks for itself once for each mode of the export: a trace would find the script's again and again.
    So would a tensor that stays on the device. Nothing but torch is right then."""
    reference, pipe, plain = Component(), pipeline(), F.silu
    clean.enable(pipe)
    F.silu = lambda x, inplace=False: plain(x) * 0.5
    try:
        replaced = calls(reference, 1) + calls(pipe.component, 1)
    finally:
        F.silu = plain
    assert parity.relative_error(replaced[1], replaced[0]) < parity.COMPONENT
    assert clean.stats()["component"].fallbacks == 1
    assert parity.relative_error(calls(pipe.component, 1)[0], calls(reference, 1)[0]) < parity.COMPONENT
    assert clean.stats()["component"].calls == 1
