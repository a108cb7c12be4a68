"""Has a module changed since its graph was captured?

A capture bakes in everything about a module but the values of its weights: submodules, flags, scales, attention
processors, LoRA state. A Snapshot keeps a shallow copy of every dictionary, list and set below the module and compares
each with what it is now; that runs at C speed and costs microseconds a module, so it is done before every call. So does
it with the state that foreign code reaches from there, and with what names resolve to (:mod:`..reach`).
"""

from __future__ import annotations

import operator
import types
from itertools import chain

import numpy as np
import torch

from ..compat.accelerate_hooks import PLACED
from ..compat.tensor_guards import Looks
from ..compat.torch_export import TABLES
from ..interruptions import raise_if_scripts
from ..reach import Reach
from ..settings import AnyNumber
from ..state import Change
from .resident import ResidentTensor
from .resolved import Resolved, weakly

_LEAVES = (int, float, complex, bool, str, bytes, type(None), type, types.FunctionType, types.MethodType,
           types.BuiltinFunctionType, types.ModuleType, torch.dtype, torch.device, torch.nn.Module)  # fmt: skip
_IRRELEVANT = frozenset({"_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
                         "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", *TABLES})  # fmt: skip
_held = operator.attrgetter("held")
_cell_contents = operator.attrgetter("cell_contents")
_DEPTH = 4
"""How far below a module's own attributes containers and plain objects are followed."""


