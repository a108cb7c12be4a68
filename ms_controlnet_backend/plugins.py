"""The pluggy manager, and the registry of everything that plugins registered."""

from __future__ import annotations

import functools
import logging
import threading
from importlib import metadata

import pluggy

from .errors import RegistrationError, UnknownBackend
from .hookspecs import GROUP, Adapter, Backend, Lowering, Pass, Sample, Specs

logger = logging.getLogger(__name__)
_lock = threading.RLock()


class Registry:
    """Everything registered, looked up by what the rest of the package asks for.

    Raises RegistrationError where two plugins register the same thing without different priorities.
    """

    def __init__(self, manager: pluggy.PluginManager):
        self.backends = {b.name: b for b in _gather(manager, "register_backends", Backend)}
        self.adapters = _adapters(_gather(manager, "register_adapters", Adapter))
        self._manager = manager
        self._lowerings = None
        self._passes = None

    def backend(self, name: str) -> Backend:
        try:
            return self.backends[name]
        except KeyError:
            known = ", ".join(sorted(self.backends))
            raise UnknownBackend(f"no backend named {name!r}; known backends: {known}") from None

    def adapter(self, component) -> Adapter | None:
        for adapter in self.adapters:
            try:
                if adapter.matches(component):
                    return adapter
            except Exception as error:  # noqa: BLE001 - anything may go wrong in a foreign adapter
                _warn_broken(f"adapter {adapter.name!r}", error)
        return None

    @property
    def lowerings(self) -> dict[tuple, Lowering]:
        if self._lowerings is None:
            self._lowerings = _lowerings(_gather(self._manager, "register_lowerings", Lowering))
        return self._lowerings

    def lowering(self, op, target: str) -> Lowering | None:
        found = filter(None, (self.lowerings.get((op, t)) for t in (target, None)))
        return max(found, key=lambda lowering: lowering.priority, default=None)  # of equal ones the target's own

    def overloads(self, target: str) -> list:
        """Every overload that has a lowering for the target."""
        return list(dict.fromkeys(op for op, t in self.lowerings if t in (None, target)))

    def samples(self, op, target: str) -> list[Sample]:
        """Those of the lowering for every target and of the one for this target: it is held to both."""
        found = [self.lowerings.get((op, t)) for t in (None, target)]
        return [sample for lowering in found if lowering is not None for sample in lowering.samples]

    def passes(self, target: str, without=()) -> list[Pass]:
        if self._passes is None:
            self._passes = sorted(_gather(self._manager, "register_passes", Pass), key=lambda p: p.order)
        return [p for p in self._passes if p.target in (None, target) and p.name not in without]


def _gather(manager, hook: str, kind: type) -> list:
    """All that a hook's implementations return. A plugin that fails is warned about once and left out."""
    found = []
    for implementation in getattr(manager.hook, hook).get_hookimpls():
        try:
            items = list(implementation.function() or ())
            wrong = [item for item in items if not isinstance(item, kind)]
            if wrong:
                raise TypeError(f"{hook} must return {kind.__name__} objects, got {wrong[0]!r}")
        except Exception as error:  # noqa: BLE001 - anything may go wrong in a foreign plugin
            _warn_broken(f"plugin {implementation.plugin_name!r}", error)
            continue
        found += items
    return found


def _adapters(adapters: list[Adapter]) -> list[Adapter]:
    best: dict[str, Adapter] = {}
    for adapter in adapters:
        other = best.get(adapter.name)
        if other is not None and other.priority == adapter.priority:
            raise RegistrationError(f"two adapters named {adapter.name!r} with priority {adapter.priority}")
        if other is None or adapter.priority > other.priority:
            best[adapter.name] = adapter
    return sorted(best.values(), key=lambda a: -a.priority)


def _lowerings(lowerings: list[Lowering]) -> dict[tuple, Lowering]:
    best: dict[tuple, Lowering] = {}
    for lowering in lowerings:
        check_lowering(lowering)
        key = (lowering.op, lowering.target)
        other = best.get(key)
        if other is not None and other.priority == lowering.priority:
            raise RegistrationError(
                f"two lowerings of {lowering.op} for target {lowering.target} with priority {lowering.priority}: "
                f"{_where(other)} and {_where(lowering)}; give one of them a higher priority"
            )
        if other is None or lowering.priority > other.priority:
            best[key] = lowering
    return best


def check_lowering(lowering: Lowering) -> None:
    """Raise RegistrationError for a key that is no overload, or a function that would drop an argument."""
    import inspect

    import torch

    if not isinstance(lowering.op, torch._ops.OpOverload):
        raise RegistrationError(
            f"{lowering.op} is not an overload: register e.g. torch.ops.aten.silu.default, not torch.ops.aten.silu"
        )
    wanted = len(lowering.op._schema.arguments)
    parameters = list(inspect.signature(lowering.function).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return
    if len(parameters) != wanted + 1:
        raise RegistrationError(
            f"{_where(lowering)} takes {len(parameters) - 1} arguments after the builder, "
            f"the schema has {wanted}: {lowering.op._schema}"
        )


def _where(lowering: Lowering) -> str:
    return f"{lowering.function.__module__}.{lowering.function.__qualname__}"


@functools.cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _warn_broken(what: str, error: Exception) -> None:
    _warn_once(f"{what} is broken and left out: {type(error).__name__}: {error}")


_manager: pluggy.PluginManager | None = None
_cached: tuple[frozenset, Registry] | None = None


def manager() -> pluggy.PluginManager:
    """The one plugin manager; entry points are loaded on first use."""
    global _manager
    with _lock:
        if _manager is None:
            new = pluggy.PluginManager(GROUP)
            new.add_hookspecs(Specs)
            for entry in metadata.entry_points(group=GROUP):
                try:
                    new.register(entry.load(), name=entry.name)
                except Exception as error:  # noqa: BLE001
                    _warn_broken(f"plugin {entry.name!r}", error)
            _manager = new
        return _manager


def registry() -> Registry:
    """What is registered now; built again after a plugin was registered or taken off by hand."""
    global _cached
    with _lock:
        plugins = frozenset(id(p) for p in manager().get_plugins())
        if _cached is None or _cached[0] != plugins:
            _cached = (plugins, Registry(manager()))
        return _cached[1]
