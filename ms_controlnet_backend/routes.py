"""Which engine answers the calls of an intercepted module: the one it was attached for, or the one in force."""

from __future__ import annotations

import contextvars
import dataclasses

from .gate import gate
from .hookspecs import Engine, Site
from .intercept import Interceptor

interceptor = Interceptor()
in_force: contextvars.ContextVar[Engine | None] = contextvars.ContextVar("ms_controlnet_engine", default=None)
"""The engine of a ``using`` block, before the one that a module was attached for."""
_calls = Interceptor("__call__")
"""Of whole components: a script may put another forward on the instance, which hides the class's."""


class Route:
    """The handler of an intercepted module. It holds no reference to the module (whoever drops a pipeline wants its
    memory back), which comes with every call."""

    def __init__(self, site: Site, engine: Engine):
        self.site = dataclasses.replace(site, module=None)
        self.engine = engine

    def __call__(self, original, args, kwargs):
        with gate.call(lambda: interceptor.has(original.__self__)):
            return self._answer(original, args, kwargs)

    def _answer(self, original, args, kwargs):
        engine = in_force.get() or self.engine
        component = engine.component(dataclasses.replace(self.site, module=original.__self__))
        if component is None:
            return original(*args, **kwargs)
        return component(original, args, kwargs)


class _CallRoute(Route):
    """Takes the module's whole call, where its ``forward`` was replaced and never asks the class's."""

    def __call__(self, original, args, kwargs):
        if interceptor.reaches(original.__self__):
            return original(*args, **kwargs)
        return super().__call__(original, args, kwargs)


def attach(site: Site, engine: Engine) -> None:
    """Send the calls of a component's module to the engine."""
    with gate.call():  # a capture would take it for the forward's doing
        interceptor.attach(site.module, Route(site, engine))
        _calls.attach(site.module, _CallRoute(site, engine))


def attach_part(site: Site, engine: Engine) -> None:
    """The same for a module inside a component, where it is called by the component's own code."""
    with gate.call():
        interceptor.attach(site.module, Route(site, engine))


def detach(module) -> None:
    with gate.call():
        interceptor.detach(module)
        _calls.detach(module)


def detach_all() -> None:
    with gate.call():
        interceptor.detach_all()
        _calls.detach_all()
