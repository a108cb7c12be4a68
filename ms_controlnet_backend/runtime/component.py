"""The life of one intercepted module: which graph answers a call, and is that graph still true."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch

from .. import passes
from ..capture import capture
from ..compat.compile_cache import CompileCache
from ..errors import Refused, refusal
from ..hookspecs import Compiled, Options, Site
from ..plugins import manager, registry
from ..settings import OWNER, Settings
from ..signature import Arguments, without_strides
from . import executable
from .eager import Eager
from .recent import Recent
from .released import release, restore, traceable
from .resident import ResidentTensor
from .snapshot import Snapshot
from .source_cache import SourceCache
from .target import Target
from .transfers import Crossings, Transfers
from .weights import WeightStore

logger = logging.getLogger(__name__)
_local = threading.local()
_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer, ResidentTensor)


class MindSporeEngine:
    """Compiles and runs sites on one device. One per set of options."""

    def __init__(self, target: Target, options: Options):
        self.target = target
        self.options = options
        self.store = WeightStore(target, keep_on_host=not options.release_host_weights)
        self.cache = SourceCache(options.cache_dir)
        self.compiled = CompileCache(self.cache.folder / "compiled")
        self.transfers = Transfers(target)
        self.eager = Eager(
            lambda *captured: self.build(*captured, run=self.eager),
            lambda op: registry().lowering(op, target.device) is not None,
            self.store,
        )
        self._components: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._stats: dict[str, Stats] = {}

    def component(self, site: Site) -> Component:
        with self._lock:
            if site.module not in self._components:
                self._components[site.module] = Component(site, self)
            component = self._components[site.module]
            component.name(site.label)  # a net may be one pipeline's only one and one of another's several
            return component

    def restore(self, module) -> None:
        """The module's weights are ordinary tensors of torch again."""
        component = self._components.get(module)
        if component is not None:
            with component._busy:
                restore(module)

    def build(self, captured, tensors, **options):
        """:func:`.executable.build` with what belongs to this engine."""
        return executable.build(captured, tensors, registry(), self.transfers, self.store, self.cache, **options)

    def tell(self, event: Compiled) -> None:
        """A component was compiled."""
        logger.info("%s compiled: capture %.1f s, MindSpore %.1f s", event.label, event.capture_s, event.compile_s)
        try:
            manager().hook.component_compiled(event=event)
        except Exception as error:  # noqa: BLE001 - anything may go wrong in a foreign plugin
            self.warn_once(f"a plugin's component_compiled failed: {refusal(error)}")

    def warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)

    def optimise(self, captured) -> None:
        """Run the graph passes of this device in place."""
        passes.run(captured, registry().passes(self.target.device, self.target.without))

    def evaluate(self, captured, tensors: list) -> list:
        """The outputs of a captured graph, compiled for this one run. tensors: in the structure's order. Raises
        Refused where it cannot be compiled."""
        store = WeightStore(self.target)  # the graph's weights die with it
        captured = replace(captured, rebuild=list)
        return executable.build(captured, tensors, registry(), Transfers(self.target), store, self._operators)[1]

    @functools.cached_property
    def _operators(self) -> SourceCache:
        return SourceCache(self.cache.folder / "operators")

    def describe(self) -> str:
        return f"MindSpore on {self.target.describe()}"

    def stats(self) -> dict[str, Stats]:
        """Label → what this engine did for the components of that label, those that are gone included."""
        return {label: stats + Stats() for label, stats in list(self._stats.items())}


