"""A straight-line MindSpore program, and the builder that lowerings write it with.

A lowering never touches MindSpore: it records which primitive is called on which values, and says the shape and
dtype of what comes out. :mod:`..codegen` turns the record into source.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

from .cost import Kept
from .forms import Arranging, Forms, per_channel, samples_of_rows
from .program import FLOATS, DType, Instruction, Program, Value, broadcast_shape

FOLDED = 2**16
"""Elements up to which a tensor of one number is a constant and not computed."""


class Builder(Arranging):
    """Records the program. ``out`` is what torch says the node being lowered returns (compute dtypes). without: names
    of rewrites that are not to be made. kept: bounds the weights kept in another arrangement."""

    score_bytes: int | None = None
    """Of the largest matrix of attention scores held at once, where the target has its own limit."""

    def __init__(self, program: Program, target: str, compute_dtype, without=(), kept: Kept | None = None):
        self.program = program
        self.kept = kept or Kept()
        self.target = target
        self.compute_dtype = compute_dtype
        self.without = frozenset(without)
        self.out: Any = None
        self.origin = self.op = ""
        self._count = 0
        self._constants: dict[tuple, Value] = {}
        self._views: dict[tuple, Value] = {}
        self._forms = Forms()

    def finish(self, program: Program) -> Program:
        """The program that is to be run; called once, when all is lowered."""
        return program

    # -- recording ---------------------------------------------------------------------------------------------

    def call(self, callee: str, *args, shape=None, dtype=None, **attributes) -> Value:
        """Call a primitive (``"MatMul"`` of ``mindspore.ops``, attributes to its constructor) or, where the name has
        a dot, a function (``"mint.nn.functional.group_norm"``, attributes as keywords). The result has the shape and
        dtype of the first argument unless told otherwise."""
        first = next((a for a in args if isinstance(a, Value)), None)
        shape = first.shape if shape is None else shape
        return self.call_many(callee, *args, outputs=[(shape, dtype or first.dtype)], **attributes)[0]

    def call_many(self, callee: str, *args, outputs: Sequence[tuple], **attributes) -> tuple[Value, ...]:
        """Call something that returns several tensors; outputs: (shape, dtype) of each."""
        values = tuple(self._value(shape, dtype) for shape, dtype in outputs)
        self.program.instructions.append(Instruction(callee, attributes, args, values, self.origin))
        return values

    def _value(self, shape, dtype) -> Value:
        self._count += 1
        return Value(f"v{self._count}", tuple(int(s) for s in shape), dtype)

    def chosen(self, way: str, detail: str) -> None:
        """Say in the generated source, and to who asks for the coverage, in which way this operator is computed."""
        self.origin = f"{self.origin} ({way}, {detail})"
        self.program.choices[self.op][way] += 1

    def constant(self, array) -> Value:
        """A torch tensor as a constant of the program (fed like a weight)."""
        import torch

        bits = array.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        key = (tuple(array.shape), str(array.dtype), bits.numpy().tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            value = Value(name, tuple(array.shape), self.compute_dtype(array.dtype))
            self.program.weights[value] = array
            self.program.constants.add(value)
            self._constants[key] = value
        return self._constants[key]

    def full(self, shape, number, dtype: str) -> Value:
        """A tensor of one number."""
        import torch

        stored = shape if math.prod(shape) <= FOLDED else (1,) * len(shape)
        return self.broadcast(self.constant(torch.full(stored, number, dtype=getattr(torch, dtype))), shape)

    # -- dtypes and shapes -------------------------------------------------------------------------------------

    def cast(self, x: Value, dtype: str) -> Value:
        return x if x.dtype == dtype else self._elementwise("Cast", x, DType(dtype), dtype=dtype)

    def after(self, x: Value, done: Value | None) -> Value:
        """``x``, available only when ``done`` was computed. MindSpore starts whatever is ready: independent blocks of
        one large computation would all be held at once, and blocking would save no memory."""
        return x if done is None else self.call("Depend", x, done)

    # -- arithmetic --------------------------------------------------------------------------------------------

    def unary(self, name: str, x: Value, dtype: str | None = None) -> Value:
        return self._elementwise(name, self.cast(x, dtype) if dtype else x)

    def _elementwise(self, name: str, x: Value, *args, dtype: str | None = None) -> Value:
        """A function of each element, in the arrangement in which ``x`` is computed."""
        base = self._forms.rows.get(x) or self._forms.root(x)
        return self._arranged(self.call(name, base, *args, dtype=dtype), x)

    def _arranged(self, y: Value, like: Value) -> Value:
        """What was computed in the arrangement of ``_elementwise``, in the shape of ``like``."""
        return self.from_rows(y, like.shape) if like in self._forms.rows else self.reshape(y, like.shape)

    def binary(self, name: str, x, y, dtype: str | None = None, result: str | None = None) -> Value:
        """An elementwise primitive with NumPy broadcasting. x, y: values or Python numbers. dtype: what both are
        cast to first; result: dtype of the result where it is another one (comparisons)."""
        like = x if isinstance(x, Value) else y
        dtype = dtype or like.dtype
        x, y = (self._operand(a, dtype) for a in (x, y))
        shape = broadcast_shape(*(a.shape for a in (x, y) if isinstance(a, Value)))
        full = [a for a in (x, y) if isinstance(a, Value) and a.shape == shape]
        like = next((a for a in full if a in self._forms.rows), full[0] if full else None)
        arranged = like and self._align(x, y, like)
        a, b = arranged or (x, y)
        call = self._bias_add if name == "Add" and a is not b and _is_bias(a, b) else functools.partial(self.call, name)
        out = call(
            a, b, shape=broadcast_shape(*(v.shape for v in (a, b) if isinstance(v, Value))), dtype=result or dtype
        )
        return self._arranged(out, like) if arranged else out

    def _bias_add(self, a: Value, b: Value, shape, dtype) -> Value:
        """The kernel for one number a channel: half the time of a broadcast Add on a matrix, 0.6 to 1.0 of it on an
        image. (Arithmetic that broadcasts keeps 16 bytes an element of its result as long as the graph lives.)"""
        return self.call("BiasAdd", a, self.reshape(b, (b.size,)))

    def _align(self, x, y, like: Value) -> tuple | None:
        """x and y in the arrangement in which ``like``, one of them, is computed, if the other one can be had in it
        for little."""
        other = y if like is x else x
        if like in self._forms.rows:
            other = self._as_rows(other, like)
        else:
            other = self._as_root(other, like)
        if other is None:
            return None
        base = self._forms.rows.get(like) or self._forms.root(like)
        return (base, other) if like is x else (other, base)

    def _as_rows(self, other, like: Value):
        if not isinstance(other, Value):
            return other
        if other.shape == like.shape:
            return self.rows(other)
        one = per_channel(other.shape, like.shape)
        if one is None:
            return None
        matrix = self.reshape(other, one)
        return matrix if one[0] == 1 else self.gather_rows(matrix, samples_of_rows(like.shape))

    def _as_root(self, other, like: Value):
        root = self._forms.root(like)
        if root is like:
            return None
        if not isinstance(other, Value):
            return other
        if other.shape == like.shape:
            known = self._forms.root(other)
            return known if known.shape == root.shape else None
        if other.size == other.shape[-1:][0] if other.rank else False:
            return self.reshape(other, (other.size,)) if other.size == root.shape[-1] == like.shape[-1] else None
        return None

    def _operand(self, a, dtype: str):
        if isinstance(a, Value):
            return self.cast(a, dtype)
        if isinstance(a, bool) or not math.isfinite(a) or dtype == "bool":
            return self.full((), a, dtype)
        return float(a) if dtype in FLOATS else int(a)

    def add(self, x, y):
        return self.binary("Add", x, y)

    def sub(self, x, y):
        return self.binary("Sub", x, y)

    def mul(self, x, y):
        return self.binary("Mul", x, y)

    def div(self, x, y):
        return self.binary("RealDiv", x, y)

    def matmul(self, x: Value, y: Value, transpose_x=False, transpose_y=False) -> Value:
        """Matrix product of two matrices, or of two stacks of matrices with equal leading axes."""
        attributes = {k: True for k, on in (("transpose_a", transpose_x), ("transpose_b", transpose_y)) if on}
        rows = x.shape[-1] if transpose_x else x.shape[-2]
        columns = y.shape[-2] if transpose_y else y.shape[-1]
        name = "MatMul" if x.rank == 2 else "BatchMatMul"
        return self.call(name, x, y, shape=x.shape[:-2] + (rows, columns), **attributes)

    def reduce(self, name: str, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
        axes = sorted(a % x.rank for a in axes)
        if keepdim:
            shape = tuple(1 if d in axes else s for d, s in enumerate(x.shape))
        else:
            shape = tuple(s for d, s in enumerate(x.shape) if d not in axes)
        return self.call(name, x, tuple(axes), shape=shape, keep_dims=keepdim)


def _is_bias(a, b) -> bool:
    """A matrix or an image and one number for each of its channels, in float32 (the kernel has no others)?"""
    if not (isinstance(a, Value) and isinstance(b, Value)) or a.dtype != "float32" or a.rank not in (2, 4):
        return False
    one_a_channel = ((1, b.size), (b.size,)) if a.rank == 2 else ((1, b.size, 1, 1),)
    return b.size == a.shape[1] > 1 and b.shape in one_a_channel and a.size > b.size
