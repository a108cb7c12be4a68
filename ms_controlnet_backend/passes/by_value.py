"""What reads a tensor's memory (its strides, and what else lies there) goes out of the graph before the first pass.

Passes drop copies and exchange nodes for others with the same values, laid out in another way. So ``view``, which is
illegal on some strides, becomes ``reshape``; what needs adjacent elements gets a copy of its own; and ``as_strided`` is
evaluated while the graph is still as it was captured, or refused.
"""

from __future__ import annotations

import torch

from ..errors import Refused
from .nodes import constant, evaluate
from .repeatable import is_repeatable

aten = torch.ops.aten
VIEWS = {aten.view.default, aten._unsafe_view.default, aten.view_as.default, aten._reshape_alias.default}
ADJACENT = {aten.view.dtype, aten.view_as_complex.default}
"""They read neighbouring elements as one, or one as several: right on contiguous memory whatever it was before."""
STRIDED = {aten.as_strided.default, aten.as_strided_copy.default, aten.as_strided_scatter.default}
WRITES_NOTHING = {aten.detach_.default}


def by_value(graph_module) -> None:
    """Raises Refused, naming the overload, for one that writes to its arguments and for ``as_strided`` of anything but
    a constant: the strides of an argument of the component differ from call to call."""
    graph = graph_module.graph
    values: dict = {}
    for node in list(graph.nodes):
        op = node.target
        if isinstance(op, torch._ops.OpOverload) and op._schema.is_mutable and op not in WRITES_NOTHING:
            raise Refused(f"{op} writes to its arguments: the graph is not functional")
        if op in STRIDED:
            value = _value(node, values)
            if value is None:
                raise Refused(f"{op} reads the memory of a tensor, not its values")
            node.replace_all_uses_with(constant(graph_module, value.contiguous(), node.meta["val"]))
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.target in VIEWS:
            node.target, node.args = aten.reshape.default, (node.args[0], list(node.meta["val"].shape))
        elif node.target in ADJACENT and not _is_contiguous(node.args[0]):
            with graph.inserting_before(node):
                copy = graph.call_function(aten.contiguous.default, node.args[:1])
            copy.meta = dict(node.args[0].meta)
            node.update_arg(0, copy)


def is_needed(node) -> bool:
    """Is it a copy that a user of it needs, for having adjacent elements?"""
    return _is_contiguous(node) and any(user.target in ADJACENT for user in node.users)


def _is_contiguous(node) -> bool:
    return node.target is aten.contiguous.default and len(node.args) == 1 and not node.kwargs


def _value(node, values: dict):
    """Of a node that depends on nothing but literals; None for others."""
    if node not in values:
        inputs = {n: _value(n, values) for n in node.all_input_nodes}
        known = node.op == "call_function" and is_repeatable(node) and all(v is not None for v in inputs.values())
        values[node] = evaluate(node, inputs) if known else None
    return values[node]
