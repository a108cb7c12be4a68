"""Numbers kept inside a module (LoRA and IP-Adapter scales) that are fed to its graph instead of being baked in.

A *slot* is a place of such a number, or of a list of them: a dictionary or list that the module owns, and a key in it.
While the module is traced, a :class:`Symbol` lies in place of every number: it stands for one element of a vector that
is an input of the graph.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import threading
from collections.abc import Iterable

import torch

from .errors import Refused

OWNER = "*settings"  # in Structure.owners; no argument can have this name


class Settings:
    """The slots of one module, in a fixed order. A slot that holds something else is left out: it is baked in."""

    def __init__(self, slots: Iterable[tuple] = ()):
        unique = {(id(container), key): (container, key) for container, key in slots}
        self.slots = [(c, k) for c, k in unique.values() if is_number(c[k]) or is_list(c[k])]
        self._values: tuple = ()
        self._tensor: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.values())

    def values(self) -> tuple:
        values = [container[key] for container, key in self.slots]
        if list not in map(type, values):
            return tuple(values)
        return tuple([n for v in values for n in (v if type(v) is list else (v,))])

    def tensors(self) -> list[torch.Tensor]:
        """What is fed for the slots: nothing, or a float32 vector (the same tensor while the numbers are the same)."""
        values = self.values()
        if not values:
            return []
        if self._tensor is None or values != self._values:
            with torch.inference_mode(False):
                self._tensor, self._values = torch.tensor(values, dtype=torch.float32), values
        return [self._tensor]

    @contextlib.contextmanager
    def traced(self, vector: torch.Tensor):
        """Symbols for the elements of the vector lie in the slots. Raises Refused if the code inside wrote to one."""
        elements = map(vector.__getitem__, itertools.count())
        put = [(c, k, c[k], _symbols(c[k], elements)) for c, k in self.slots]
        made = [list(symbols) if type(symbols) is list else symbols for *_, symbols in put]
        written = False
        try:
            for container, key, _, symbols in put:
                container[key] = symbols
            yield
        finally:
            for slot, own in zip(put, made):
                written |= _restored(*slot, own)
        if written:
            raise Refused("the module writes to its own settings while it runs")


def _symbols(value, elements):
    """In place of a number, or of a list of them."""
    if type(value) is list:
        return [Symbol(next(elements), n) for n in value]
    return Symbol(next(elements), value)


def _restored(container, key, was, symbols, made) -> bool:
    """Puts back what was; was it written to by what is traced? What another thread wrote, plain numbers, stays."""
    now = container[key]
    if now is not symbols:
        if any(isinstance(n, Symbol) for n in (now if type(now) is list else [now])):
            container[key] = was
            return True
        return False
    container[key] = was
    if type(was) is not list or len(symbols) == len(made) and all(map(operator.is_, symbols, made)):
        return False
    if len(symbols) != len(made) or any(isinstance(n, Symbol) and n is not m for n, m in zip(symbols, made)):
        return True
    was[:] = [old if n is m else n for n, m, old in zip(symbols, made, was)]
    return False


def is_number(value) -> bool:
    return type(value) in (int, float)


def is_list(value) -> bool:
    """Of numbers, at least one."""
    return type(value) is list and bool(value) and all(map(is_number, value))


class AnyNumber:
    """Equal to every plain number: what a comparison expects in a slot."""

    def __eq__(self, other):
        return is_number(other)

    __hash__ = None


def _operator(function, swapped=False, neutral=None):
    """neutral: a number that changes nothing, so that a module which multiplies a setting of its own by 1 and divides
    it again (diffusers' LoRA scales before 0.28) does not write to it."""

    def method(self, other):
        if not isinstance(other, (Symbol, torch.Tensor)) and not is_number(other):
            return NotImplemented
        if neutral is not None and is_number(other) and other == neutral:
            return self
        a, b = self.now(), _now(other)
        result = function(b, a) if swapped else function(a, b)
        if isinstance(other, torch.Tensor) or not isinstance(result, torch.Tensor):
            return result
        return Symbol(result, None, self.thread)

    return method


class Symbol:
    """Stands for a number that is known when the graph runs. Whatever needs to know it before raises TypeError, and
    the module is then captured with its numbers baked in.

    Not equal to 0 or 1: code that asks takes a shortcut there, with the same result. In other threads than the one
    that traces, it is the number.
    """

    def __init__(self, tensor: torch.Tensor, number, thread: int | None = None):
        self.tensor, self.number, self.thread = tensor, number, thread or threading.get_ident()

    def now(self):
        return self.tensor if threading.get_ident() == self.thread else self.number

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        args = [_unwrap(a) for a in args]
        return function(*args, **{k: _unwrap(v) for k, v in (kwargs or {}).items()})

    def __eq__(self, other):
        if threading.get_ident() != self.thread:
            return self.number == other
        if is_number(other) and other in (0, 1):
            return False
        raise TypeError(f"a setting is compared with {other!r} while its module is traced")

    def __bool__(self):
        if threading.get_ident() != self.thread:
            return bool(self.number)
        raise TypeError("the truth of a setting is asked for while its module is traced")

    __hash__ = None
    __mul__, __rmul__ = _operator(operator.mul, neutral=1), _operator(operator.mul, swapped=True, neutral=1)
    __truediv__, __rtruediv__ = _operator(operator.truediv, neutral=1), _operator(operator.truediv, swapped=True)
    __add__, __radd__ = _operator(operator.add), _operator(operator.add, swapped=True)
    __sub__, __rsub__ = _operator(operator.sub), _operator(operator.sub, swapped=True)

    def __neg__(self):
        return self * -1


def _now(value):
    return value.now() if isinstance(value, Symbol) else value


def _unwrap(value):
    if type(value) in (list, tuple):
        return type(value)(_unwrap(v) for v in value)
    return _now(value)
