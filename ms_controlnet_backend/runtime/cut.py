"""A step that was cut: compiled segments, and between them the operators that torch computes on the host."""

from __future__ import annotations

import collections
import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import Refused, first_line
from ..interruptions import raise_if_scripts
from ..lowering.host_call import HOST_ONLY, HostCall
from ..lowering.lower import HOW_TO_ADD
from ..lowering.program import Program, Value
from ..lowering.segments import Stage, host_calls
from .resident import plain
from .transfers import Crossings, Transfers
from .weights import Weight, WeightStore


@dataclass
class Cut:
    """stages: each with its Cell, None where nothing is compiled. step: the whole program. places: input of the program
    → which tensor of the call. sources: weight that the host reads → the torch tensor it is now."""

    stages: list[tuple[Stage, Any]]
    step: Program
    places: dict[Value, int]
    sources: dict[Value, Callable[[], torch.Tensor]]
    transfers: Transfers

    def __post_init__(self):
        self.step = replace(self.step, weights={})  # the store has the tensors: no graph keeps them alive
        for stage, _ in self.stages:
            stage.program = stage.program and replace(stage.program, weights={})
        calls = host_calls(self.step)
        self.generators = list({id(g): g for c in calls for g in c.generators}.values())
        self.draws = any(c.effect for c in calls)
        self.ordered = any(getattr(a, "stride", None) is not None for c in calls for a in c.leaves)

    def __call__(self, tensors: list, to_device: Callable, fixed: Iterable, count: Crossings) -> list:
        """The program's outputs: MindSpore tensors, or torch tensors where the host has them. tensors: of the call.
        to_device: one of those. fixed: the inputs of the step that are none of the call's. LOCK must be held."""
        run = _Run(self, tensors, to_device, count)
        run.device.update(zip([v for v in self.step.inputs if v not in self.places], fixed))
        with self._random_numbers_kept():
            for stage, cell in self.stages:
                if cell is not None:
                    made = cell(*(run.on_device(v) for v in stage.program.inputs))
                    run.device.update(zip(stage.program.outputs, made))
                for call in stage.calls:
                    run.call(call)
                for v in stage.dropped:
                    run.host.pop(v, None), run.device.pop(v, None)
            return [run.output(v) for v in self.step.outputs]

    def why(self) -> str:
        """Which overloads are not compiled, for what reason, and what to do."""
        reasons = dict.fromkeys(str(c.reason).removesuffix(f"; {HOW_TO_ADD}") for c in host_calls(self.step))
        return "; ".join([*reasons, HOW_TO_ADD])

    @contextlib.contextmanager
    def _random_numbers_kept(self):
        """A call that fails has drawn nothing: torch answers it, and draws all of its numbers."""
        if not self.draws:
            yield
            return
        before, own = torch.get_rng_state(), [g.get_state() for g in self.generators]
        try:
            yield
        except BaseException:
            torch.set_rng_state(before)
            for generator, state in zip(self.generators, own):
                generator.set_state(state)
            raise


class _Run:
    """Where the values of one call are. device: Value → MindSpore tensor. host: Value → torch tensor."""

    def __init__(self, cut: Cut, tensors: list, to_device: Callable, count: Crossings):
        self.cut, self.tensors, self.to_device, self.count = cut, tensors, to_device, count
        self.device: dict[Value, Any] = {}
        self.host: dict[Value, torch.Tensor] = {}

    def on_device(self, v: Value):
        if v not in self.device:
            if v in self.host:
                self.device[v] = self.cut.transfers.upload(self.host[v], self.count)
            else:
                return self.to_device(self.tensors[self.cut.places[v]])
        return self.device[v]

    def on_host(self, v: Value, dtype: torch.dtype) -> torch.Tensor:
        if v in self.host:
            return self.host[v].to(dtype)
        if v in self.cut.sources:
            return self.cut.sources[v]().detach().to("cpu", dtype)
        if v in self.cut.places:
            return plain(self.tensors[self.cut.places[v]]).detach().to("cpu", dtype)
        return self.cut.transfers.to_host(self.device[v], dtype, self.count)

    def call(self, call: HostCall) -> None:
        try:
            out = call.run(lambda a: self.on_host(a.value, a.dtype))
        except Exception as error:
            raise_if_scripts(error)
            message = f"{type(error).__name__}: {first_line(error)}"
            raise Refused(f"{call.op} on the host: {message}") from error
        self.host.update(zip(call.outputs, out))

    def output(self, v: Value):
        if v in self.host:
            return self.host[v]
        if v in self.cut.sources:
            return self.cut.sources[v]().detach().to("cpu", copy=True)
        return self.on_device(v)


def counted(step: Program) -> dict[str, int]:
    """Overload → calls on the host."""
    return dict(collections.Counter(str(c.op) for c in host_calls(step)))


def sources(step: Program, store: WeightStore) -> tuple[dict[Value, Callable], list]:
    """(as of Cut, the Weights that it keeps alive): of the weights that the host reads. The torch tensor itself is not
    kept alive, as in every graph; where it is released another one takes its place in the store."""
    read = {a for c in host_calls(step) for a in c.args} | set(step.outputs)
    found: dict[Value, Callable] = {}
    weights = []
    for v in (v for v in step.weights if v in read):
        t, prepare = step.weights[v], step.prepared.get(v)
        if v in step.constants:
            found[v] = functools.partial(torch.reshape, t, v.shape)
        elif v.dtype == HOST_ONLY:
            found[v] = weakref.ref(t)
        else:
            weight = store.get(t, v.name, v.shape, prepare)
            weights.append(weight)
            found[v] = functools.partial(_as_wanted, weight, v.shape, prepare is not None)
    return found, weights


def _as_wanted(weight: Weight, shape: tuple[int, ...], prepared: bool) -> torch.Tensor:
    """What the torch tensor is now, as the program has it."""
    t = plain(weight.source()).detach()
    return weight.prepare(t) if prepared else t.reshape(shape)