class Snapshot:
    """Everything reachable from a module that a capture may depend on: tensors by identity, place, dtype, shape
    and strides (not by value), modules and other objects by identity, what they contain and plain values by value.

    slots: (container, key) of numbers, or lists of numbers, that are inputs of the graph: any will do there.
    covered: does the class's forward run, whatever a script put on the module itself?"""

    def __init__(self, module: torch.nn.Module, slots=(), covered: bool = False):
        self._asked = slots, covered
        self._slots: dict[int, list] = {}
        for container, key in slots:
            self._slots.setdefault(id(container), []).append(key)
            if type(container[key]) is list:
                self._slots[id(container[key])] = list(range(len(container[key])))
        self._tables: list[dict] = []  # compared by identity of their values
        self._empty: list = []  # containers that were, the most of them: hooks that nobody set
        self._live: list = []  # the others, and shallow copies of what they were:
        self._then: list = []  # compared by value, identical values first
        self._tensors: list[torch.Tensor] = []
        self._residents: list[ResidentTensor] = []
        self._seen: dict[int, object] = {}  # keeps what was seen alive, so that no id is used again
        self._covered = id(vars(module)) if covered and "forward" in vars(module) else None
        modules = list(module.modules())
        self._own = set(map(id, _weights(module)))
        for m in modules:
            self._add_module(m)
        reach = Reach(modules, covered=module if covered else None)
        self._add_foreign(reach)
        self._resolved = Resolved(reach)
        self._objects = modules[1:] + reach.modules  # whoever holds the Snapshot must not hold the module itself
        self._types = list(map(type, self._objects))
        self._empty += [table for table in self._tables if not table]
        self._tables = [table for table in self._tables if table]
        self._lengths = list(map(len, self._tables))
        self._keys = list(chain.from_iterable(self._tables))
        self._values = list(chain.from_iterable(map(dict.values, self._tables)))
        self._held = list(map(_held, self._residents))
        self._places = self._now()
        self._looks = Looks(self._tensors)

    def same(self) -> bool:
        """True while nothing but the values of tensors changed."""
        try:
            return (
                all(map(operator.is_, chain.from_iterable(map(dict.values, self._tables)), self._values))
                and self._rest_is_same()
                and self._now() == self._places
            )
        except Exception as error:  # noqa: BLE001 - a comparison came down to tensors, a script's __eq__, an empty cell
            raise_if_scripts(error)
            return False

    def _rest_is_same(self) -> bool:
        return (
            not any(self._empty)
            and list(map(len, self._tables)) == self._lengths
            and list(chain.from_iterable(self._tables)) == self._keys
            and all(map(operator.eq, self._then, self._live))  # what was decides, not a script's own ``__eq__``
            and all(map(operator.is_, map(_held, self._residents), self._held))
            and self._contents == self._cell_contents()
            and list(map(type, self._objects)) == self._types
            and self._resolved.same()
            and self._looks.same()
        )

    def moved(self) -> dict[int, torch.Tensor] | None:
        """Where tensors lie elsewhere now, or others alike are in their places in tables, and nothing else changed:
        id of one that was replaced → that in its place. None otherwise."""
        try:
            if not self._rest_is_same():
                return None
        except Exception as error:  # noqa: BLE001 - as in same
            raise_if_scripts(error)
            return None
        now = chain.from_iterable(map(dict.values, self._tables))
        replaced = [(a, b) for a, b in zip(self._values, now) if a is not b]
        return {id(a): b for a, b in replaced} if all(_alike(a, b) for a, b in replaced) else None

    def has_weights_of(self, module: torch.nn.Module) -> bool:
        """Are all weights that the module had then its own now?"""
        return self._own.issubset(map(id, _weights(module)))

    def again(self, module: torch.nn.Module) -> Snapshot:
        """A new one of the module as it is now."""
        return Snapshot(module, *self._asked)

    def _add_foreign(self, reach: Reach) -> None:
        self._foreign = set(map(id, reach.containers))
        self._cells = [c for c in reach.containers if isinstance(c, types.CellType)]
        self._arrays = [c for c in reach.containers if isinstance(c, np.ndarray)]
        self._contents = list(map(weakly, self._cell_contents()))
        for container in reach.containers:
            if id(container) not in self._seen and not isinstance(container, (types.CellType, np.ndarray)):
                self._seen[id(container)] = container
                if isinstance(container, dict):
                    self._keep(container)
                else:
                    copy = container if isinstance(container, set) else map(weakly, container)
                    self._equals(container, type(container)(copy))
        for t in reach.tensors:
            self._add_tensor(t)
        for m in reach.modules:
            self._add_module(m)

    def foreign_changes(self) -> list[Change]:
        """Of what changed, the state of foreign code, and names that mean something else now."""
        changed = [o for o, then in zip(self._live, self._then) if id(o) in self._foreign and _differs(o, then)]
        changed += [o for o in self._empty if id(o) in self._foreign and o]
        try:
            now = self._cell_contents()
        except ValueError:  # an empty cell
            now = [None] * len(self._contents)
        changed += [c for c, a, b in zip(self._cells + self._arrays, now, self._contents) if _differs(a, b)]
        return [Change(o) for o in changed] + [Change(m, (key,)) for m, key in self._resolved.changed()]

    def _cell_contents(self) -> list:
        """Of a tensor, which it is: equality of two may be true of different ones."""
        values = map(_cell_contents, self._cells)
        return [id(v) if isinstance(v, torch.Tensor) else v for v in values] + [a.tobytes() for a in self._arrays]

    def _now(self) -> list[int]:
        """Where each tensor lies."""
        return list(map(torch.Tensor.data_ptr, self._tensors))

    def _equals(self, live, then) -> None:
        if then:
            self._live.append(live)
            self._then.append(then)
        else:
            self._empty.append(live)

    def _add_module(self, m: torch.nn.Module) -> None:
        attributes = vars(m)
        for name in TABLES:
            self._tables.append(attributes[name])
        for table in (attributes["_parameters"], attributes["_buffers"]):
            for t in table.values():
                self._add_tensor(t)
        self._add(attributes, _DEPTH, _IRRELEVANT)

    def _add_tensor(self, t) -> None:
        if isinstance(t, ResidentTensor):  # it has no place; asking would fetch it
            self._residents.append(t)
        elif t is not None:
            self._tensors.append(t)

    def _add(self, o, depth: int, skip=frozenset()) -> None:
        """Follow a container, or the attributes of an object."""
        if isinstance(o, _LEAVES) or id(o) in self._seen or depth < 0:
            return
        self._seen[id(o)] = o
        if isinstance(o, torch.Tensor):
            self._add_tensor(o)
            return
        if isinstance(o, dict):
            self._keep(o)
            children = [v for k, v in o.items() if k not in skip]
        elif isinstance(o, (list, set)):
            self._equals(o, self._expected(o, type(o)(map(weakly, o) if isinstance(o, list) else o)))
            children = list(o)
        elif isinstance(o, (tuple, frozenset)):
            children = list(o)
        else:
            children = [vars(o)] if hasattr(o, "__dict__") else []
            depth += 1
        for child in children:
            self._add(child, depth - 1)

    def _keep(self, o: dict) -> None:
        self._equals(o, self._expected(o, {k: weakly(v) for k, v in o.items()}))
        if any(isinstance(v, torch.Tensor) for v in o.values()):  # two different ones may be equal
            self._tables.append(o)

    def _expected(self, o, copy):
        for key in self._slots.get(id(o), ()):
            copy[key] = [AnyNumber() for _ in o[key]] if type(o[key]) is list else AnyNumber()
        if id(o) == self._covered:
            copy |= {name: _Anything() for name in ("forward", *PLACED) if name in copy}
        return copy


def _weights(module: torch.nn.Module):
    return chain(module.parameters(), module.buffers())


class _Anything:
    def __eq__(self, other):
        return True

    __hash__ = None


def _alike(a, b) -> bool:
    """Are both tensors, equal in all but place and numbers?"""
    if type(a) is not type(b) or not isinstance(a, torch.Tensor) or isinstance(a, ResidentTensor):
        return False
    look = lambda t: (t.dtype, t.shape, t.stride(), t.device, t.requires_grad, t.is_inference())  # noqa: E731
    return look(a) == look(b)


def _differs(now, then) -> bool:
    try:
        return not then == now
    except Exception as error:  # noqa: BLE001 - a comparison came down to tensors, or to a script's own __eq__
        raise_if_scripts(error)
        return True
