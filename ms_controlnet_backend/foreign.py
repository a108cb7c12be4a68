"""Which modules of a component must run as Python in every call, and why: foreign code with an effect, hooks.

A graph repeats the arithmetic that a forward did, nothing else it did. So a module whose own forward reads or changes
what cannot be followed is never part of a graph; its children may be.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .compat import diffusers_pipelines
from .errors import Refused
from .reach import Reach
from .state import Change


class Impure(Refused):
    """A component does something that a graph cannot do. modules: of those that do it, name in the component → why.
    changes: what was changed while it was traced."""

    def __init__(self, modules: dict[str, str], changes: Iterable[Change] = ()):
        self.modules, self.changes = modules, list(changes)
        name, why = next(iter(modules.items()))
        more = f", and {len(modules) - 1} more" if len(modules) > 1 else ""
        super().__init__(f"{why} ({name or 'the component itself'}{more})")

    @property
    def draws(self) -> bool:
        """Were Python's or NumPy's random numbers drawn?"""
        return any(c.container is None for c in self.changes)


def unfollowed(component: torch.nn.Module, reach: Reach) -> dict[str, str]:
    """Modules whose foreign code reads or changes what cannot be followed."""
    if not reach.unfollowed:
        return {}
    found = {name: own.unfollowed[0] for name, own in _apart(component) if own.unfollowed}
    return found or {"": reach.unfollowed[0]}


def effects(component: torch.nn.Module, reach: Reach, changes: Iterable[Change]) -> Impure | None:
    """Of changes that were made while the component was traced, those that foreign code made. What a library's code
    changes is a table that it keeps for later: it was put back, and is made again."""
    changes = [c for c in changes if _is_foreign(c, reach)]
    if not changes:
        return None
    found = {}
    for name, own in _apart(component):
        change = next((c for c in changes if own.foreign and _is_foreign(c, own)), None)
        if change is not None:
            found[name] = f"foreign code changes {_describe(change)} while it runs"
    return Impure(found or {"": f"foreign code changes {_describe(changes[0])} while it runs"}, changes)


def unsteady(component: torch.nn.Module, changes: Iterable[Change]) -> Impure:
    """Of changes that were made between calls, again and again: modules that depend on what was changed."""
    found = {}
    for name, own in _apart(component):
        change = next((c for c in changes if _is_foreign(c, own) or _is_resolved(c, own)), None)
        if change is not None:
            found[name] = f"{_describe(change)} changes from call to call"
    return Impure(found or {"": "what it depends on changes from call to call"})


def hooked(component: torch.nn.Module, forward=None) -> dict[str, str]:
    """Modules with hooks that must see every call: submodules, and the component if what is traced (forward) is its
    whole call and not the forward that hooks run around."""
    names = diffusers_pipelines.watching_hooks(component)
    if getattr(forward, "__func__", None) is torch.nn.Module.__call__ and diffusers_pipelines.has_hooks(component):
        names.append("")
    return {name: "a hook must see every call" for name in names}


def _is_foreign(change: Change, reach: Reach) -> bool:
    if change.container is None:
        return True
    if isinstance(change.container, type):
        return any(change.container is cls for cls in reach.classes)
    if any(change.container is c for c in (*reach.containers, *reach.tensors)):
        return True
    return not reach.foreign_names.isdisjoint(change.keys)


def _is_resolved(change: Change, reach: Reach) -> bool:
    """Do names that are read here mean something else?"""
    return any(m is change.container and not set(change.keys).isdisjoint(found) for _, m, found in reach.namespaces)


def _describe(change: Change) -> str:
    if change.container is None:
        return "the random numbers of Python or NumPy"
    names = ", ".join(k for k in change.keys if isinstance(k, str))
    return names or f"a {type(change.container).__name__}"


def _apart(component):
    """(name, the Reach of this module alone) of each module."""
    tree = list(component.modules())
    for name, module in component.named_modules():
        yield name, Reach([module], tree=tree)
