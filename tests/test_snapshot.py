"""What the freshness check notices, one thing at a time, and what it leaves alone."""

import contextlib
import sys

import models
import numpy as np
import pytest
import torch

from ms_controlnet_backend.runtime.snapshot import Snapshot


class Processor:
    def __init__(self):
        self.scale = [1.0, 0.5]
        self.options = {"inner": {"flag": False}}
        self.names = {"a"}
        self.offset = torch.zeros(1)


class Config:
    """With an ``__eq__`` as those of transformers 4: of anything else it is False."""

    def __init__(self, size=1):
        self.size = size

    def __eq__(self, other):
        return isinstance(other, Config) and vars(self) == vars(other)

    __hash__ = None


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)
        self.one = torch.nn.Parameter(torch.ones(1))
        self.register_buffer("table", torch.ones(3))
        self.child = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.1))
        self.processor = Processor()
        self.scaling = {"default": 1.0}
        self.adapters = ["default"]
        self.plain = torch.ones(1)
        self.factor = 1.0
        self.config = Config()
        self.configs = [Config(2)]


def one_element(m):
    m.one = torch.nn.Parameter(torch.ones(1))  # equal to the old one by value


def plain_tensor(m):
    m.plain = torch.ones(1)


CHANGES = {
    "number": lambda m: setattr(m, "factor", 1.5),
    "number of another type": lambda m: setattr(m, "extra", 1),
    "dict": lambda m: m.scaling.update(default=0.5),
    "new key": lambda m: m.scaling.update(other=1.0),
    "list": lambda m: m.adapters.append("x"),
    "list in an object": lambda m: m.processor.scale.__setitem__(0, 0.1),
    "dict in a dict in an object": lambda m: m.processor.options["inner"].update(flag=True),
    "set in an object": lambda m: m.processor.names.add("b"),
    "tensor in an object": lambda m: setattr(m.processor, "offset", torch.zeros(1)),
    "object": lambda m: setattr(m, "processor", Processor()),
    "object replaced by an equal one": lambda m: setattr(m, "config", Config()),
    "object in a list replaced by an equal one": lambda m: m.configs.__setitem__(0, Config(2)),
    "attribute removed": lambda m: delattr(m, "factor"),
    "training": lambda m: m.child.train(not m.training),
    "probability": lambda m: setattr(m.child[1], "p", 0.3),
    "child replaced": lambda m: setattr(m, "child", torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.1))),
    "grandchild replaced": lambda m: m.child.__setitem__(0, torch.nn.SiLU()),
    "child added": lambda m: m.add_module("more", torch.nn.SiLU()),
    "first child of a leaf": lambda m: m.linear.add_module("lora", torch.nn.Linear(2, 2)),
    "child removed": lambda m: delattr(m, "child"),
    "parameter replaced": lambda m: setattr(m.linear, "weight", torch.nn.Parameter(torch.ones(2, 2))),
    "parameter of one element replaced by an equal one": one_element,
    "tensor of one element replaced by an equal one": plain_tensor,
    "parameter set to None": lambda m: setattr(m.linear, "bias", None),
    "data replaced": lambda m: setattr(m.linear.weight, "data", torch.ones(2, 2)),
    "dtype": lambda m: m.half(),
    "dtype in its place": lambda m: setattr(m.table, "data", m.table.data.view(torch.int32)),
    "shape in its place": lambda m: setattr(m.table, "data", m.table.data[:2]),
    "strides in their place": lambda m: setattr(m.linear.weight, "data", m.linear.weight.data.t()),
    "buffer replaced": lambda m: m.register_buffer("table", torch.ones(3)),
    "forward hook": lambda m: m.linear.register_forward_hook(lambda *a: None),
    "forward pre-hook": lambda m: m.linear.register_forward_pre_hook(lambda *a: None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_is_seen(change):
    m = Module().eval()
    snapshot = Snapshot(m)
    assert snapshot.same()
    CHANGES[change](m)
    assert not snapshot.same()


def test_values_of_weights_are_not_its_business():
    m = Module()
    snapshot = Snapshot(m)
    with torch.no_grad():
        m.linear.weight.mul_(2)
    m.linear.weight.data.add_(1)
    m.factor, m.scaling["default"] = 1.0, 1.0
    m.linear.weight.requires_grad_(False)
    for block in (contextlib.nullcontext(), torch.inference_mode(), torch.autocast("cpu"), contextlib.nullcontext()):
        with block:
            assert snapshot.same()


def test_looks_are_compared_by_guards_of_torch():
    """In Python it is right too, but three times as slow."""
    looks = Snapshot(Module())._looks
    assert looks._guards is not None and looks._guards.check(*looks._tensors)
    looks._guards = None
    assert looks.same() and looks._guards is not None


SIZES = Config(3)


def test_what_foreign_code_reads(monkeypatch):
    """… in a cell and among globals, where it has an ``__eq__`` of its own."""
    config, m = Config(), Module().eval()
    m.linear.forward = lambda x: x * config.size * SIZES.size
    snapshot = Snapshot(m)
    assert snapshot.same()
    config = Config()
    assert not snapshot.same()
    snapshot = Snapshot(m)
    assert snapshot.same()
    monkeypatch.setattr(sys.modules[__name__], "SIZES", Config(3))
    assert not snapshot.same()


def test_cycles_end():
    m = Module()
    m.processor.owner = m.processor
    m.scaling["self"] = m.scaling
    snapshot = Snapshot(m)
    m.factor = 2.0
    assert not snapshot.same()


def test_costs_little():
    """Against one step of the very UNet it guards, tiny as it is, on torch."""
    import time

    unet = models.unet()
    snapshot = Snapshot(unet)
    args = (torch.randn(2, 4, 32, 32), torch.tensor(1), torch.randn(2, 77, 16))
    ratios = []
    with torch.no_grad():
        for _ in range(15):
            started = time.perf_counter()
            unet(*args)
            middle = time.perf_counter()
            assert snapshot.same()
            ratios.append((time.perf_counter() - middle) / (middle - started))
    ratio = sorted(ratios)[len(ratios) // 2]
    print(f"\nfreshness check: {ratio:.1%} of the tiny UNet's step on torch")
    assert ratio < 0.15


class Odd:
    """It cannot be referred to weakly, so that it is compared by ``==``."""

    __slots__ = ("result",)

    def __init__(self, result):
        self.result = result

    def __eq__(self, other):
        return self.result()

    __hash__ = None


def fails():
    raise ZeroDivisionError("it cannot be compared")


PLACES = {
    "attribute": lambda m, o: setattr(m, "odd", o),
    "tuple": lambda m, o: setattr(m, "odd", (1, o)),
    "list": lambda m, o: setattr(m.processor, "odd", [o]),
    "dict": lambda m, o: m.processor.options["inner"].update(odd=(o,)),
}


@pytest.mark.parametrize("result", [fails, lambda: np.array([True, False]), lambda: torch.ones(2), lambda: None])
@pytest.mark.parametrize("place", PLACES)
def test_what_cannot_be_compared_has_changed(place, result):
    """And what it is stays the script's: nothing is raised."""
    m = Module()
    PLACES[place](m, Odd(result))
    snapshot = Snapshot(m)
    assert snapshot.same()
    PLACES[place](m, Odd(result))
    assert not snapshot.same() and snapshot.moved() is None
    assert snapshot.foreign_changes() == []
