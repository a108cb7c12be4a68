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

from .compat.torch_export import version_of
from .gate import gate
from .reach import Reach, globals_in

_ABSENT = object()
LARGEST = 2**26
"""Bytes of a tensor whose values are remembered."""
_SEQUENCES = (list, tuple, collections.deque)


@dataclass(frozen=True)
class Change:
    """container: the object; None where random numbers were drawn. keys: of a dictionary, an object's attributes or a
    class what became other, else empty."""

    container: Any
    keys: tuple = ()


class State:
    """The attributes and tables of modules, and every mutable object, foreign class, global of foreign code and
    memoised function of a Reach, by identity of what they contain; tensors of foreign code, which export writes to, by
    value; the random states of Python and NumPy. tracing: without tensors, since looking at them would be traced."""

    def __init__(self, modules: Iterable[torch.nn.Module], reach: Reach, tracing: bool = False):
        found = {id(o): o for o in reach.mutable}
        for m in modules:
            _add_containers(vars(m), found)
        self._known = [(o, contents(o)) for o in found.values()]
        self._classes = [(cls, dict(vars(cls))) for cls in reach.classes]
        self._globals = [(f.__globals__, _named(f)) for f in reach.foreign]
        self._tensors = [] if tracing else _remembered(_own_tensors(modules, reach))
        self._caches = [(cache, cache.cache_info().misses) for cache in reach.caches]
        self._random = random.getstate(), np.random.get_state()

    def changes(self) -> list[Change]:
        """What has become other. (Copies of containers, as torch.export makes them, are no change.)"""
        known = [(o, contents(o), then) for o, then in self._known + self._classes]
        changes = [Change(o, _changed(now, then)) for o, now, then in known if not _equivalent(now, then)]
        for attributes, then in self._globals:
            names = tuple(n for n, v in then.items() if attributes.get(n, _ABSENT) is not v)
            changes += [Change(attributes, names)] if names else []
        changes += [Change(t) for t, version, _ in self._tensors if version_of(t) != version]
        if random.getstate() != self._random[0] or not _equal_states(np.random.get_state(), self._random[1]):
            changes.append(Change(None))
        return changes

    def put_back(self) -> list[Change]:
        """Make everything as it was; what had changed."""
        changes = self.changes()
        for o, then in self._known:
            if not same(contents(o), then):
                _fill(o, then)
        for cls, then in self._classes:
            for name in _changed(contents(cls), then):
                delattr(cls, name) if name not in then else setattr(cls, name, then[name])
        for attributes, then in self._globals:
            for name, value in then.items():
                attributes.pop(name, None) if value is _ABSENT else attributes.update({name: value})
        for t, version, values in self._tensors:
            if version_of(t) != version:
                with torch.no_grad():
                    t.copy_(values)
        for cache, misses in self._caches:
            if cache.cache_info().misses != misses:
                cache.cache_clear()
        if gate.threads() <= 1:  # others, too, may have drawn, and must not be given the same numbers again
            random.setstate(self._random[0])
            np.random.set_state(self._random[1])
        return changes


def _add_containers(o, found: dict) -> None:
    """A module's attributes, and every container below them: tables, hooks that a library installs while it runs."""
    found[id(o)] = o
    for v in o.values() if isinstance(o, dict) else o:
        if isinstance(v, (dict, list, set, collections.deque)) and id(v) not in found:
            _add_containers(v, found)


def _own_tensors(modules, reach: Reach) -> list[torch.Tensor]:
    """Of foreign code, and attributes of modules that are neither parameters nor buffers."""
    attributes = [v for m in modules for v in vars(m).values() if type(v) is torch.Tensor]
    found = {id(t): t for t in (*attributes, *reach.tensors) if type(t) is torch.Tensor and not t.is_meta}
    return [t for t in found.values() if t.nbytes <= LARGEST]


def _named(function) -> dict:
    """Globals that it may read or write, those that are not there included."""
    return {name: function.__globals__.get(name, _ABSENT) for name in globals_in(function.__code__)}


def _remembered(tensors) -> list[tuple]:
    with torch.inference_mode(False), torch.no_grad():
        return [(t, version_of(t), t.detach().clone()) for t in tensors]


def contents(o):
    """A copy of what a mutable object holds."""
    if isinstance(o, dict):
        return dict(o)
    if isinstance(o, type):
        return dict(vars(o))
    if isinstance(o, torch.Tensor):
        return o.detach().numpy().tobytes()
    if isinstance(o, types.CellType):
        try:
            return [o.cell_contents]
        except ValueError:  # empty
            return []
    if isinstance(o, np.ndarray):
        return o.tobytes()
    return list(o)


def same(now, then) -> bool:
    if isinstance(then, bytes):
        return now == then
    if len(now) != len(then):
        return False
    if isinstance(then, dict):
        return all(a is b and now[a] is then[a] for a, b in zip(now, then))
    return all(a is b for a, b in zip(now, then))


def _equivalent(now, then) -> bool:
    """The same, or containers of the same things."""
    if now is then or isinstance(then, bytes) and now == then:
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
        if list(o) != list(contents):  # otherwise no other thread sees it empty
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
