"""The life of one intercepted module: which graph answers a call, and is that graph still true."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace

import torch

from .. import passes
from ..capture import capture
from ..compat import autocast, forks, mindspore_runtime, watchers
from ..compat.compile_cache import CompileCache
from ..errors import DeviceFailed, NotLowered, NotNow, Refused, naming, refusal, without_frames
from ..foreign import unsteady
from ..gate import gate
from ..hookspecs import Compiled, Options, Site
from ..intercept import is_own
from ..plugins import manager, registry
from ..settings import OWNER, Settings
from ..signature import Arguments, without_strides
from . import executable, watched
from .eager import Eager
from .parts import Parts, ordinary
from .recent import Recent
from .released import release, restore, traceable
from .resident import ResidentTensor
from .snapshot import Snapshot
from .source_cache import SourceCache
from .stats import Stats, measure
from .target import Target
from .transfers import Transfers
from .variants import Variant, Variants
from .weights import WeightStore

logger = logging.getLogger(__name__)
_local = threading.local()
UNSTEADY = 2
"""How often a component is captured again because foreign state changed; what depends on it then runs as Python."""
_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer, ResidentTensor)


class MindSporeEngine:
    """Compiles and runs sites on one device. One per set of options. in_parts: is what cannot be taken whole taken in
    parts?"""

    in_parts = True

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
            component.name(site)  # a net may be one pipeline's only one and one of another's several
            return component

    def restore(self, module) -> None:
        """The module's weights are ordinary tensors of torch again, and its parts are none."""
        component = self._components.get(module)
        if component is not None:
            component.parts.take_off()
            with gate.holding(component._busy):
                restore(module)

    def build(self, captured, tensors, **options):
        """:func:`.executable.build` with what belongs to this engine."""
        return executable.build(captured, tensors, registry(), self.transfers, self.store, self.cache, **options)

    def tell(self, event: Compiled) -> None:
        """A component was compiled."""
        calls = ", ".join(f"{op} {n}" for op, n in event.host_calls.items())
        logger.info("%s compiled: capture %.1f s, MindSpore %.1f s%s", event.label, event.capture_s, event.compile_s,
                    f", calls on the host: {calls}" if calls else "")  # fmt: skip
        try:
            manager().hook.component_compiled(event=event)
        except Exception as error:  # noqa: BLE001 - anything may go wrong in a foreign plugin
            self.warn_once(f"a plugin's component_compiled failed: {refusal(error)}")

    def _measure(self) -> None:
        with self._lock:
            components = dict(self._components)
        measure(components)

    def tell_parts(self, component, reason: Refused) -> None:
        """Say once how much of a component is compiled, and why the rest is not."""
        self._measure()
        stats = component.stats
        if not stats.parts:
            self.warn_once(f"{component.label} stays on torch: {reason}")
            return
        rest = [f"; {label}: {why}" for label, why in stats.left.items() if label != component.label][:3]
        share = f"{stats.share:.1%} of its parameters compiled"
        self.warn_once(
            f"{component.label} runs in {stats.parts} parts, {share}: {reason}{''.join(rest)}. stats() tells more"
        )

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
        self._measure()
        return {label: stats + Stats() for label, stats in list(self._stats.items())}


