"""Numbers kept inside a module (LoRA and IP-Adapter scales) that are fed to its graph instead of being baked in.

A *slot* is a place of such a number: a dictionary or list that the module owns, and a key in it. While the module is
traced, a :class:`Symbol` lies in every slot: it stands for one element of a vector that is an input of the graph.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Iterable

import torch

from .errors import Refused

OWNER = "*settings"  # in Structure.owners; no argument can have this name


class Settings:
    """The slots of one module, in a fixed order. A slot that holds no plain number is left out: it is baked in."""

    def __init__(self, slots: Iterable[tuple] = ()):
        unique = {(id(container), key): (container, key) for container, key in slots}
        self.slots = [(c, k) for c, k in unique.values() if is_number(c[k])]
        self._values: tuple = ()
        self._tensor: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.slots)

    def values(self) -> tuple:
        return tuple([container[key] for container, key in self.slots])

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
        put = [(c, k, c[k], Symbol(vector[i], c[k])) for i, (c, k) in enumerate(self.slots)]
        written = False
        try:
            for container, key, _, symbol in put:
                container[key] = symbol
            yield
        finally:
            for container, key, number, symbol in put:
                if container[key] is symbol:
                    container[key] = number
                elif isinstance(container[key], Symbol):  # otherwise another thread wrote a number: it stays
                    container[key] = number
                    written = True
        if written:
            raise Refused("the module writes to its own settings while it runs")


def is_number(value) -> bool:
    return type(value) in (int, float)


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
