"""A captured graph, lowered, written out and compiled: torch tensors in, torch tensors out."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch

from .. import codegen, passes
from ..capture import Captured
from ..compat import mindspore_runtime
from ..compat.compile_cache import CompileCache
from ..errors import Refused
from ..hookspecs import Compiled
from ..layout import Layout, laid_out
from ..lowering.lower import lower_for
from ..lowering.prologue import split_for
from ..plugins import Registry
from ..settings import OWNER
from .prologue import Prologue
from .resident import Held, ResidentTensor, device_value, plain
from .source_cache import SourceCache, load
from .transfers import Crossings, Transfers
from .watch import Watch
from .weights import Weight, WeightStore


@dataclass
class Executable:
    """One compiled graph. Call it with the tensors of the call, in the structure's order.

    weights: kept alive for the graph. converted: the module's weights that do not lie on torch's own memory. They are
    compared whole when the prologue of a run is computed, and in every call of a graph that has none. watch: looks at a
    sample of them before every call.
    order: which tensors of the call are inputs of the step. outputs: of the tensors returned.
    run: where they stay on the device, what runs an operator there; None where they go to the host at once.
    baked: the values of the module's settings, where they could not be made an input. described: what it was made of.
    """

    cell: Any
    transfers: Transfers
    weights: list[Weight]
    order: list[int]
    outputs: list[Layout]
    rebuild: Any
    event: Compiled
    prologue: Prologue | None = None
    run: Callable | None = None
    baked: tuple | None = None
    described: str = ""

    def __post_init__(self):
        prologue_weights = self.prologue.weights if self.prologue else []
        all_weights = {id(w): w for w in self.weights + prologue_weights}.values()
        self.converted = [w for w in all_weights if not w.shared and not w.constant]
        self.watch = Watch(self.converted)

    def __call__(self, tensors: list[torch.Tensor], count: Crossings):
        """What the upstream forward would return, computed by MindSpore. count: what crosses is added to it."""

        def to_device(t):
            known = device_value(t)
            return self.transfers.to_device(plain(t), count) if known is None else known

        with mindspore_runtime.LOCK:
            if self.prologue is None or not self.prologue.once_a_run:
                self.convert()
            fixed = self.prologue.results(tensors, to_device, self.convert) if self.prologue else ()
            values = self.cell(*(to_device(tensors[i]) for i in self.order), *fixed)
            if self.run is None:
                hosts = [self.transfers.to_host(v, o.dtype, count) for v, o in zip(values, self.outputs)]
                out = [laid_out(t, o.strides) for t, o in zip(hosts, self.outputs)]
            else:
                out = [self._resident(v, layout, count) for v, layout in zip(values, self.outputs)]
        return self.rebuild(out)

    def convert(self) -> None:
        """Bring every converted weight up to date, whatever was written past torch's version counter."""
        for weight in self.converted:
            weight.refresh(thoroughly=True)

    def zeros(self):
        """The output with every tensor zero."""
        if self.run is None:
            zeros = [laid_out(torch.zeros(o.shape, dtype=o.dtype), o.strides) for o in self.outputs]
            return self.rebuild(zeros)
        return self.rebuild([self._resident_zeros(layout) for layout in self.outputs])

    def _resident(self, value, layout: Layout, count):
        def fetch():
            with mindspore_runtime.LOCK:
                return self.transfers.to_host(value, layout.dtype, count)

        run = functools.partial(self.run, count=count)
        return ResidentTensor(Held(value, fetch, run, strides=layout.strides), layout)

    def _resident_zeros(self, layout: Layout):
        with mindspore_runtime.LOCK:
            value = self.transfers.zeros(layout.shape, layout.dtype)
        run = functools.partial(self.run, count=Crossings())
        fetch = functools.partial(torch.zeros, layout.shape, dtype=layout.dtype)
        return ResidentTensor(Held(value, fetch, run, strides=layout.strides), layout)


def build(
    captured: Captured,
    tensors: list[torch.Tensor],
    registry: Registry,
    transfers: Transfers,
    store: WeightStore,
    cache: SourceCache,
    constant: Collection[str] = (),
    run: Callable | None = None,
    count: Crossings | None = None,
    compiled: CompileCache | None = None,
):
    """Compile a captured graph and run it on the tensors of the call that asked for it: (executable, its output).

    tensors: in the structure's order. constant: arguments that stay the same over the steps of a run. run,
    count: as of Executable. compiled: keeps what MindSpore made of the source.
    Raises Refused with MindSpore's message.
    """
    target = transfers.target
    passes.run(captured, registry.passes(target.device, target.without))
    operators = collections.Counter(str(n.target) for n in captured.graph.nodes if n.op == "call_function")
    program = lower_for(target, captured, registry, store.prepared())
    places = dict(zip(program.inputs, captured.inputs.values()))
    owners = captured.structure.owners
    first, step = split_for(captured, program, constant)
    programs = {"Graph": step} if first is None else {"Prologue": first, "Graph": step}
    header = f"{captured.name} for {target.device}: generated, do not edit."
    source = codegen.generate(header, jit=target.jit, **programs)
    path = cache.write(captured.name, source)
    started = time.perf_counter()

    def cell(name):
        weights = store.of(programs[name])
        parameters = tuple(w.parameter for w in weights)
        key = ""
        if compiled is not None:
            inputs = [(v.shape, v.dtype) for v in programs[name].inputs]
            signature = name, target.device, [(p.name, p.shape, str(p.dtype)) for p in parameters], inputs
            key = compiled.key(source, signature)
        graph = mindspore_runtime.Graph(getattr(load(path), name)(parameters), compiled, key)
        return graph, weights, [places[v] for v in programs[name].inputs if v in places]

    try:
        with mindspore_runtime.LOCK:
            prologue = None
            if first is not None:
                made, weights, order = cell("Prologue")
                prologue = Prologue(made, weights, order, once_a_run=any(owners[i] != OWNER for i in order))
            made, weights, order = cell("Graph")
            event = Compiled(
                label=captured.name,
                signature=", ".join(f"{v.name}: {v.dtype}{list(v.shape)}" for v in program.inputs),
                operators=dict(operators),
                source=str(path),
            )
            executable = Executable(
                made, transfers, weights, order, captured.layouts, captured.rebuild, event, prologue, run
            )
            output = executable(tensors, Crossings() if count is None else count)
    except Exception as error:
        raise Refused(f"MindSpore does not compile {path}: {_message(error)}") from error
    event.compile_s = time.perf_counter() - started
    return executable, output


def _message(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- ")]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
