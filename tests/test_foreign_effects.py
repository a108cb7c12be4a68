"""What foreign code inside a component does while it runs: every call does it, as on torch."""

from __future__ import annotations

import functools
import itertools
import random
import time
import types
from collections import deque

import numpy as np
import parity
import pytest
import torch
import torch.nn.functional as F
from small_component import Block, Component, X, adapter, by, calls, pipeline  # noqa: F401 - adapter is a fixture


def counts_in_a_list(block):
    calls = []
    by(block, lambda upstream, x: (calls.append(1), upstream(x) * len(calls))[1])


def counts_in_a_cell(block):
    calls, upstream = 0, block.forward

    def forward(x):
        nonlocal calls
        calls += 1
        return upstream(x) * calls

    block.forward = forward


def counts_in_an_object(block):
    class Counter:
        def __init__(self):
            self.calls, self.upstream = 0, block.forward

        def forward(self, x):
            self.calls += 1
            return self.upstream(x) * self.calls

    block.forward = Counter().forward


def counts_in_a_class(block):
    class Counter:
        calls = 0

    def forward(upstream, x):
        Counter.calls += 1
        return upstream(x) * Counter.calls

    by(block, forward)


def counts_in_a_function(block):
    upstream = block.forward

    def forward(x):
        forward.calls += 1
        return upstream(x) * forward.calls

    forward.calls = 0
    block.forward = forward


TOTAL = {"calls": 0}
NUMBER = 0


def counts_in_a_global_dictionary(block):
    TOTAL["calls"] = 0

    def forward(upstream, x):
        TOTAL["calls"] += 1
        return upstream(x) * TOTAL["calls"]

    by(block, forward)


def counts_in_a_global(block):
    global NUMBER
    NUMBER = 0

    def forward(upstream, x):
        global NUMBER
        NUMBER += 1
        return upstream(x) * NUMBER

    by(block, forward)


def counts_in_a_default(block):
    upstream = block.forward

    def forward(x, calls=[]):  # noqa: B006
        calls.append(1)
        return upstream(x) * len(calls)

    block.forward = forward


def counts_in_an_attribute_of_the_module(block):
    block.calls, upstream = 0, block.forward

    def forward(x):
        block.calls += 1
        return upstream(x) * block.calls

    block.forward = forward


def counts_in_an_array(block):
    calls = np.zeros(1)

    def forward(upstream, x):
        calls[0] += 1
        return upstream(x) * float(calls[0])

    by(block, forward)


def counts_in_a_tensor(block):
    calls = torch.zeros(1)

    def forward(upstream, x):
        calls.add_(1)
        return upstream(x) * calls

    by(block, forward)


def counts_with_an_iterator(block):
    numbers = itertools.count(1)
    by(block, lambda upstream, x: upstream(x) * next(numbers))


def counts_with_a_generator(block):
    numbers = (i for i in range(1, 100))
    send = numbers.__next__
    by(block, lambda upstream, x: upstream(x) * send())


def counts_with_slots(block):
    class Counter:
        __slots__ = ("calls",)

    counter = Counter()
    counter.calls = 0

    def forward(upstream, x):
        counter.calls += 1
        return upstream(x) * counter.calls

    by(block, forward)


def keeps_the_last(block):
    last = deque(maxlen=1)

    def forward(upstream, x):
        y = upstream(x) + (last[0] if last else 0)
        last.append(y)
        return y

    by(block, forward)


def keeps_in_an_attribute(block):
    upstream = block.forward

    def forward(x):
        block.kept = upstream(x)
        return block.kept * 2

    block.forward = forward
    return lambda: block.kept


def keeps_in_a_list_of_the_module(block):
    block.kept, upstream = [], block.forward

    def forward(x):
        block.kept.append(upstream(x))
        return block.kept[-1] * len(block.kept)

    block.forward = forward
    return lambda: block.kept[-1]


def keeps_in_a_new_attribute(block):
    upstream = block.forward

    def forward(x):
        block.seen = getattr(block, "seen", ()) + (upstream(x),)
        return block.seen[-1] * len(block.seen)

    block.forward = forward
    return lambda: block.seen[-1]


def keeps_by_setattr(block):
    upstream = block.forward

    def forward(x):
        setattr(block, "kept", upstream(x))  # noqa: B010
        return getattr(block, "kept") * 2  # noqa: B009

    block.forward = forward
    return lambda: block.kept


def keeps_by_partial(block):
    kept = []

    def forward(upstream, store, x):
        store.append(upstream(x))
        return store[-1] * len(store)

    block.forward = functools.partial(forward, block.forward, kept)
    return lambda: kept[-1]