class Component:
    """Replaces one module's forward: ``component(original_forward, args, kwargs)``.

    LIVE: the graph of this signature is used as it is. REFRESH: weights changed in place; converted ones are converted
    again. RECAPTURE: the structure changed; if it is one that the module had lately (:mod:`.variants`), its graphs are
    used again.

    Settings (numbers inside the module, `Site.settings`) are fed with every call. A graph in which they could not be
    an input holds for the values it was captured with.

    IN PARTS: what cannot be taken whole (:mod:`.parts`).
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
        self._function: Callable | None = None
        self._max_graphs = max(1, engine.options.max_graphs)
        self._now = Variant(Recent(self._max_graphs))
        self._former = Variants()
        self._busy = threading.RLock()
        self.parts = Parts(site, engine)
        self.is_whole = site.component is None
        self.label: str | None = None

    @property
    def compiled(self) -> bool:
        return bool(self._now.graphs)

    def name(self, site: Site) -> None:
        """Calls are counted, and messages speak, of the module by this name from now on."""
        if site.label != self.label:
            self.label = site.label
            self.stats = self._engine._stats.setdefault(site.component or site.label, Stats())

    def __call__(self, original: Callable, args: tuple, kwargs: dict):
        if getattr(_local, "tracing", False):  # this thread captures this component, or one that contains it
            return original(*args, **kwargs)
        if (watcher := watchers.watcher()) is not None:
            return watched.on_torch(self, watcher, original, args, kwargs)
        forks.check()
        module = self._module()
        if self.parts.barred(module) and not self._engine.options.strict:
            return self._in_parts(original, args, kwargs)
        try:
            with gate.holding(self._busy), self._around(module, args, kwargs) as (remaining, named):
                output = self._answer(original, remaining, named)
            self.parts.active = False
            return output
        except watched.Watched as watcher:
            return watched.on_torch(self, str(watcher), original, args, kwargs)
        except Exception as error:  # noqa: BLE001 - a defect of ours must not end a script that runs on torch
            reason = self._reason(error)
            if not gate.wanted():
                return original(*ordinary(args), **ordinary(kwargs))
            if self._engine.options.strict and (reason is error or isinstance(reason, DeviceFailed)):
                raise naming(reason, self.label) from (error.__cause__ if reason is error else error)
            if self._engine.options.strict:
                raise
            reason = without_frames(reason)
        if not isinstance(reason, NotNow):
            self.stats.left[self.label] = str(reason)
        if isinstance(reason, (NotNow, DeviceFailed)) or not self._engine.in_parts:
            if self.is_whole:
                self.stats.fallbacks += 1
                self._engine.warn_once(f"{self.label} stays on torch: {reason}")
            return original(*ordinary(args), **ordinary(kwargs))
        self.parts.take(module, reason)
        return self._in_parts(original, args, kwargs, reason)

    def _reason(self, error: Exception) -> Refused:
        """Why torch answers."""
        return executable.failure(error, self.label) or refusal(error)

    def _in_parts(self, original, args, kwargs, reason=None):
        output = self.parts.call(original, args, kwargs, self.stats)
        if self.is_whole and reason is not None and self.parts.active and self.parts.told != str(reason):
            self.parts.told = str(reason)
            self._engine.tell_parts(self, reason)
        return output

    def _answer(self, original, args, kwargs):
        """The output by a graph, compiled now if need be; raises Refused."""
        self._entered_by(getattr(original, "__func__", original))
        structure, tensors = self._split(original, args, kwargs)
        other = next((t for t in tensors if type(t) not in _PLAIN or t.is_meta), None)
        if other is not None:
            raise watched.foreign(other)
        if self._wants_gradients(tensors):
            raise NotNow("gradients are enabled and wanted (run under torch.no_grad() for inference)")
        if (casts := autocast.active({t.device.type for t in tensors} or {"cpu"})) is not None:
            structure = replace(structure, key=(*structure.key, casts))
        graph = self._graph(structure.key)
        started = time.perf_counter()
        may_skip = graph is not None and self._is_zero and not graph.draws
        if may_skip and self._is_zero(structure.rebuild(tensors)[1]):
            output = graph.zeros()
            self.stats.skipped += 1
        elif graph is not None:
            try:
                output = self._run(graph, tensors + self._now.settings.tensors())
            except Exception as error:
                reason = self._reason(error)
                self._now.graphs.pop(structure.key, None)
                self._now.refused[structure.key] = reason, self._now.settings.values()
                raise
            self.stats.seconds += time.perf_counter() - started
        else:
            output = self._compile(original, structure, tensors)
            self.stats.compile_seconds += time.perf_counter() - started
        if self.is_whole:
            self.stats.calls += 1
        else:
            self.stats.part_calls += 1
        self.stats.left.pop(self.label, None)
        return output

    def _entered_by(self, function) -> None:
        """Graphs are of the class's forward, or of the whole call where a script hid that: not of both."""
        if function is not self._function:
            self._function, self._arguments = function, None
            self._now.forget(), self._former.clear()

    def _split(self, original, args, kwargs):
        if self._arguments is None:
            self._arguments = Arguments(original, self._scalars)
        return self._arguments.split(args, kwargs)

    def _run(self, graph, tensors):
        before = graph.prologue.runs if graph.prologue else 0
        try:
            with watchers.profiled(self.label):
                return graph(tensors, self.stats)
        finally:
            self.stats.prologue_runs += graph.prologue.runs - before if graph.prologue else 0

    def _wants_gradients(self, tensors) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(t.requires_grad for t in tensors) or any(p.requires_grad for p in self._module().parameters())

    def _graph(self, key):
        """The graph of this signature if there is one and it is true; raises the Refused of an earlier attempt."""
        if self._now.snapshot is not None and not self._now.snapshot.same() and not self._follow():
            self._change()
        values = self._now.settings.values() if self._now.snapshot is not None else ()
        reason, then = self._now.refused.get(key, (None, None))
        if reason is not None and then == values:
            raise reason
        graph = self._now.graphs.use(key)
        if graph is not None and graph.baked not in (None, values):
            logger.info("%s changed a number that is part of its graph: captured again", self.label)
            del self._now.graphs[key]
            return None
        if graph is not None:
            graph.watch.refresh()
        return graph

    def _change(self) -> None:
        """The module has another structure: one that it had before, or a new one, of which there are no graphs."""
        found, left = self._former.take(self._module()), self._now
        if found is None:
            self._is_steady(left.snapshot.foreign_changes())
            found = Variant(Recent(self._max_graphs))
            logger.info("%s changed its structure: captured again", self.label)
        for graph in (found if found.graphs else left).graphs.values():
            graph.convert()  # changes by way of `.data` have no version
        self._former.keep(left)
        self._now = found

    def _follow(self) -> bool:
        """Did nothing change but where the module's tensors lie, and could all graphs follow them there? So it is with
        offloading."""
        moved = self._now.snapshot.moved()
        found = [None] if moved is None else [graph.follow(moved) for graph in self._now.graphs.values()]
        if any(steps is None for steps in found):
            return False
        with mindspore_runtime.LOCK:
            for weight, now in {id(w): (w, now) for steps in found for w, now in steps}.values():
                self._engine.store.follow(weight, now)
        self._now.snapshot = self._now.snapshot.again(self._module())
        return True

    def _is_steady(self, changes) -> None:
        """Raises Impure where what foreign code reads, or names mean, changes all the time."""
        self.parts.unsteady += bool(changes)
        if self.parts.unsteady > UNSTEADY:
            self._now.forget()
            raise unsteady(self._module(), changes)

    def _compile(self, original, structure, tensors):
        """Capture, compile and run; where the module's settings cannot be inputs, with their values baked in."""
        if self._now.snapshot is None:
            self._now.settings = Settings(self._find_settings(self._module()))
        values = self._now.settings.values()
        cut = not self._engine.options.strict
        try:
            try:
                graph, output = self._build_or_bake(original, structure, tensors, values, cut and not values)
            except NotLowered:
                if not (cut and values):
                    raise
                graph, output = self._build_or_bake(original, structure, tensors, values, cut)
        except Refused as reason:
            if not isinstance(reason, NotNow):
                self._now.refused[structure.key] = reason, values
            raise
        finally:  # taken after the capture: some forwards change their own module the first time they run
            if self._engine.options.release_host_weights:
                self._now.snapshot = None  # it holds the weights
                self._former.clear()
                for known in self._now.graphs.values():
                    known.watch.forget()
                self.stats.bytes_released += release(self._module(), self._engine.store)
            self._now.snapshot = self._now.snapshot or Snapshot(
                self._module(), self._now.settings.slots, is_own(self._module(), original)
            )
        self._now.refused.pop(structure.key, None)
        self.stats.evicted += self._now.graphs.keep(structure.key, graph)
        self.stats.evicted += self._former.shrink(self._max_graphs - len(self._now.graphs))
        return output

    def _build_or_bake(self, original, structure, tensors, values, cut):
        try:
            return self._build(original, structure, tensors, self._now.settings, cut)
        except Refused as reason:
            if not values or isinstance(reason, DeviceFailed):
                raise
            try:
                graph, output = self._build(original, structure, tensors, Settings(), cut)
            except DeviceFailed:  # MindSpore repeats an error of a launch at the next
                raise reason from None
            graph.baked = values
            logger.info("%s is captured again when a number inside it changes: %s", self.label, reason)
            return graph, output

    def _build(self, original, structure, tensors, settings, cut):
        engine = self._engine
        started = time.perf_counter()
        _local.tracing = True
        try:
            with gate.alone(self._module().modules()), traceable(self._module()) as released:
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
                cut=cut,
                runs=self._max_graphs,
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
        if graph.event.host_calls:
            engine.warn_once(f"{self.label} is compiled but for what torch runs on the host: {graph.cut.why()}")
        return graph, output

    def _twin(self, key, described):
        """A graph that computes the same from tensors that lie otherwise in memory, and returns what lies otherwise."""
        alike = without_strides(key)
        candidates = (g for k, g in self._now.graphs.items() if without_strides(k) == alike and g.baked is None)
        return next((g for g in candidates if g.described == described and not (g.cut and g.cut.ordered)), None)
