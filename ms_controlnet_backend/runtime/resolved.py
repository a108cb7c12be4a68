"""Do the names that a forward reads still mean what they meant when its graph was captured?

Scripts replace functions: torch's attention in its namespace, a block class's ``forward``, a name that a processor
reads. All of them are looked up and compared in a few operations at C speed.
"""

from __future__ import annotations

import operator
import types
import weakref

import torch

from ..compat import libraries
from ..compat.replacements import ABSENT, original_of, originals_of
from ..interruptions import raise_if_scripts
from ..reach import Reach


class _Same:
    """Equal to one object, held weakly: whoever drops a pipeline that foreign code refers to wants its memory back."""

    __slots__ = ("_reference", "_function")
    __hash__ = None

    def __init__(self, o, function=None):
        self._reference, self._function = weakref.ref(o), function

    def __eq__(self, other):
        if self._function is not None:
            if getattr(other, "__func__", None) is not self._function:
                return False
            other = other.__self__
        return self._reference() is other


def weakly(v):
    """The value, or what is equal to it alone and does not keep it alive, where it may belong to the script."""
    if isinstance(v, (type, types.ModuleType, torch.Tensor, dict, list, set, frozenset, tuple)):
        return v
    if isinstance(v, types.FunctionType) and libraries.is_library(v):
        return v
    if isinstance(v, types.BuiltinFunctionType) and isinstance(v.__self__, (type(None), type, types.ModuleType)):
        return v
    try:
        if isinstance(v, types.MethodType):
            return _Same(v.__self__, v.__func__)
        return _Same(v)
    except TypeError:  # numbers, texts
        return v


class Resolved:
    """names: those that may be looked up in a class."""

    def __init__(self, reach: Reach):
        self._names = frozenset(reach.names)
        self._classes = [owner for owner, _, _ in reach.namespaces if isinstance(owner, type)]
        entries = [(m, name, value) for _, m, found in reach.namespaces for name, value in found.items()]
        self._mappings, self._keys = [e[0] for e in entries], [e[1] for e in entries]
        self._values = [weakly(value) for _, _, value in entries]
        self._dicts = list(map(vars, self._classes))
        self._known = [frozenset(d) for d in self._dicts]
        self._sizes = list(map(len, self._dicts))

    def same(self) -> bool:
        try:
            if list(map(len, self._dicts)) == self._sizes and self._values == self._now():
                return True
        except Exception as error:  # noqa: BLE001 - gone; or a comparison came down to tensors or a script's __eq__
            raise_if_scripts(error)
        return self._same_but_for_dispatchers()

    def changed(self) -> list[tuple]:
        """(mapping, name) of what means something else."""
        entries = zip(self._mappings, self._keys, self._values)
        return [(m, key) for m, key, then in entries if not _means(m.get(key, ABSENT), then)]

    def _now(self) -> list:
        return list(map(operator.getitem, self._mappings, self._keys))

    def _same_but_for_dispatchers(self) -> bool:
        """A class whose instances are intercepted, or no longer, has another ``forward`` that does the same."""
        for mapping, key, then in zip(self._mappings, self._keys, self._values):
            if not _means(mapping.get(key, ABSENT), then):
                return False
        for cls, attributes, known in zip(self._classes, self._dicts, self._known):
            for name in self._names.intersection(attributes).difference(known):
                if original_of(attributes[name]) is not _inherited(cls, name):
                    return False
        self._values = [weakly(m.get(k, ABSENT)) for m, k in zip(self._mappings, self._keys)]
        self._known = [frozenset(d) for d in self._dicts]
        self._sizes = list(map(len, self._dicts))
        return True


def _inherited(cls: type, name: str):
    for base in cls.__mro__[1:]:
        if name in vars(base):
            return original_of(vars(base)[name])
    return ABSENT


def _means(now, then) -> bool:
    """The same, whatever this package itself put in its place."""
    return now is then or any(a is b for a in originals_of(now) for b in originals_of(then)) or _equal(now, then)


def _equal(now, then) -> bool:
    """Of numbers, texts and tuples of them, and of what is held weakly."""
    if isinstance(then, _Same):
        return then == now
    if type(now) is not type(then) or not isinstance(now, (int, float, complex, str, bytes, tuple)):
        return False
    try:
        return bool(now == then)
    except Exception as error:  # noqa: BLE001 - as above
        raise_if_scripts(error)
        return False
