"""A straight-line MindSpore program, and the builder that lowerings write it with.

A lowering never touches MindSpore: it records which primitive is called on which values, and says the shape and
dtype of what comes out. :mod:`..codegen` turns the record into source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Unsupported

SMALL = 2**14
"""Elements below which the number of kernels matters more than what they do."""
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
    """``outputs = callee(*args)``. callee: a primitive class with its attributes, or the dotted path of a function."""

    callee: str
    attributes: dict[str, Any]
    args: tuple
    outputs: tuple[Value, ...]
    origin: str


@dataclass
class Program:
    """inputs and outputs in call order; weights: value → the torch tensor the runtime feeds it in the value's shape,
    those in constants belonging to the program and not to the module."""

    name: str
    inputs: list[Value] = field(default_factory=list)
    weights: dict[Value, Any] = field(default_factory=dict)
    constants: set[Value] = field(default_factory=set)
    instructions: list[Instruction] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)


class Builder:
    """Records the program. ``out`` is what torch says the node being lowered returns (compute dtypes)."""

    def __init__(self, program: Program, target: str, compute_dtype):
        self.program = program
        self.target = target
        self.compute_dtype = compute_dtype
        self.out: Any = None
        self.origin = ""
        self._count = 0
        self._constants: dict[tuple, Value] = {}
        self._views: dict[tuple, Value] = {}

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

    def constant(self, array) -> Value:
        """A torch tensor as a constant of the program (fed like a weight)."""
        key = (tuple(array.shape), str(array.dtype), array.detach().cpu().contiguous().numpy().tobytes())
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

        single = self.constant(torch.full((1,) * len(shape), number, dtype=getattr(torch, dtype)))
        return self.broadcast(single, shape)

    # -- dtypes and shapes -------------------------------------------------------------------------------------

    def cast(self, x: Value, dtype: str) -> Value:
        return x if x.dtype == dtype else self.call("Cast", x, DType(dtype), dtype=dtype)

    def reshape(self, x: Value, shape) -> Value:
        shape = tuple(int(s) for s in shape)
        if shape == x.shape:
            return x
        weight = self.program.weights.get(x)
        return self.call("Reshape", x, shape, shape=shape) if weight is None else self._view(x, weight, shape)

    def _view(self, x: Value, weight, shape) -> Value:
        """A weight in another shape: the runtime feeds the same memory (Reshape on CPU copies)."""
        if (x, shape) not in self._views:
            view = Value(x.name, shape, x.dtype)
            self.program.weights[view] = weight
            if x in self.program.constants:
                self.program.constants.add(view)
            self._views[x, shape] = view
        return self._views[x, shape]

    def transpose(self, x: Value, order) -> Value:
        order = tuple(d % x.rank for d in order)
        if order == tuple(range(x.rank)):
            return x
        shape = tuple(x.shape[d] for d in order)
        if [d for d in order if x.shape[d] != 1] == [d for d in range(x.rank) if x.shape[d] != 1]:
            return self.reshape(x, shape)  # only axes of length 1 move
        swap = _as_swap(x.shape, order)
        if swap and x.size >= SMALL and self.target == "CPU":
            return self.reshape(self._swap(x, swap), shape)
        return self.call("Transpose", x, order, shape=shape)

    def _swap(self, x: Value, sizes: tuple[int, int, int, int]) -> Value:
        """(A, P, Q, D) → (A, Q, P, D) by cutting up the shorter of P and Q and joining the pieces again. Measured on
        (2, 4096, 8, 40): 1.8 ms where Transpose takes 4.6 ms, and its kernel keeps an index of 8 bytes an element."""
        a, p, q, d = sizes
        x = self.reshape(x, sizes)
        axis, n, into = (2, q, 1) if q <= p else (1, p, 3)
        piece = sizes[:axis] + (1,) + sizes[axis + 1 :]
        pieces = self.call_many("Split", x, outputs=[(piece, x.dtype)] * n, axis=axis, output_num=n)
        return self.concat(pieces, into)

    def broadcast(self, x: Value, shape) -> Value:
        shape = tuple(shape)
        x = self.reshape(x, (1,) * (len(shape) - x.rank) + x.shape)
        return x if x.shape == shape else self.call("BroadcastTo", x, shape=shape, shape_=shape)

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        xs = list(xs)
        axis %= xs[0].rank
        if len(xs) == 1:
            return xs[0]
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.call("Concat", tuple(xs), shape=shape, dtype=xs[0].dtype, axis=axis)

    def slice(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """``x[start:stop:step]`` along one axis, with 0 <= start <= stop <= size.

        ``Slice`` where the step is 1: ``StridedSlice`` on CPU was measured 70 times slower along the first axis.
        """
        axis %= x.rank
        length = max(0, -(-(stop - start) // step))
        if length == x.shape[axis]:
            return x
        shape = x.shape[:axis] + (length,) + x.shape[axis + 1 :]
        begin = tuple(start if d == axis else 0 for d in range(x.rank))
        if length == 0:
            raise Unsupported("an empty slice")
        if step == 1:
            return self.call("Slice", x, begin, shape, shape=shape)
        end = tuple(stop if d == axis else s for d, s in enumerate(x.shape))
        steps = tuple(step if d == axis else 1 for d in range(x.rank))
        return self.call("StridedSlice", x, begin, end, steps, shape=shape)

    def split(self, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
        axis %= x.rank
        parts, start = [], 0
        for size in sizes:
            parts.append(self.slice(x, axis, start, start + size))
            start += size
        return parts

    def after(self, x: Value, done: Value | None) -> Value:
        """``x``, available only when ``done`` was computed. MindSpore starts whatever is ready: independent blocks of
        one large computation would all be held at once, and blocking would save no memory."""
        return x if done is None else self.call("Depend", x, done)

    # -- arithmetic --------------------------------------------------------------------------------------------

    def unary(self, name: str, x: Value, dtype: str | None = None) -> Value:
        return self.call(name, self.cast(x, dtype) if dtype else x)

    def binary(self, name: str, x, y, dtype: str | None = None, result: str | None = None) -> Value:
        """An elementwise primitive with NumPy broadcasting. x, y: values or Python numbers. dtype: what both are
        cast to first; result: dtype of the result where it is another one (comparisons)."""
        like = x if isinstance(x, Value) else y
        dtype = dtype or like.dtype
        x, y = (self._operand(a, dtype) for a in (x, y))
        shapes = [a.shape for a in (x, y) if isinstance(a, Value)]
        return self.call(name, x, y, shape=broadcast_shape(*shapes), dtype=result or dtype)

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


def broadcast_shape(*shapes) -> tuple[int, ...]:
    rank = max(len(s) for s in shapes)
    padded = [(1,) * (rank - len(s)) + tuple(s) for s in shapes]
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded))


def _as_swap(shape, order) -> tuple[int, int, int, int] | None:
    """The sizes (A, P, Q, D) if the permutation is but a swap of P and Q, one of them short, D not tiny."""
    kept = [d for d in order if shape[d] != 1]
    axes = sorted(kept)
    first = next(i for i, (d, e) in enumerate(zip(kept, axes)) if d != e)
    last = len(kept) - next(i for i, (d, e) in enumerate(zip(kept[::-1], axes[::-1])) if d != e)
    middle = axes[first:last]
    cut = middle.index(kept[first])
    if kept[first:last] != middle[cut:] + middle[:cut]:
        return None
    size = lambda ds: math.prod(shape[d] for d in ds)  # noqa: E731
    a, p, q, d = size(axes[:first]), size(middle[:cut]), size(middle[cut:]), size(axes[last:])
    return (a, p, q, d) if min(p, q) <= 32 and d >= 8 else None
