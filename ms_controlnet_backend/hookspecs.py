"""The plugin contract: what a plugin may register, as typed dataclasses and pluggy hook specifications.

A plugin is a module or object with hook implementations, published under the entry-point group
``ms_controlnet_backend``::

    [project.entry-points.ms_controlnet_backend]
    my-plugin = "my_package.my_module"

The built-in backends, adapters, lowerings and passes are registered by the same road.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pluggy

GROUP = "ms_controlnet_backend"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


@dataclass(frozen=True)
class Options:
    """What ``enable`` was asked for.

    device: ``"CPU"``, ``"Ascend"``, ``"Ascend:3"`` or None (Ascend where there is one, else CPU).
    strict: raise instead of leaving a refused component on torch.
    cache_dir: folder of the generated sources; None: ``$MS_CONTROLNET_CACHE`` or the user's cache folder.
    max_graphs: graphs kept a component; beyond that the one not used for longest is dropped.
    release_host_weights: give up torch's copy of a weight once the device has its own.
    """

    device: str | None = None
    strict: bool = False
    cache_dir: str | None = None
    max_graphs: int = 16
    release_host_weights: bool = False


@dataclass(frozen=True)
class Probe:
    """What a backend finds on this machine: is it usable, on which device, and what to do if it is not."""

    available: bool
    device: str = ""
    detail: str = ""
    advice: str = ""


@dataclass(frozen=True, eq=False)
class Site:
    """One module whose ``forward`` a backend may take over.

    label: name for messages, e.g. ``"unet"`` or ``"controlnet.nets.1"``.
    scalars: arguments of ``forward`` whose Python numbers, also those in a list, are fed as 0-d float32 tensors, so
        that a new value never compiles again.
    constant: arguments that a pipeline passes unchanged in every step. What depends on nothing else is computed once
        and kept until one of them, or a weight it used, changes.
    is_zero: given a call's arguments by name (defaults filled in, scalars as tensors), is every output known to be
        zero? Then the module is not run.
    resident: the outputs stay on the device, as other sites take them.
    settings: finds the numbers kept inside the module that are fed to the graph as well: (dictionary or list, key) of
        each number, or list of numbers. They must be used in arithmetic only; comparisons with 0 and 1 may choose a
        shortcut.
    around: ``(module, args, kwargs)`` → a context manager that does what upstream's ``forward`` does to the module
        before and after because of an argument, and yields the (args, kwargs) that remain.
    component: label of the component that this is a part of: its calls are counted there.
    """

    label: str
    module: Any
    scalars: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    is_zero: Callable[[Mapping[str, Any]], bool] | None = None
    resident: bool = False
    settings: Callable[[Any], Iterable[tuple[Any, Any]]] | None = None
    around: Callable[[Any, tuple, dict], AbstractContextManager[tuple[tuple, dict]]] | None = None
    component: str | None = None


class Engine(Protocol):
    """A backend, built for a set of options.

    Optional: ``stats()`` (label → a dataclass of counters), which comparisons show; ``restore(module)``, called when a
    module is no longer the engine's: it leaves the module as upstream made it; ``optimise(captured)`` (run the
    graph passes in place) and ``evaluate(captured, tensors)`` (run a captured graph once, its output tensors in a
    list), which let a comparison look for a wrong operator inside a component.
    """

    def component(self, site: Site) -> Callable[[Callable, tuple, dict], Any] | None:
        """The callable ``(original_forward, args, kwargs) -> output`` that replaces the site's forward.

        None leaves the site on upstream's own forward.
        """

    def describe(self) -> str:
        """The device in one line."""


@dataclass(frozen=True)
class Backend:
    """A way to run components, chosen by name in ``enable(backend=...)`` and ``using(name)``."""

    name: str
    probe: Callable[[Options], Probe]
    build: Callable[[Options], Engine]


@dataclass(frozen=True)
class Adapter:
    """Knows one kind of diffusers component.

    name: for messages and for replacing a built-in (the highest ``priority`` of a name wins).
    matches: is this pipeline component mine? Called with every component a pipeline gets.
    sites: the component and its name in the pipeline → the modules to intercept.
    """

    name: str
    matches: Callable[[Any], bool]
    sites: Callable[[Any, str], Iterable[Site]]
    priority: int = 0


@dataclass(frozen=True)
class Sample:
    """Sample arguments of one lowering, from which its parity test is generated.

    args, kwargs: what the ATen overload is called with. A ``Shape`` of ``tests`` becomes a seeded tensor; see
    :func:`ms_controlnet_backend.lowering.samples.tensor`.
    """

    args: tuple
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Lowering:
    """One ATen overload → MindSpore.

    op: a ``torch._ops.OpOverload`` such as ``torch.ops.aten.silu.default`` (a packet like ``torch.ops.aten.silu``
        is an error: it would hide which overloads are covered).
    function: called as ``function(builder, *args)`` with the arguments of the overload's schema, in its order and
        with its defaults filled in; tensors are :class:`~ms_controlnet_backend.lowering.builder.Value`. Returns a
        Value, or a list of them for an overload that returns several.
    priority: two lowerings of one overload with the same priority are an error; the higher one wins.
    target: ``"CPU"``, ``"Ascend"`` or None for both; of equal priority one for the target itself wins over None.
    """

    op: Any
    function: Callable
    samples: tuple[Sample, ...] = ()
    priority: int = 0
    target: str | None = None


@dataclass(frozen=True)
class Pass:
    """A graph pass over the captured ATen graph, changing the ``torch.fx.GraphModule`` in place.

    order: passes run from low to high; the built-in ones lie between 0 and 100. What a pass finds is functional and
    tells values, not memory: ``view`` is written ``reshape``, and strides need not be what ``meta["val"]`` says.
    """

    name: str
    function: Callable[[Any], None]
    order: int = 50
    target: str | None = None


@dataclass
class Compiled:
    """Told to observers after a component was compiled.

    label: the site. signature: shapes and dtypes of the tensors. operators: ATen overload → count.
    source: path of the generated MindSpore source. capture_s: seconds in torch.export. compile_s: seconds in MindSpore,
    the first run included. host_calls: ATen overload → how many calls of it torch computes on the host, in every step.
    """

    label: str
    signature: str = ""
    operators: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    capture_s: float = 0.0
    compile_s: float = 0.0
    host_calls: Mapping[str, int] = field(default_factory=dict)


class Specs:
    """The hooks. Each example below is run by ``tests/test_plugins.py``."""

    @hookspec
    def register_backends(self) -> Iterable[Backend]:
        """Backends this plugin adds.

        >>> from ms_controlnet_backend.hookspecs import Backend, Probe, hookimpl
        >>> class Plugin:
        ...     @hookimpl
        ...     def register_backends(self):
        ...         class Upstream:
        ...             def component(self, site): return None
        ...             def describe(self): return "upstream torch"
        ...         return [Backend("mine", lambda options: Probe(True, "CPU"), lambda options: Upstream())]
        >>> manager.register(Plugin()) and registry().backend("mine").name
        'mine'
        """

    @hookspec
    def register_adapters(self) -> Iterable[Adapter]:
        """Adapters this plugin adds, for components no built-in adapter knows or to replace one.

        >>> from ms_controlnet_backend.hookspecs import Adapter, Site, hookimpl
        >>> class Upscaler: pass
        >>> class Plugin:
        ...     @hookimpl
        ...     def register_adapters(self):
        ...         return [Adapter("upscaler", lambda component: isinstance(component, Upscaler),
        ...                         lambda component, name: [Site(name, component)])]
        >>> manager.register(Plugin()) and registry().adapter(Upscaler()).name
        'upscaler'
        """

    @hookspec
    def register_lowerings(self) -> Iterable[Lowering]:
        """Lowerings this plugin adds.

        >>> import torch
        >>> from ms_controlnet_backend.hookspecs import Lowering, hookimpl
        >>> def celu(b, x, alpha):
        ...     negative = b.mul(b.sub(b.call("Exp", b.div(x, alpha)), 1.0), alpha)
        ...     return b.add(b.binary("Maximum", x, 0.0), b.binary("Minimum", negative, 0.0))
        >>> class Plugin:
        ...     @hookimpl
        ...     def register_lowerings(self):
        ...         return [Lowering(torch.ops.aten.celu.default, celu)]
        >>> manager.register(Plugin()) and registry().lowering(torch.ops.aten.celu.default, "CPU").function is celu
        True
        """

    @hookspec
    def register_passes(self) -> Iterable[Pass]:
        """Graph passes this plugin adds.

        >>> from ms_controlnet_backend.hookspecs import Pass, hookimpl
        >>> class Plugin:
        ...     @hookimpl
        ...     def register_passes(self):
        ...         return [Pass("count_nodes", lambda graph_module: None, order=200)]
        >>> manager.register(Plugin()) and registry().passes("CPU")[-1].name
        'count_nodes'
        """

    @hookspec
    def component_compiled(self, event: Compiled) -> None:
        """Called after a component was compiled.

        >>> from ms_controlnet_backend.hookspecs import Compiled, hookimpl
        >>> seen = []
        >>> class Plugin:
        ...     @hookimpl
        ...     def component_compiled(self, event): seen.append(event.label)
        >>> _ = manager.register(Plugin())
        >>> _ = manager.hook.component_compiled(event=Compiled("unet"))
        >>> seen
        ['unet']
        """
