"""A straight-line MindSpore program: what lowerings record and :mod:`..codegen` writes out."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the program. shape: static sizes. dtype: MindSpore's name of it, e.g. ``"float32"``."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS


@dataclass(frozen=True)
class DType:
    """A dtype as an argument of a call: rendered ``ms.float32``."""

    name: str


@dataclass
class Instruction:
    """``outputs = callee(*args)``. callee: a primitive class with its attributes, or the dotted path of a function.
    effect: does it do something beside its outputs, so that it is never dropped and keeps its place among such?"""

    effect = False
    callee: str
    attributes: dict[str, Any]
    args: tuple
    outputs: tuple[Value, ...]
    origin: str


@dataclass
class Program:
    """inputs and outputs in call order; weights: value → the torch tensor the runtime feeds it in the value's shape,
    those in constants belonging to the program and not to the module, those in prepared after that function. choices:
    ATen overload → way of computing it → how often it was chosen."""

    name: str
    inputs: list[Value] = field(default_factory=list)
    weights: dict[Value, Any] = field(default_factory=dict)
    prepared: dict[Value, Callable] = field(default_factory=dict)
    constants: set[Value] = field(default_factory=set)
    instructions: list[Instruction] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    choices: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))


def broadcast_shape(*shapes) -> tuple[int, ...]:
    rank = max(len(s) for s in shapes)
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded))
