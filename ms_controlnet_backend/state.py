"""What Python objects contain, remembered before a module is traced and put back afterwards.

Tracing runs upstream's and the script's own code on fake tensors. Whatever that code keeps (a table in an attribute, a
feature in a list, a counter in a closure) would be a fake one, or counted once too often, when the module is next run.
"""

from __future__ import annotations

import collections
import random
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .compat.torch_export import TABLES
from .reach import Reach

_ABSENT = object()
_SEQUENCES = (list, tuple, collections.deque)


@dataclass(frozen=True)
class Change:
    """container: the object; None where random numbers were drawn. keys: of a dictionary, an object's attributes or a
    class what became other, else empty."""

    container: Any
    keys: tuple = ()


class State:
    """The attributes and tables of modules, and every mutable object, foreign class and memoised function of a Reach,
    by identity of what they contain; the random states of Python and NumPy."""

    def __init__(self, modules: Iterable[torch.nn.Module], reach: Reach):
        found = [table for m in modules for table in (vars(m), *(vars(m)[name] for name in TABLES))] + reach.mutable
        self._known = [(o, contents(o)) for o in {id(o): o for o in found}.values()]
        self._classes = [(cls, dict(vars(cls))) for cls in reach.classes]
        self._caches = [(cache, cache.cache_info().misses) for cache in reach.caches]
        self._random = random.getstate(), np.random.get_state()

    def put_back(self) -> list[Change]:
        """Make everything as it was; what had changed. (torch.export leaves copies of containers: no change.)"""
        changes = []
        for o, then in self._known:
            now = contents(o)
            if not _same(now, then):
                if not _equivalent(now, then):
                    changes.append(Change(o, _changed(now, then)))
                _fill(o, then)
        for cls, then in self._classes:
            names = _changed(dict(vars(cls)), then)
            for name in names:
                delattr(cls, name) if name not in then else setattr(cls, name, then[name])
            if names:
                changes.append(Change(cls, names))
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()
        if random.getstate() != self._random[0] or not _equal_states(np.random.get_state(), self._random[1]):
            changes.append(Change(None))
            random.setstate(self._random[0])
            np.random.set_state(self._random[1])
        return changes


def contents(o):
    """A copy of what a mutable object holds."""
    if isinstance(o, dict):
        return dict(o)
    if isinstance(o, types.CellType):
        try:
            return [o.cell_contents]
        except ValueError:  # empty
            return []
    if isinstance(o, np.ndarray):
        return o.tobytes()
    return list(o)


def _same(now, then) -> bool:
    if isinstance(then, bytes):
        return now == then
    if len(now) != len(then):
        return False
    if isinstance(then, dict):
        return all(a is b and now[a] is then[a] for a, b in zip(now, then))
    return all(a is b for a, b in zip(now, then))


def _equivalent(now, then) -> bool:
    """The same, or containers of the same things."""
    if now is then:
        return True
    if type(now) is not type(then) or not isinstance(then, (dict, *_SEQUENCES)) or len(now) != len(then):
        return False
    if isinstance(then, dict):
        return now.keys() == then.keys() and all(_equivalent(now[k], v) for k, v in then.items())
    return all(map(_equivalent, now, then))


def _changed(now, then) -> tuple:
    if not isinstance(then, dict):
        return ()
    return tuple(k for k in now.keys() | then.keys() if not _equivalent(now.get(k, _ABSENT), then.get(k, _ABSENT)))


def _fill(o, contents) -> None:
    if isinstance(o, dict):
        if list(o) == list(contents):
            o.update(contents)
        else:
            o.clear()
            o.update(contents)
    elif isinstance(o, list):
        o[:] = contents
    elif isinstance(o, types.CellType):
        if contents:
            o.cell_contents = contents[0]
        else:
            del o.cell_contents
    elif isinstance(o, np.ndarray):
        o[...] = np.frombuffer(contents, o.dtype).reshape(o.shape)
    else:
        o.clear()
        o.extend(contents) if isinstance(o, collections.deque) else o.update(contents)


def _equal_states(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other))
