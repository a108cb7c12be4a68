"""The builder of programs for Ascend.

Images stay (N, C, H, W) and nothing is computed on a matrix of pixels, which the CPU's arrangement is for. A transpose
of a transpose becomes one of the original, so that those around an attention vanish.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...errors import Unsupported
from ..builder import Builder
from ..program import FLOATS, DType, Program, Value
from .fuse import LINEAR, SLICE
from .npu import DEFAULT, NPUS
from .rewrites import rewritten

INT32 = torch.iinfo(torch.int32)
MINT = {"RealDiv": "mint.div", "ReduceSum": "mint.sum", "ReduceMean": "mint.mean"}
"""Primitive without an aclnn kernel → the function that has one."""


class AscendBuilder(Builder):
    """See :class:`..builder.Builder`. without: names of rewrites not to be made, see :data:`REWRITES`.
    npu: name of what is compiled for, see :data:`.npu.NPUS`."""

    score_bytes = 2**29

    def __init__(self, program: Program, target: str, compute_dtype, without=(), kept=None, npu: str | None = None):
        self.npu = NPUS[npu or DEFAULT]
        super().__init__(program, target, compute_dtype, self.npu.lacks.union(without), kept)
        self._permuted: dict[Value, tuple[Value, tuple[int, ...]]] = {}
        self._transposes: dict[tuple, Value] = {}
        self._casts: dict[tuple, Value] = {}
        self._widened: dict[Value, Value] = {}
        self._padded: dict[Value, tuple[Value, int, int]] = {}

    def finish(self, program: Program) -> Program:
        return rewritten(program, self.without)

    # -- constants and dtypes ----------------------------------------------------------------------------------

    def constant(self, array) -> Value:
        """Raises Unsupported for an integer that int32 does not hold."""
        if array.dtype == torch.int64 and array.numel() and not _fits(array.min().item(), array.max().item()):
            raise Unsupported("an integer beyond 32 bits")
        return super().constant(array)

    def full(self, shape, number, dtype: str) -> Value:
        if dtype == "int32" and not _fits(number):
            raise Unsupported("an integer beyond 32 bits")
        return super().full(shape, number, dtype)

    def cast(self, x: Value, dtype: str) -> Value:
        """Once for all who ask; back to the dtype from which ``x`` was widened, which loses nothing: the original."""
        if x.dtype == dtype:
            return x
        source = self._widened.get(x)
        if source is not None and source.dtype == dtype:
            return source
        if (x, dtype) in self._casts:
            return self._casts[x, dtype]
        y = self._elementwise("Cast", x, DType(dtype), dtype=dtype)
        if "casts" not in self.without:
            self._casts[x, dtype] = y
        if x.dtype in FLOATS and dtype == "float32" and "casts" not in self.without:
            self._widened[y] = x
        return y

    def _bias_add(self, a: Value, b: Value, shape, dtype) -> Value:
        """BiasAdd has no aclnn kernel."""
        return self.call("Add", a, b, shape=shape, dtype=dtype)

    # -- arrangements ------------------------------------------------------------------------------------------

    def rows(self, x: Value) -> Value:
        raise NotImplementedError("images are not computed as matrices of pixels on Ascend")

    def transpose(self, x: Value, order) -> Value:
        order = tuple(d % x.rank for d in order)
        source, first = self._permuted.get(x, (x, tuple(range(x.rank))))
        order = tuple(first[d] for d in order)
        shape = tuple(source.shape[d] for d in order)
        if [d for d in order if source.shape[d] != 1] == [d for d in range(source.rank) if source.shape[d] != 1]:
            return self.reshape(source, shape)  # nothing, or only axes of length 1, move
        if (source, order) not in self._transposes:
            y = self._transposes[source, order] = self.call("Transpose", source, order, shape=shape)
            if "transposes" not in self.without:
                self._permuted[y] = source, order
        return self._transposes[source, order]

    def broadcast(self, x: Value, shape) -> Value:
        """A number as it came in: Reshape of a graph's input copies it, and BroadcastTo takes any rank."""
        root, shape = self._forms.root(x), tuple(shape)
        if root.rank or self.is_weight(root):
            return super().broadcast(x, shape)
        if math.prod(shape) == 1:
            return self.reshape(root, shape)
        return self.call("BroadcastTo", root, shape=shape, shape_=shape)

    def concat(self, xs: Sequence[Value], axis: int) -> Value:
        xs, axis = list(xs), axis % xs[0].rank
        if len(xs) == 1:
            return xs[0]
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.call("Concat", tuple(xs), shape=shape, dtype=xs[0].dtype, axis=axis)

    def slice(self, x: Value, axis: int, start: int, stop: int, step: int = 1) -> Value:
        """SliceExt along one axis; a step other than 1 by a look-up."""
        axis %= x.rank
        length = max(0, -(-(stop - start) // step))
        if length == x.shape[axis]:
            return x
        if length == 0:
            raise Unsupported("an empty slice")
        shape = x.shape[:axis] + (length,) + x.shape[axis + 1 :]
        if step != 1:
            return self.select(x, axis, self.constant(torch.arange(start, stop, step, dtype=torch.int32)))
        return self.call(SLICE, x, axis, start, stop, 1, shape=shape)

    def select(self, x: Value, axis: int, index: Value) -> Value:
        """The entries along an axis that a vector of numbers names."""
        shape = x.shape[:axis] + index.shape + x.shape[axis + 1 :]
        return self.call("mint.index_select", x, axis, index, shape=shape)

    def binary(self, name: str, x, y, dtype: str | None = None, result: str | None = None) -> Value:
        return super().binary(MINT.get(name, name), x, y, dtype, result)

    def reduce(self, name: str, x: Value, axes: Sequence[int], keepdim: bool) -> Value:
        if name not in MINT:
            return super().reduce(name, x, axes, keepdim)
        axes = sorted(a % x.rank for a in axes)
        kept = tuple(1 if d in axes else s for d, s in enumerate(x.shape))
        shape = kept if keepdim else tuple(s for d, s in enumerate(x.shape) if d not in axes)
        return self.call(MINT[name], x, tuple(axes), keepdim, shape=shape)

    # -- projections whose heads are padded --------------------------------------------------------------------

    def remember_padded(self, x: Value, padded: Value, heads: int, width: int) -> None:
        """``x`` (…, heads * size) is ``padded`` (…, heads * width) without the zeros at the end of each head."""
        self._padded[self._forms.root(x)] = padded, heads, width

    def padded_heads(self, x: Value) -> tuple[Value, int, int] | None:
        """(padded, heads, width) as given to :meth:`remember_padded`."""
        return self._padded.get(self._forms.root(x))

    def projection(self, x: Value) -> tuple[Value, Value, Value | None] | None:
        """(input, weight, bias) if ``x`` is, but for its shape, a linear layer's output and those are the module's."""
        root = self._forms.root(x)
        made = next((i for i in reversed(self.program.instructions) if root in i.outputs), None)
        if made is None or made.callee != LINEAR:
            return None
        source, weight, bias = made.args
        return made.args if self.is_weight(weight) and (bias is None or self.is_weight(bias)) else None


def _fits(*numbers) -> bool:
    return all(INT32.min <= n <= INT32.max for n in numbers)
