"""The same numbers in several arrangements: which are known of a value, and on which to compute.

Reshape and Transpose copy on CPU, and a matrix product wants an image as a matrix of pixels by channels. So lowerings
say what a value *is* in every arrangement they know, an operation picks the one that costs nothing, and arrangements
nobody picked are dropped with the dead code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import Unsupported
from .program import Value

SMALL = 2**14
"""Elements below which the number of kernels matters more than what they do."""


@dataclass(frozen=True)
class Rows:
    """Rows start … stop-1 of a weight: the part of a projection's outputs."""

    start: int
    stop: int

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return weight[self.start : self.stop]


@dataclass
class Forms:
    """roots: a reshaped value → what it was reshaped from. shaped: (root, shape) → the reshaped value.
    rows: an (N, C, *) value → its (N * prod(*), C) matrix, pixels by channels.
    gathered: a matrix → (matrix, row numbers) it was gathered from."""

    roots: dict[Value, Value] = field(default_factory=dict)
    shaped: dict[tuple, Value] = field(default_factory=dict)
    rows: dict[Value, Value] = field(default_factory=dict)
    gathered: dict[Value, tuple[Value, torch.Tensor]] = field(default_factory=dict)

    def root(self, x: Value) -> Value:
        return self.roots.get(x, x)

    def matrix(self, x: Value) -> Value | None:
        """The matrix with the value's last axis as columns, if the value is a reshaped one."""
        root = self.root(x)
        return root if root is not x and root.rank == 2 and x.rank and root.shape[1] == x.shape[-1] else None


def is_channels_last(order) -> bool:
    """(0, 2, …, 1): from channels second to channels last."""
    return len(order) >= 3 and tuple(order) == (0, *range(2, len(order)), 1)


def is_channels_second(order) -> bool:
    """(0, last, 1, …): from channels last to channels second."""
    return len(order) >= 3 and tuple(order) == (0, len(order) - 1, *range(1, len(order) - 1))


def per_channel(shape: tuple[int, ...], like: tuple[int, ...]) -> tuple[int, int] | None:
    """(n, c) of a shape that broadcasts to ``like`` = (N, C, *) without varying over the pixels."""
    shape = (1,) * (len(like) - len(shape)) + tuple(shape)
    return shape[:2] if math.prod(shape[2:]) == 1 else None


