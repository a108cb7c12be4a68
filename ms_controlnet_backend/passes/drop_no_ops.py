"""Drops nodes that change nothing: assertions without users, copies of a functional graph, times and divided by 1."""

from __future__ import annotations

import torch

from .by_value import is_needed
from .nodes import same_dtype

aten = torch.ops.aten
COPIES = {
    aten.contiguous.default,
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
    aten.to.device,
    aten.to.dtype,
}
BY_ONE = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}
ASSERTIONS = {aten._assert_tensor_metadata.default}


def drop_no_ops(graph_module) -> None:
    for node in list(graph_module.graph.nodes):
        if node.target in ASSERTIONS:
            graph_module.graph.erase_node(node)
        elif (is_copy(node) or _is_by_one(node)) and same_dtype(node):
            node.replace_all_uses_with(node.args[0])
            graph_module.graph.erase_node(node)


def is_copy(node) -> bool:
    """Has it its first argument's values, but for the dtype, and does nobody need their place in memory?"""
    return node.target in COPIES and not is_needed(node)


def _is_by_one(node) -> bool:
    number = node.args[1] if node.target in BY_ONE else None
    return isinstance(number, (int, float)) and not isinstance(number, bool) and number == 1 and not node.kwargs
