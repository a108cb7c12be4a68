"""A component in parts: where it cannot be taken whole, its children are, the largest that can be.

What stays in Python is the forward of whatever holds a part, and foreign code. Tensors between parts stay on the
device. A part that is refused in its turn is taken in its own children, and so on down to modules without children.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import threading
import time
import weakref
from collections.abc import Iterable, Iterator

import torch
from torch.utils import _pytree as pytree

from .. import routes
from ..compat import diffusers_pipelines
from ..compat.replacements import original_of
from ..errors import Refused
from ..foreign import Impure
from ..hookspecs import Engine, Site
from ..intercept import is_own
from ..state import contents, same
from .resident import give

logger = logging.getLogger(__name__)
A_RUN = 20
"""After how many calls it is said what share of the seconds is compiled."""
RETRIES = 1
"""How often a component whose foreign code changed something once, and not again, is tried whole."""


def divide(site: Site, python: Iterable[str]) -> list[Site]:
    """The largest modules below a site's that can be parts.

    python: names of modules whose own forward must run as Python. A module with hooks can be a part, since they run
    around its forward, but no part can have one inside.
    """
    python = set(python)
    hooked = set(diffusers_pipelines.watching_hooks(site.module))
    names = {id(m): name for name, m in site.module.named_modules()}
    barred = {name for name in python | hooked if name}

    def walk(module, name: str) -> Iterator[Site]:
        inside = any(other.startswith(f"{name}.") for other in barred)
        if name and name not in python and not inside and _is_reached(module) and _has_work(module):
            yield _part(site, module, name)
            return
        for child in module.children():
            yield from walk(child, names[id(child)])

    return list(walk(site.module, ""))


def _part(site: Site, module, name: str) -> Site:
    """As the component's site, for one of its modules."""
    taken = inspect.signature(original_of(type(module).forward)).parameters
    return dataclasses.replace(
        site, label=f"{site.label}.{name}", module=module, scalars=tuple(n for n in site.scalars if n in taken),
        constant=tuple(n for n in site.constant if n in taken), is_zero=None, around=None, resident=True,
        component=site.component or site.label,
    )  # fmt: skip


def _is_reached(module) -> bool:
    """Is the class's forward what runs when the module is called?"""
    return "forward" not in vars(module) or is_own(module, vars(module)["forward"])


def _has_work(module) -> bool:
    """Containers have no forward; what has no weights is done by single operators, wherever its input is."""
    own = original_of(type(module).forward)
    return own is not torch.nn.Module.forward and next(module.parameters(), None) is not None


class Outline:
    """What decides in how many parts a component is taken: its modules, hooks, and functions put on instances."""

    def __init__(self, module: torch.nn.Module):
        self._module = weakref.ref(module)
        self._then = self._now()

    def same(self) -> bool:
        return self._now() == self._then

    def _now(self) -> list:
        return [
            (id(m), id(original_of(type(m).forward)), len(m._forward_hooks), len(m._forward_pre_hooks),
             _put(vars(m).get("forward")), id(vars(m).get("processor")))
            for m in self._module().modules()
        ]  # fmt: skip


def _put(function):
    """A bound method is another object each time it is asked for."""
    if function is None:
        return None
    return id(getattr(function, "__func__", function)), id(getattr(function, "__self__", None))


class Parts:
    """The parts of one component, once it could not be taken whole: attached, until taken off.

    site: the component's. It is tried whole again when its outline changes; where the whole was refused for one
    signature only, with every other one. unsteady: how often foreign state changed between two calls. active: did the
    last call run in parts? told: why, as it was last said.
    """

    def __init__(self, site: Site, engine: Engine):
        self._site, self._engine = dataclasses.replace(site, module=None), engine
        self._impure: Impure | None = None
        self._outline: Outline | None = None
        self._modules: list[weakref.ref] = []
        self._attached = False
        self._retries = RETRIES
        self.unsteady = 0
        self.active = False
        self.told: str | None = None
        self._running: set[int] = set()  # threads

    def barred(self, module) -> bool:
        """Is the component known not to be a graph?"""
        if self._impure is None:
            return False
        if self._outline.same():
            self._attach(module, self._impure.modules)
            return True
        logger.info("%s has other modules, hooks or functions on them: tried whole again", self._site.label)
        self.forget()
        return False

    def take(self, module, reason: Refused) -> None:
        """From now on, because of this refusal."""
        python = reason.modules if isinstance(reason, Impure) else {"": str(reason)}
        if isinstance(reason, Impure):
            self.take_off()
            self._impure, self._outline = reason, Outline(module)
        self._attach(module, python)

    def _attach(self, module, python: dict[str, str]) -> None:
        if self._attached:
            return
        sites = divide(dataclasses.replace(self._site, module=module), python)
        self._modules, self._attached = [weakref.ref(site.module) for site in sites], True
        for site in sites:
            routes.attach_part(site, self._engine)

    def modules(self) -> list:
        """Of the parts, also of those that were taken off since."""
        return [m for m in (reference() for reference in self._modules) if m is not None]

    def call(self, original, args: tuple, kwargs: dict, stats):
        """The component's own forward, as Python; its parts answer by their graphs."""
        self.active = True
        inside = threading.get_ident() in self._running  # a forward on the instance calls the class's
        if inside or self._site.component is not None:  # its whole component counts
            return original(*args, **kwargs)
        self._running.add(threading.get_ident())
        try:
            return self._counted(original, args, kwargs, stats)
        finally:
            self._running.discard(threading.get_ident())

    def _counted(self, original, args, kwargs, stats):
        watched = self._changes()
        answered, compiled = stats.part_calls, stats.seconds + stats.compile_seconds
        started = time.perf_counter()
        output = original(*args, **kwargs)
        stats.python_seconds += time.perf_counter() - started - (stats.seconds + stats.compile_seconds - compiled)
        if stats.part_calls == answered:
            stats.fallbacks += 1
        else:
            stats.calls += 1
            if stats.calls == A_RUN:
                share = f"{stats.share_of_seconds:.0%} of its seconds are compiled, after {A_RUN} calls"
                logger.info("%s runs in %s parts: %s", self._site.label, stats.parts, share)
        if watched is not None and all(map(same, self._changes(), watched)):
            logger.info("%s: what foreign code changed it changed once: tried whole again", self._site.label)
            self._retries -= 1
            self.forget()
        return output if self._site.resident else ordinary(output)

    def _changes(self):
        """What foreign code was seen to change, as it is now; None where that is not asked for."""
        if self._impure is None or not self._impure.changes or not self._retries:
            return None
        return [[object()] if c.container is None else contents(c.container) for c in self._impure.changes]

    def forget(self) -> None:
        self._impure = self._outline = None
        self.unsteady = 0
        self.active = False
        self.take_off()

    def take_off(self) -> None:
        for module in self.modules() if self._attached else ():
            routes.detach(module)
            self._engine.restore(module)
        self._attached = False


def ordinary(tree):
    """With ordinary tensors in the places of those on the device."""
    return pytree.tree_map(give, tree)
