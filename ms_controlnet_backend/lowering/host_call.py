"""An operator that torch computes on the host, between compiled segments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..errors import Refused
from ..passes.repeatable import is_repeatable
from .program import Instruction, Value

aten = torch.ops.aten

HOST_ONLY = "host"
"""The dtype of a Value that MindSpore has no tensors of (complex numbers, say): it goes from host call to host call."""
LIKE = {aten.rand_like.default, aten.randn_like.default, aten.randint_like.default, aten.randint_like.low_dtype}
"""Of their tensor they read shape, dtype and strides, no number."""
STRIDES = "host_call_strides"


@dataclass(frozen=True)
class Blank:
    """A tensor of which no number is read."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> torch.Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)


@dataclass(frozen=True)
class Argument:
    """A tensor among the arguments. dtype: that of the captured graph, whatever the Value is computed in. stride: where
    the operator goes through memory in its order, else None."""

    value: Value
    dtype: torch.dtype
    stride: tuple[int, ...] | None = None


@dataclass
class HostCall(Instruction):
    """op: the overload. leaves, spec: its (args, kwargs), flat, with an Argument for every tensor. wanted: which of
    what it returns, flat, the outputs are, and their dtypes. reason: why it is not compiled."""

    op: Any
    leaves: list
    spec: Any
    wanted: list[tuple[int, torch.dtype]]
    reason: Refused
    effect: bool = False

    @property
    def generators(self) -> list[torch.Generator]:
        return [leaf for leaf in self.leaves if isinstance(leaf, torch.Generator)]

    def run(self, tensor) -> list[torch.Tensor]:
        """What the outputs are. tensor: Argument → a torch tensor of its dtype."""

        def leaf(a):
            if isinstance(a, Argument):
                return in_memory_order(tensor(a), a.stride)
            return a.make() if isinstance(a, Blank) else a

        args, kwargs = pytree.tree_unflatten([leaf(a) for a in self.leaves], self.spec)
        with torch.no_grad():
            returned = pytree.tree_leaves(self.op(*args, **kwargs))
        out = [returned[i] for i, _ in self.wanted]
        if any(r.alias_info is not None for r in self.op._schema.returns):  # a view of an argument's memory
            out = [t.clone() for t in out]
        for t, v, (_, dtype) in zip(out, self.outputs, self.wanted):
            if (tuple(t.shape), t.dtype) != (v.shape, dtype):
                raise Refused(f"{self.op} returned {t.dtype}{list(t.shape)}, not {dtype}{list(v.shape)}")
        return out


def remember_strides(captured) -> None:
    """To be called before any pass runs: random numbers are drawn in the order of memory, and passes drop copies that
    change nothing but that."""
    for node in captured.graph.nodes:
        if node.op == "call_function" and not is_repeatable(node):
            leaves = pytree.tree_leaves((list(node.args), dict(node.kwargs)))
            node.meta[STRIDES] = [_stride(a) for a in leaves]


def _stride(leaf):
    val = leaf.meta.get("val") if isinstance(leaf, torch.fx.Node) else None
    return val.stride() if isinstance(val, torch.Tensor) else None


def host_call(node, environment: dict, builder, reason: Refused):
    """Records the call and returns its Values, structured as torch's result. Raises ``reason`` where it cannot be cut:
    no single overload, shapes that depend on data, memory looked at past its tensors."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or op._schema.is_mutable or "as_strided" in op._schema.name:
        raise reason
    leaves, spec = pytree.tree_flatten((list(node.args), dict(node.kwargs)))
    strides = node.meta.get(STRIDES) or [None] * len(leaves)
    leaves = [_argument(op, a, s, environment, builder, reason) for a, s in zip(leaves, strides, strict=True)]
    returned, structure = pytree.tree_flatten(node.meta.get("val"))
    values, wanted = [], []
    for i, val in enumerate(returned):
        if isinstance(val, torch.Tensor):
            values.append(_output(val, builder, reason))
            wanted.append((i, val.dtype))
        elif val is None or isinstance(val, (bool, int, float)):
            values.append(val)
        else:
            raise reason
    outputs = tuple(v for v in values if isinstance(v, Value))
    used = tuple(a.value for a in leaves if isinstance(a, Argument))
    effect = not is_repeatable(node) or not outputs
    builder.program.instructions.append(
        HostCall(str(op), {}, used, outputs, builder.origin, op, leaves, spec, wanted, reason, effect)
    )
    return pytree.tree_unflatten(values, structure)


def _argument(op, leaf, stride, environment, builder, reason):
    if isinstance(leaf, torch.device):
        return torch.device("cpu")
    if not isinstance(leaf, torch.fx.Node):
        return leaf
    value, val = environment[leaf], leaf.meta["val"]
    if not isinstance(value, Value):
        return value  # an object that is a constant of the graph
    given = value in builder.program.inputs  # at hand on the host, with strides of its own
    if op in LIKE and stride is not None and not given:
        return Blank(value.shape, tuple(stride), val.dtype)
    return Argument(value, val.dtype, None if given or stride is None else tuple(stride))


def _output(val, builder, reason) -> Value:
    if not all(isinstance(n, int) for n in val.shape):
        raise reason
    try:
        dtype = builder.compute_dtype(val.dtype)
    except Refused:
        dtype = HOST_ONLY
    return builder._value(val.shape, dtype)


def in_memory_order(t: torch.Tensor, stride) -> torch.Tensor:
    """The tensor with these strides."""
    if stride is None or t.stride() == stride:
        return t
    # what was expanded, is again: its memory has one element for all of them
    once = t[tuple(slice(0, 1) if s == 0 else slice(None) for s in stride)]
    return torch.empty_strided(once.shape, stride, dtype=t.dtype).copy_(once).expand(t.shape)