def keeps_by_a_bound_method_of_a_module(block):
    class Extension(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.multiplier, self.calls = torch.nn.Linear(4, 4).requires_grad_(False), 0.5, 0
            self.upstream = block.forward

        def forward(self, x):
            self.calls += 1
            return self.upstream(x) + self.down(x) * self.multiplier * self.calls

    torch.manual_seed(1)
    block.forward = Extension().forward


def draws_pythons_random_numbers(block):
    random.seed(0)
    by(block, lambda upstream, x: upstream(x) * random.random())


def draws_numpys_random_numbers(block):
    np.random.seed(0)
    by(block, lambda upstream, x: upstream(x) * np.random.rand())


def draws_from_a_generator_of_numpy(block):
    generator = np.random.default_rng(0)
    by(block, lambda upstream, x: upstream(x) * generator.random())


def skips_every_other_call(block):
    """As DeepCache does, by a state that is set in its own call."""
    cache = {"step": 0}

    def forward(upstream, x):
        cache["step"] += 1
        if cache["step"] % 2:
            cache["y"] = upstream(x)
        return cache["y"]

    by(block, forward)


WHILE = [f for name, f in list(globals().items()) if name.startswith(("counts_", "keeps_", "draws_", "skips_"))]


@pytest.mark.parametrize("layer", ["block", "block.inner"])  # of a class of the script's, and of torch's
@pytest.mark.parametrize("put", WHILE, ids=lambda f: f.__name__)
def test_an_effect_is_never_frozen(clean, put, layer):
    reference, pipe = Component(), pipeline()
    ask = put(reference.get_submodule(layer))
    expected = calls(reference), ask and ask().clone()
    ask = put(pipe.component.get_submodule(layer))
    clean.enable(pipe)
    got = calls(pipe.component)
    for g, e in zip(got, expected[0], strict=True):
        assert parity.relative_error(g, e) < parity.COMPONENT
    if ask:
        assert parity.relative_error(ask(), expected[1]) < parity.COMPONENT
    stats = clean.stats()["component"]
    assert stats.fallbacks == 0 and stats.compiled_parameters > 0.6 * stats.parameters
    assert stats.calls == 4 and stats.parts >= 2


def test_pure_foreign_code_is_part_of_the_graph(clean):
    pipe, reference = pipeline(), Component()
    for block in (pipe.component.block, reference.block):
        by(block, lambda upstream, x: F.relu(upstream(x)) * 3.0)
    clean.enable(pipe, strict=True)
    for g, e in zip(calls(pipe.component), calls(reference), strict=True):
        assert parity.relative_error(g, e) < parity.COMPONENT
    stats = clean.stats()["component"]
    assert (stats.compiles, stats.parts, stats.share) == (1, 0, 1.0)


def test_what_changes_all_the_time_runs_as_python(clean):
    """And costs no capture a call."""
    def work(component):
        holder = types.SimpleNamespace(step=0)
        by(component.block, lambda upstream, x: upstream(x) * holder.step)
        outputs = []
        for step in range(8):
            holder.step = step + 1
            outputs += calls(component, 1)
        return outputs

    pipe = pipeline()
    expected = work(Component())
    clean.enable(pipe)
    got = work(pipe.component)
    for g, e in zip(got, expected, strict=True):
        assert parity.relative_error(g, e) < parity.COMPONENT
    stats = clean.stats()["component"]
    assert stats.compiles <= 3 + stats.parts and stats.parts == 3 and stats.fallbacks == 0


def test_a_table_made_once_is_tried_again(clean):
    """Foreign code that keeps something in its first call only is then part of the graph."""
    def put(block):
        table = {}

        def forward(upstream, x):
            if "scale" not in table:
                table["scale"] = torch.arange(4.0)
            return upstream(x) * table["scale"]

        by(block, forward)
        return table

    pipe, reference = pipeline(), Component()
    put(reference.block)
    table = put(pipe.component.block)
    clean.enable(pipe)
    for g, e in zip(calls(pipe.component, 5), calls(reference, 5), strict=True):
        assert parity.relative_error(g, e) < parity.COMPONENT
    assert type(table["scale"]) is torch.Tensor
    assert clean.stats()["component"].parts == 0


def test_strict(clean):
    from ms_controlnet_backend.errors import Refused

    pipe = pipeline()
    counts_in_a_list(pipe.component.block)
    clean.enable(pipe, strict=True)
    for _ in range(2):
        with pytest.raises(Refused, match=r"foreign code changes a list while it runs \(block\)"):
            calls(pipe.component, 1)


def test_time_and_files_are_not_frozen(clean, tmp_path):
    pipe, file = pipeline(), tmp_path / "strength"
    file.write_text("1")
    seen = []

    def forward(upstream, x):
        seen.append(time.perf_counter())
        return upstream(x) * float(open(file).read())

    by(pipe.component.block, forward)
    clean.enable(pipe)
    one = calls(pipe.component, 1)[0]
    file.write_text("0.5")
    other = calls(pipe.component, 1)[0]
    assert len(seen) == 2 and parity.relative_error(one, other) > 0.01
