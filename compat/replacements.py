"""Replacing attributes of foreign modules and classes by a table, and putting them back by identity."""

from __future__ import annotations

import logging
import pkgutil
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)
ABSENT = object()
_ORIGINALS = "__ms_controlnet_originals__"
"""Attribute of what this package puts in the place of functions and classes: those."""


def stands_for(new, original) -> None:
    """From now on what was made takes the place of the original, perhaps among others."""
    known = vars(new).get(_ORIGINALS, ())
    if not any(o is original for o in known):
        setattr(new, _ORIGINALS, (*known, original))


def originals_of(value) -> tuple:
    """The function or class itself, or those that this package put it in the place of."""
    found = vars(value).get(_ORIGINALS) if isinstance(value, (types.FunctionType, type)) else None
    return (value,) if found is None else tuple(o for original in found for o in originals_of(original))


def original_of(value):
    return originals_of(value)[0]


@dataclass(frozen=True)
class Replacement:
    """One line of a table.

    owner: dotted path of a module, a class or a dictionary (``"sys.modules"``). name: the attribute, or key.
    make: the original → what takes its place; a class method comes as the ``classmethod`` object it is.
    why: what the user gets. added: there is no original (``make`` is given None); where there is one, it is left.
    """

    owner: str
    name: str
    make: Callable[[Any], Any]
    why: str
    added: bool = False

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


def _get(owner, name: str):
    """(own value or ABSENT, value or ABSENT): an inherited attribute is none of the owner's own."""
    if isinstance(owner, dict):
        return (owner.get(name, ABSENT),) * 2
    own = vars(owner).get(name, ABSENT)
    return own, getattr(owner, name, ABSENT) if own is ABSENT else own


def _set(owner, name: str, value) -> None:
    if isinstance(owner, dict):
        owner.pop(name, None) if value is ABSENT else owner.__setitem__(name, value)
    elif value is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _name(function, owner, name: str) -> None:
    """A wrapper is pickled by its place, as what it wraps is."""
    if isinstance(owner, types.ModuleType):
        function.__module__, function.__qualname__ = owner.__name__, name
    else:
        function.__module__, function.__qualname__ = owner.__module__, f"{owner.__qualname__}.{name}"


def _is_ours(new) -> bool:
    """Was it made by this package, and is it not some function or class that was there before?"""
    homes = [type(new).__module__, new.__module__] if isinstance(new, type) else []
    while isinstance(new, types.FunctionType):  # contextlib's decorators are around some
        homes.append(new.__globals__.get("__name__"))
        new = vars(new).get("__wrapped__")
    return any(str(home).startswith(__package__) for home in homes)


class Replaced:
    """The lines of a table that are in force."""

    def __init__(self):
        self._done: list[tuple[Replacement, Any, Any, Any]] = []

    def apply(self, table: Iterable[Replacement]) -> None:
        """Replace what the table says, in its order. What this version of a library has not is left out."""
        for line in table:
            try:
                owner = pkgutil.resolve_name(line.owner)
            except (ImportError, AttributeError):
                continue
            own, value = _get(owner, line.name)
            if (value is ABSENT) is not line.added:
                continue
            new = line.make(None if line.added else value)
            if isinstance(new, types.FunctionType) and hasattr(new, "__wrapped__"):
                _name(new, owner, line.name)
            if _is_ours(new):
                stands_for(new, value)
            _set(owner, line.name, new)
            self._done.append((line, owner, own, new))

    def undo(self) -> None:
        """Put the originals back, last first. What somebody else replaced meanwhile is left to them."""
        while self._done:
            line, owner, own, new = self._done.pop()
            if _get(owner, line.name)[0] is new:
                _set(owner, line.name, own)
            else:
                logger.warning("%s was replaced by somebody else meanwhile and is left", line)

    def __iter__(self):
        """The lines in force."""
        return iter([line for line, *_ in self._done])
