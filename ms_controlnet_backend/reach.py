"""What a forward may read besides tensors: found by reading its code, without running anything.

A capture keeps what Python did while it was traced. So it depends on every function that was met, on what these resolve
their names to (globals of a module, attributes of a class), and, where the code is foreign, on the state it reaches:
closure cells, defaults, ``__self__``, attributes, containers. Foreign is what no library of :mod:`.compat.libraries`
brings.

As in rapid type analysis (Bacon and Sweeney, OOPSLA 1996), a method counts as met if its class was reached and any
function that was met reads an attribute of its name. That finds too much, never too little, save for names that are
made while running (``getattr`` with anything but a literal).
"""

from __future__ import annotations

import collections
import dis
import functools
import types
from collections.abc import Iterable

import torch

from .compat import libraries
from .compat.replacements import original_of
from .compat.torch_export import TABLES

_PLAIN = (int, float, complex, bool, str, bytes, type(None), type(...), type(NotImplemented), torch.dtype, torch.device,
          torch.Size, torch.layout, torch.memory_format, range, slice)  # fmt: skip
_CONTAINERS = (dict, list, set, collections.deque)
_WRAPPERS = (staticmethod, classmethod)
_CACHE = type(functools.lru_cache(lambda: None))
_UNREAD = frozenset("""__init__ __new__ __repr__ __str__ __del__ __reduce__ __reduce_ex__ __getstate__ __setstate__
    __init_subclass__ __class_getitem__ __deepcopy__ __copy__ __dir__ __format__ __sizeof__""".split())
LARGEST = 10_000
"""Entries of a container that is followed."""


