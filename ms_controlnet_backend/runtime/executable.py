"""A captured graph, lowered, written out and compiled: torch tensors in, torch tensors out."""

from __future__ import annotations

import collections
import functools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import codegen, passes
from ..capture import Captured
from ..compat import device_errors, forks, mindspore_runtime, npu_memory, watchers
from ..compat.compile_cache import CompileCache
from ..errors import DeviceFailed, Refused
from ..hookspecs import Compiled
from ..interruptions import raise_if_scripts
from ..layout import Layout, laid_out
from ..lowering.ascend import BESIDE
from ..lowering.host_call import remember_strides
from ..lowering.lower import lower_for
from ..lowering.prologue import split_for
from ..lowering.segments import Stage, host_calls, segments
from ..plugins import Registry
from ..settings import OWNER
from .cut import Cut, counted, sources
from .identity import checksums
from .prologue import Prologue
from .resident import Held, ResidentTensor, device_value, on_host, plain
from .source_cache import SourceCache, load
from .target import Target
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
    apart: outputs that are tensors of their own, though computed as the same one as another.
    cut: runs the step in place of ``cell`` where torch computes some of it on the host.
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
    apart: Collection[int] = ()
    cut: Cut | None = None

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
            if self.cut is None:
                values = self.cell(*(to_device(tensors[i]) for i in self.order), *fixed)
            else:
                values = self.cut(tensors, to_device, fixed, count)
            out = [self._output(i, values[i], layout, count) for i, layout in enumerate(self.outputs)]
        return self.rebuild(out)

    def follow(self, moved: dict[int, torch.Tensor]) -> list[tuple[Weight, torch.Tensor]] | None:
        """Which weights are to go to which tensors, where weights lie elsewhere now; None where one of them cannot, or
        the host reads some. moved: as of Snapshot."""
        if self.cut is not None:
            return None
        found = []
        for weight in self.weights + (self.prologue.weights if self.prologue else []):
            then = weight.source()
            now = moved.get(id(then), then)
            if weight.constant or isinstance(now, ResidentTensor) or (now is then and not weight.moved()):
                continue
            if now is None or not weight.can_follow(now):
                return None
            found.append((weight, now))
        return found

    @property
    def draws(self) -> bool:
        """Does a call of it draw random numbers, whatever it returns?"""
        return self.cut is not None and self.cut.draws

    def convert(self) -> None:
        """Bring every converted weight up to date, whatever was written past torch's version counter."""
        for weight, now in zip(self.converted, checksums([on_host(w.source()) for w in self.converted])):
            weight.refresh(now=now)

    def zeros(self):
        """The output with every tensor zero."""
        return self.rebuild([self._zeros(layout) for layout in self.outputs])

    def _stays(self, layout: Layout) -> bool:
        """Does an output stay on the device alone? What a script has on an accelerator is shared, or goes there."""
        return self.run is not None and layout.device.type == "cpu"

    def _output(self, i: int, value, layout: Layout, count):
        if isinstance(value, torch.Tensor):  # the host has it
            out = laid_out(value.to(layout.device, layout.dtype), layout.strides)
        elif self._stays(layout):
            return self._resident(i, value, layout, count)
        else:
            out = self.transfers.to_torch(value, layout, count)
        return laid_out(out.clone(), layout.strides) if i in self.apart else out  # a copy closes gaps

    def _to_host(self, i: int, value, dtype, count) -> torch.Tensor:
        host = self.transfers.to_host(value, dtype, count)
        return host.clone() if i in self.apart else host

    def _zeros(self, layout: Layout):
        if self._stays(layout):
            return self._resident_zeros(layout)
        return laid_out(torch.zeros(layout.shape, dtype=layout.dtype, device=layout.device), layout.strides)

    def _resident(self, i: int, value, layout: Layout, count):
        inference = torch.is_inference_mode_enabled()  # what comes down is of the same kind as what stands for it

        def fetch():
            forks.check()
            with mindspore_runtime.LOCK, watchers.unseen(inference):
                return self._to_host(i, value, layout.dtype, count)

        run = functools.partial(self.run, count=count)
        return ResidentTensor(Held(value, fetch, run, strides=layout.strides), layout)

    def _resident_zeros(self, layout: Layout):
        with mindspore_runtime.LOCK:
            value = self.transfers.zeros(layout.shape, layout.dtype)
        run, inference = functools.partial(self.run, count=Crossings()), torch.is_inference_mode_enabled()

        def fetch():
            with watchers.unseen(inference):
                return torch.zeros(layout.shape, dtype=layout.dtype)

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
    cut: bool = False,
    runs: int = 1,
):
    """Compile a captured graph and run it on the tensors of the call that asked for it: (executable, its output).

    tensors: in the structure's order. constant: arguments that stay the same over the steps of a run. run,
    count: as of Executable. compiled: keeps what MindSpore made of the source. cut: what cannot be lowered is computed
    by torch on the host, between segments that are compiled. runs: how many that take turns have their constants kept.
    Raises Refused with MindSpore's message.
    """
    target = _beside(transfers.target, captured)
    if cut:
        remember_strides(captured)
    passes.run(captured, registry.passes(target.device, target.without), cut)
    operators = collections.Counter(str(n.target) for n in captured.graph.nodes if n.op == "call_function")
    program = lower_for(target, captured, registry, store.prepared(), cut)
    places = dict(zip(program.inputs, captured.inputs.values()))
    owners = captured.structure.owners
    first, step = split_for(captured, program, constant)
    stages = segments(step) if host_calls(step) else [Stage(step, [])]
    parts = [s.program for s in stages if s.program is not None]
    names = ["Graph"] if len(parts) == 1 else [f"Segment_{i}" for i in range(len(parts))]
    programs = ({} if first is None else {"Prologue": first}) | dict(zip(names, parts))
    header = f"{captured.name} for {target.device}: generated, do not edit."
    source = codegen.generate(header, **programs)
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
                prologue = Prologue(made, weights, order, once_a_run=any(owners[i] != OWNER for i in order),
                                    limit=runs)  # fmt: skip
            cells = [cell(name) for name in names]
            weights = [w for _, of, _ in cells for w in of]
            if host_calls(step):
                graphs = iter([graph for graph, _, _ in cells])
                read, more = sources(step, store)
                steps = [(s, None if s.program is None else next(graphs)) for s in stages]
                made, order, weights = None, [], weights + more
                cut_step = Cut(steps, step, places, read, transfers)
            else:
                made, order, cut_step = cells[0][0], cells[0][2], None
            event = Compiled(
                label=captured.name,
                signature=", ".join(f"{v.name}: {v.dtype}{list(v.shape)}" for v in program.inputs),
                operators=dict(operators),
                source=str(path),
                host_calls=counted(step),
            )
            executable = Executable(
                made, transfers, weights, order, captured.layouts, captured.rebuild, event, prologue, run, cut=cut_step,
                apart=_apart(captured.outputs, program.outputs),
            )  # fmt: skip
            output = executable(tensors, Crossings() if count is None else count)
    except Refused:
        raise
    except Exception as error:
        failed = failure(error, captured.name)
        raise failed or Refused(f"MindSpore does not compile {path}: {device_errors.message(error)}") from error
    event.compile_s = time.perf_counter() - started
    return executable, output


def _beside(target: Target, captured: Captured) -> Target:
    """Where torch has the module's weights on the device, few of them are rearranged."""
    weights = [w for w in captured.weights.values() if not w.constant]
    if not any(npu_memory.is_shared(w.tensor.device, target.device) for w in weights):
        return target
    return replace(target, without=target.without | BESIDE)


def _apart(nodes: list, values: list) -> set[int]:
    """Places of outputs that share a value, and its memory, with another node."""
    of: dict = {}
    for node, value in zip(nodes, values):
        of.setdefault(value, set()).add(node)
    return {i for i, value in enumerate(values) if len(of[value]) > 1}


def failure(error: Exception, label: str) -> DeviceFailed | None:
    """What to raise in place of an error of the device's in that component; None for another error. Raises what is the
    script's own."""
    raise_if_scripts(error)
    if isinstance(error, Refused):
        return None
    said = device_errors.message(error)
    if device_errors.memory_is_full(str(error)):
        return DeviceFailed(f"the device has too little memory for {label}: {said}. Close what else runs on it, or "
                            "choose a smaller picture or batch")  # fmt: skip
    return DeviceFailed(f"the device failed in {label}: {said}") if device_errors.device_failed(str(error)) else None