@dataclass
class Stats(Crossings):
    """calls: answered by a graph. seconds: in them, compilation not counted. compiles, compile_seconds: captures and
    compilations, first run included. prologue_runs: how often what is constant over the steps was computed. skipped:
    calls not run because their output is zero. evicted: graphs dropped, too many being kept. fallbacks: calls answered
    by torch. to_device, to_host and their bytes: tensors that crossed, weights not counted. bytes_released: torch's
    memory of weights given up (``release_host_weights``)."""

    calls: int = 0
    seconds: float = 0.0
    compiles: int = 0
    compile_seconds: float = 0.0
    prologue_runs: int = 0
    skipped: int = 0
    evicted: int = 0
    fallbacks: int = 0
    bytes_released: int = 0

    def __add__(self, other: Stats) -> Stats:
        return Stats(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Component:
    """Replaces one module's forward: ``component(original_forward, args, kwargs)``.

    LIVE: the graph of this signature is used as it is. REFRESH: weights changed in place; converted ones are converted
    again. RECAPTURE: the structure changed; all graphs of the module are dropped.

    Settings (numbers inside the module, `Site.settings`) are fed with every call. A graph in which they could not be
    an input holds for the values it was captured with.
    """

    def __init__(self, site: Site, engine: MindSporeEngine):
        self._scalars = site.scalars
        self._constant = (*site.constant, OWNER)
        self._find_settings = site.settings or (lambda module: ())
        self._around = site.around or (lambda module, args, kwargs: contextlib.nullcontext((args, kwargs)))
        self._is_zero = site.is_zero
        self._run_resident = engine.eager if site.resident else None
        self._module = weakref.ref(site.module)  # the engine's table is keyed by it: no strong reference here
        self._engine = engine
        self._arguments: Arguments | None = None
        self._graphs = Recent(max(1, engine.options.max_graphs))  # signature → Executable
        self._refused: dict[tuple, tuple[Refused, tuple]] = {}  # and the settings it was refused with
        self._snapshot: Snapshot | None = None
        self._settings = Settings()
        self._busy = threading.RLock()
        self.label: str | None = None

    def name(self, label: str) -> None:
        """Calls are counted, and messages speak, of the module by this name from now on."""
        if label != self.label:
            self.label, self.stats = label, self._engine._stats.setdefault(label, Stats())

    def __call__(self, original: Callable, args: tuple, kwargs: dict):
        if getattr(_local, "tracing", False):  # this thread captures this component, or one that contains it
            return original(*args, **kwargs)
        try:
            with self._busy, self._around(self._module(), args, kwargs) as (remaining, named):
                return self._answer(original, remaining, named)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not end a script that runs on torch
            if self._engine.options.strict:
                raise
            self.stats.fallbacks += 1
            self._engine.warn_once(f"{self.label} stays on torch: {refusal(error)}")
        return original(*args, **kwargs)

    def _answer(self, original, args, kwargs):
        """The output by a graph, compiled now if need be; raises Refused."""
        structure, tensors = self._split(original, args, kwargs)
        other = next((type(t).__name__ for t in tensors if type(t) not in _PLAIN), None)
        if other is not None:  # FakeTensor, DTensor, functorch wrappers: torch is tracing or transforming
            raise Refused(f"an input is a {other}")
        if self._wants_gradients(tensors):
            raise Refused("gradients are enabled and wanted (run under torch.no_grad() for inference)")
        graph = self._graph(structure.key)
        started = time.perf_counter()
        if graph is not None and self._is_zero and self._is_zero(structure.rebuild(tensors)[1]):
            output = graph.zeros()
            self.stats.skipped += 1
        elif graph is not None:
            try:
                output = self._run(graph, tensors + self._settings.tensors())
            except Exception as error:
                self._graphs.pop(structure.key, None)
                self._refused[structure.key] = refusal(error), self._settings.values()
                raise
            self.stats.seconds += time.perf_counter() - started
        else:
            output = self._compile(original, structure, tensors)
            self.stats.compile_seconds += time.perf_counter() - started
        self.stats.calls += 1
        return output

    def _split(self, original, args, kwargs):
        if self._arguments is None:
            self._arguments = Arguments(original, self._scalars)
        return self._arguments.split(args, kwargs)

    def _run(self, graph, tensors):
        before = graph.prologue.runs if graph.prologue else 0
        try:
            return graph(tensors, self.stats)
        finally:
            self.stats.prologue_runs += graph.prologue.runs - before if graph.prologue else 0

    def _wants_gradients(self, tensors) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(t.requires_grad for t in tensors) or any(p.requires_grad for p in self._module().parameters())

    def _graph(self, key):
        """The graph of this signature if there is one and it is true; raises the Refused of an earlier attempt."""
        if self._snapshot is not None and not self._snapshot.same():
            logger.info("%s changed its structure: captured again", self.label)
            for graph in self._graphs.values():
                graph.convert()  # changes by way of `.data` have no version
            self._graphs.clear()
            self._refused.clear()
            self._snapshot = None
        values = self._settings.values() if self._snapshot is not None else ()
        reason, then = self._refused.get(key, (None, None))
        if reason is not None and then == values:
            raise reason
        graph = self._graphs.use(key)
        if graph is not None and graph.baked not in (None, values):
            logger.info("%s changed a number that is part of its graph: captured again", self.label)
            del self._graphs[key]
            return None
        if graph is not None:
            graph.watch.refresh()
        return graph

    def _compile(self, original, structure, tensors):
        """Capture, compile and run; where the module's settings cannot be inputs, with their values baked in."""
        if self._snapshot is None:
            self._settings = Settings(self._find_settings(self._module()))
        values = self._settings.values()
        try:
            try:
                graph, output = self._build(original, structure, tensors, self._settings)
            except Refused as reason:
                if not values:
                    raise
                graph, output = self._build(original, structure, tensors, Settings())
                graph.baked = values
                logger.info("%s is captured again when a number inside it changes: %s", self.label, reason)
        except Refused as reason:
            self._refused[structure.key] = reason, values
            raise
        finally:  # taken after the capture: some forwards change their own module the first time they run
            if self._engine.options.release_host_weights:
                self._snapshot = None  # it holds the weights
                for known in self._graphs.values():
                    known.watch.forget()
                self.stats.bytes_released += release(self._module(), self._engine.store)
            self._snapshot = self._snapshot or Snapshot(self._module(), self._settings.slots)
        self._refused.pop(structure.key, None)
        self.stats.evicted += self._graphs.keep(structure.key, graph)
        return output

    def _build(self, original, structure, tensors, settings):
        engine = self._engine
        started = time.perf_counter()
        _local.tracing = True
        try:
            with traceable(self._module()) as released:
                captured = capture(self.label, self._module(), original, structure, tensors, settings)
            _local.tracing = False
            for node, weight in captured.weights.items():
                captured.weights[node] = replace(weight, tensor=released.get(id(weight.tensor), weight.tensor))
            capture_s = time.perf_counter() - started
            described = captured.described()
            twin = self._twin(structure.key, described)
            if twin is not None:
                graph = replace(twin, outputs=captured.layouts, rebuild=captured.rebuild)
                return graph, self._run(graph, tensors + settings.tensors())
            graph, output = engine.build(
                captured,
                tensors + settings.tensors(),
                constant=self._constant,
                run=self._run_resident,
                count=self.stats,
                compiled=engine.compiled,
            )
        except Refused:
            raise
        except Exception as error:
            raise refusal(error) from error
        finally:
            _local.tracing = False
        graph.event.capture_s, graph.described = capture_s, described
        self.stats.prologue_runs += graph.prologue.runs if graph.prologue else 0
        self.stats.compiles += 1
        self._engine.tell(graph.event)
        return graph, output

    def _twin(self, key, described):
        """A graph that computes the same from tensors that lie otherwise in memory, and returns what lies otherwise."""
        alike = without_strides(key)
        candidates = (g for k, g in self._graphs.items() if without_strides(k) == alike and g.baked is None)
        return next((g for g in candidates if g.described == described), None)