@functools.lru_cache(16384)
def names_in(code: types.CodeType) -> frozenset[str]:
    """Names of globals and attributes that a function reads or writes, and literals that may be such names."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= names_in(constant)
        elif isinstance(constant, str) and constant.isidentifier():
            names.add(constant)
    return frozenset(names)


@functools.lru_cache(16384)
def globals_in(code: types.CodeType) -> frozenset[str]:
    """Of these names the globals alone, which costs more to find out."""
    names = {i.argval for i in dis.get_instructions(code) if i.opname.endswith(("_GLOBAL", "_NAME"))}
    return frozenset(names.union(*(globals_in(c) for c in code.co_consts if isinstance(c, types.CodeType))))


class Scope:
    """Something whose attributes are found by name: a class, or an object with a ``__dict__``."""

    def __init__(self, owner, mapping, foreign: bool):
        self.owner, self.mapping, self.foreign = owner, mapping, foreign
        self.done: set[str] = set()
        self.done_foreign: set[str] = set()


class Reach:
    """What the forwards of some modules reach.

    names: read by the functions met. foreign_names: those that foreign functions read. foreign: these functions.
    namespaces: (owner, mapping, {name: value}): what names resolved to in modules, in classes and, where foreign code
    asks a library's object, there. mutable: every dictionary (of objects, of functions, or plain), list, set, deque,
    cell and array that was met. containers: those of foreign code. classes: foreign ones. tensors: that foreign code
    reaches. modules: reached by foreign code, outside the tree. caches: memoised functions. unfollowed: why something
    cannot be followed. untraceable: why nothing but an ordinary tensor can go through it.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], tree: Iterable = (), covered: torch.nn.Module | None = None):
        """tree: further modules that are not followed, whoever refers to them. covered: one of the modules, of which
        the class's forward runs, whatever a script put on the instance."""
        self.names: set[str] = {"forward", "__call__"}
        self.foreign_names: set[str] = set()
        self.foreign: list[types.FunctionType] = []
        self.containers: list = []
        self.mutable: list = []
        self.classes: list[type] = []
        self.tensors: list[torch.Tensor] = []
        self.modules: list[torch.nn.Module] = []
        self.caches: list = []
        self.unfollowed: list[str] = []
        self.untraceable: list[str] = []
        self._namespaces: dict[int, tuple] = {}
        self._scopes: list[Scope] = []
        self._seen: dict = {}
        self._pending: list[tuple] = []
        modules, self._covered = list(modules), covered
        self._tree = {id(m) for m in (*modules, *tree)}
        for m in modules:
            self._module(m)
        while self._drain() or self._look_up():
            pass

    @property
    def namespaces(self) -> list[tuple]:
        return list(self._namespaces.values())

    # -- following --------------------------------------------------------------------------------------------------

    def _new(self, o, *more) -> bool:
        key = (id(o), *more)
        if key in self._seen:
            return False
        self._seen[key] = o  # kept alive, so that no id is used again
        return True

    def _drain(self) -> bool:
        worked = bool(self._pending)
        while self._pending:
            self._follow(*self._pending.pop())
        return worked

    def _look_up(self) -> bool:
        """Read the names found so far in every scope; were there new ones?"""
        worked = False
        for scope in list(self._scopes):
            wanted = self.names if not scope.foreign else self.foreign_names
            for name in wanted.intersection(scope.mapping).difference(scope.done):
                scope.done.add(name)
                self._attribute(scope, name, scope.foreign or _is_foreign_class(scope.owner))
                worked = True
            if isinstance(scope.owner, torch.nn.Module):  # of a library's class, with what foreign code put on it
                for name in self.foreign_names.intersection(scope.mapping).difference(scope.done_foreign):
                    scope.done_foreign.add(name)
                    self._attribute(scope, name, True)
                    worked = True
        return worked

    def _attribute(self, scope: Scope, name: str, foreign: bool) -> None:
        value = scope.mapping[name]
        if isinstance(scope.owner, type) or scope.foreign:
            self._resolved(scope.owner, scope.mapping, name, value)
        self._pending.append((value, foreign, frozenset()))

    def _resolved(self, owner, mapping, name: str, value) -> None:
        self._namespaces.setdefault(id(owner), (owner, mapping, {}))[2][name] = value

    def _follow(self, v, foreign: bool, names: frozenset) -> None:
        """names: those of the function that read this value: what it looks up in a module it imported."""
        if isinstance(v, _PLAIN) or v is None:
            return
        v = original_of(v)
        if isinstance(v, types.FunctionType):
            self._function(v)
        elif isinstance(v, types.MethodType):
            self._pending += [(v.__func__, foreign, names), (v.__self__, foreign or _is_foreign(v.__func__), names)]
        elif isinstance(v, types.ModuleType):
            self._imported(v, foreign, names)
        elif isinstance(v, type):
            self._class(v)
        elif isinstance(v, torch.nn.Module):
            if (foreign or _is_foreign_class(v)) and id(v) not in self._tree and self._new(v):
                self.modules.append(v)
                for m in v.modules():
                    self._module(m)
        elif isinstance(v, torch.Tensor):
            if foreign and self._new(v):
                self.tensors.append(v)
        elif isinstance(v, functools.partial):
            foreign = foreign or _is_foreign(v.func)
            self._pending += [(x, foreign, names) for x in (v.func, *v.args, *v.keywords.values())]
        elif isinstance(v, _CACHE):
            if self._new(v):
                self.caches.append(v)
                self._pending.append((v.__wrapped__, foreign, names))
        elif isinstance(v, _WRAPPERS):
            self._pending.append((v.__func__, foreign, names))
        elif isinstance(v, property):
            self._pending += [(f, foreign, names) for f in (v.fget, v.fset) if f is not None]
        elif isinstance(v, (types.BuiltinFunctionType, types.MethodWrapperType)):
            owner = getattr(v, "__self__", None)
            if foreign and not self._effectful(getattr(v, "__module__", None) or type(owner).__module__, v.__name__):
                self._pending.append((owner, True, names))
        elif isinstance(v, (*_CONTAINERS, tuple, frozenset, types.MappingProxyType)):
            self._container(v, foreign, names)
        else:
            self._object(v, foreign)

    def _function(self, f: types.FunctionType) -> None:
        foreign = not libraries.is_library(f)
        if libraries.asks_for_itself(f):
            self.untraceable.append(f"torch.nn.functional.{f.__name__} was replaced, and asks for itself by that name")
        if not (foreign or libraries.is_read(f)) or not self._new(f):
            return
        names = names_in(f.__code__)
        self.names |= names
        read = globals_in(f.__code__) if foreign else names
        found = {name: f.__globals__[name] for name in read if name in f.__globals__}
        for name, value in found.items():
            self._resolved(f.__globals__, f.__globals__, name, value)
            self._pending.append((value, foreign, names))
        if foreign:
            self.foreign.append(f)
            self.foreign_names |= names
            self._unresolved(names.difference(found), f)
            self._keeps(vars(f), True)
            self._pending += [(v, True, names) for v in vars(f).values()]
        for cell in f.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # empty
                continue
            if self._new(cell, foreign):
                self._keeps(cell, foreign)
            self._pending.append((value, foreign, names))
        for value in (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()):
            self._pending.append((value, foreign, names))

    def _unresolved(self, names, f) -> None:
        """Builtins, and modules that the function itself imports."""
        for name in names:
            if name in libraries.EFFECTFUL_BUILTINS and name in f.__code__.co_names:
                self.unfollowed.append(f"{_name(f)} calls {name}()")
            elif name in libraries.EFFECTS and _imports(f.__code__, name):
                self.unfollowed.append(f"{_name(f)} uses {name}")

    def _imported(self, module: types.ModuleType, foreign: bool, names: frozenset) -> None:
        if foreign and self._effectful(module.__name__):
            return
        if not self._new(module, names):
            return
        for name in names.intersection(vars(module)):
            value = vars(module)[name]
            if foreign and module is torch and name in libraries.EFFECTFUL_TORCH:
                self.unfollowed.append(f"foreign code calls torch.{name}")
            self._resolved(vars(module), vars(module), name, value)
            self._pending.append((value, foreign, names))

    def _keeps(self, container, foreign: bool) -> None:
        self.mutable.append(container)
        if foreign:
            self.containers.append(container)

    def _effectful(self, module: str | None, name: str = "") -> bool:
        found = libraries.is_effectful(module or "")
        if found:
            self.unfollowed.append(f"foreign code uses {module}{name and '.'}{name}")
        return found

    def _class(self, cls: type) -> None:
        for c in cls.__mro__:
            if c in (object, torch.nn.Module) or not self._new(c):
                continue
            self._scopes.append(Scope(c, vars(c), False))
            if _is_foreign_class(c):
                self.classes.append(c)
                special = [n for n, f in vars(c).items() if n.startswith("__") and isinstance(f, types.FunctionType)]
                self.names.update(n for n in special if n not in _UNREAD)

    def _module(self, m: torch.nn.Module) -> None:
        if not self._new(m, "module"):
            return
        self._class(type(m))
        without = (*TABLES, "forward") if m is self._covered else TABLES
        own = {k: v for k, v in vars(m).items() if k not in without and v is not None}
        self._scopes.append(Scope(m, own, False))

    def _container(self, v, foreign: bool, names: frozenset) -> None:
        if not self._new(v, foreign):
            return
        if len(v) > LARGEST:
            if foreign:
                self.unfollowed.append(f"foreign code reaches a {type(v).__name__} of {len(v)} entries")
            return
        if isinstance(v, _CONTAINERS):
            self._keeps(v, foreign)
        children = list(v.values()) if isinstance(v, (dict, types.MappingProxyType)) else list(v)
        self._pending += [(child, foreign, names) for child in children]

    def _object(self, v, foreign: bool) -> None:
        cls = type(v)
        foreign_class = _is_foreign_class(cls)
        foreign = foreign or foreign_class
        if not self._new(v, foreign):
            return
        if foreign and not foreign_class:
            if self._effectful(cls.__module__):
                return
            if hasattr(cls, "__next__"):
                self.unfollowed.append(f"foreign code reaches a {cls.__name__}")
                return
            if cls.__module__ == "numpy" and hasattr(v, "tobytes"):
                self._keeps(v, True)
                return
        self._class(cls)
        if hasattr(v, "__dict__"):
            self._keeps(vars(v), foreign_class)
            # of a library's object (a pipeline, a scheduler) only what foreign code asks it for
            self._scopes.append(Scope(v, vars(v), foreign and not foreign_class))
        if foreign_class and any(vars(c).get("__slots__") for c in cls.__mro__):
            self.unfollowed.append(f"foreign code reaches a {cls.__name__}, which has __slots__")


def _is_foreign(function) -> bool:
    """Of the user's own code? For what is bound to it then is state of foreign code."""
    return isinstance(function, types.FunctionType) and not libraries.is_library(function)


def _is_foreign_class(cls) -> bool:
    cls = cls if isinstance(cls, type) else type(cls)
    return cls.__module__.partition(".")[0] not in libraries.LIBRARIES


def _imports(code: types.CodeType, name: str) -> bool:
    """Does the function, or one inside it, import a module of this name?"""
    if name not in names_in(code):
        return False
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    here = any(i.opname == "IMPORT_NAME" and i.argval == name for i in dis.get_instructions(code))
    return here or any(_imports(c, name) for c in inner)


def _name(f) -> str:
    return getattr(f, "__qualname__", repr(f))