class Arranging:
    """The part of the Builder that changes shapes: ``call``, ``full`` and ``constant`` are the Builder's."""

    def reshape(self, x: Value, shape) -> Value:
        shape = tuple(int(s) for s in shape)
        if shape == x.shape:
            return x
        weight = self.program.weights.get(x)
        if weight is not None:
            return self._view(x, weight, shape)
        forms = self._forms
        root = forms.root(x)
        if root.shape == shape:
            return root
        if (root, shape) not in forms.shaped:
            value = forms.shaped[root, shape] = self.call("Reshape", root, shape, shape=shape)
            forms.roots[value] = root
        value = forms.shaped[root, shape]
        if x in forms.rows and shape[:2] == x.shape[:2]:
            forms.rows.setdefault(value, forms.rows[x])
        return value

    def _view(self, x: Value, weight, shape) -> Value:
        """A weight in another shape: the runtime feeds the same memory (Reshape on CPU copies)."""
        if (x, shape) not in self._views:
            view = Value(x.name, shape, x.dtype)
            self.program.weights[view] = weight
            if x in self.program.constants:
                self.program.constants.add(view)
            if x in self.program.prepared:
                self.program.prepared[view] = self.program.prepared[x]
            self._views[x, shape] = view
        return self._views[x, shape]

    def prepared(self, x: Value, prepare: Callable, shape) -> Value:
        """A weight that the runtime changes once before it feeds it. prepare: torch tensor → torch tensor of that
        shape, comparable and hashable: equal ones on one weight share their result."""
        key = x, prepare
        if key not in self._views:
            value = Value(x.name, tuple(shape), x.dtype)
            self.program.weights[value] = self.program.weights[x]
            self.program.prepared[value] = prepare
            self._views[key] = value
        return self._views[key]

    def is_weight(self, x: Value) -> bool:
        """Is it a weight of the module, as the module holds it?"""
        return x in self.program.weights and x not in self.program.constants and x not in self.program.prepared

    def transpose(self, x: Value, order) -> Value:
        order = tuple(d % x.rank for d in order)
        if order == tuple(range(x.rank)):
            return x
        shape = tuple(x.shape[d] for d in order)
        if [d for d in order if x.shape[d] != 1] == [d for d in range(x.rank) if x.shape[d] != 1]:
            return self.reshape(x, shape)  # only axes of length 1 move
        if is_channels_last(order) and x in self._forms.rows:
            return self.reshape(self._forms.rows[x], shape)
        if is_channels_second(order) and self._forms.matrix(x):
            return self.from_rows(self._forms.matrix(x), shape)
        return self._permute(x, order, shape)

    def _permute(self, x: Value, order, shape) -> Value:
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

    # -- images as matrices ------------------------------------------------------------------------------------

    def has_rows(self, x: Value) -> bool:
        return x in self._forms.rows

    def rows(self, x: Value) -> Value:
        """(N, C, *) → (N * prod(*), C): one row a pixel."""
        known = self._forms.rows
        if x not in known:
            n, c = x.shape[:2]
            pixels = x.size // (n * c)
            flat = self.reshape(x, (n, c, pixels))
            if 1 not in (c, pixels):
                flat = self._permute(flat, (0, 2, 1), (n, pixels, c))
            known[x] = self.reshape(flat, (n * pixels, c))
        return known[x]

    def from_rows(self, y: Value, shape) -> Value:
        """(N * prod(*), C) → (N, C, *), computed only if something asks for it in this shape."""
        n, c = shape[:2]
        pixels = y.shape[0] // n
        flat = self.reshape(y, (n, pixels, c))
        flat = (
            self.reshape(flat, (n, c, pixels)) if 1 in (c, pixels) else self._permute(flat, (0, 2, 1), (n, c, pixels))
        )
        image = self.reshape(flat, shape)
        for value in (flat, image):
            if value.rank >= 3 and value.shape[:2] == (n, c):
                self._forms.rows[value] = y
        return image

    def gather_rows(self, x: Value, index: torch.Tensor, after: Value | None = None) -> Value:
        """Rows of a matrix by number; -1 is a row of zeros. index: integers of any shape; the result has the columns
        as a further axis. Rows of gathered rows are gathered from the source at once. after: see ``after``."""
        forms = self._forms
        shape = tuple(index.shape) + (x.shape[1],)
        index = index.reshape(-1).to(torch.int64)
        source = x
        if x in forms.gathered:
            source, earlier = forms.gathered[x]
            index = torch.where(index >= 0, earlier[index.clamp(min=0)], -1)
        name = "EmbeddingLookup" if (index < 0).any() else "Gather"  # the former makes rows out of range zero
        numbers = self.constant(index.to(torch.int32).reshape(shape[:-1]))
        value = self.call(name, self.after(source, after), numbers, 0, shape=shape)
        if len(shape) == 2:
            forms.gathered[value] = source, index
        return value

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
        if axis <= 1 and all(x in self._forms.rows for x in xs):
            return self.from_rows(self.concat([self.rows(x) for x in xs], axis), shape)
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
        if axis == 1 and x in self._forms.rows:
            return self.from_rows(self.slice(self.rows(x), 1, start, stop, step), shape)
        matrix = self._forms.matrix(x)
        if axis == x.rank - 1 and matrix:
            return self.reshape(self.slice(matrix, 1, start, stop, step), shape)
        if step == 1 and axis == 0 and self.target == "CPU" and self.is_weight(x):
            if self.program.weights[x].shape == x.shape:  # they lie in its memory, a kernel would copy them
                return self.prepared(x, Rows(start, stop), shape)
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


def samples_of_rows(shape):
    """Of each row of the matrix of an (N, C, *) value: the number of its sample."""
    return torch.arange(shape[0]).repeat_interleave(math.prod(shape[2:]))


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
