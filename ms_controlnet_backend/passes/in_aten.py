"""Operators of other libraries that upstream calls → the same in ATen, so that every later pass and lowering applies.

An operator that is used in a way that the table does not know is left: it has no lowering, and is named.
"""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from ..compat.torch_npu_operators import TABLE
from .nodes import call


def in_aten(graph_module) -> None:
    graph = graph_module.graph
    for node in list(graph.nodes):
        op = node.target
        make = TABLE.get(op._schema.name) if isinstance(op, torch._ops.OpOverload) else None
        if make is None:
            continue
        with graph.inserting_before(node):
            results = make(_caller(graph), **_named(node))
        if results is None:
            continue
        if isinstance(results, Node):
            node.replace_all_uses_with(results)
        else:
            for use in [u for u in node.users if u.target is operator.getitem]:
                if use.args[1] < len(results):
                    use.replace_all_uses_with(results[use.args[1]])
                if not use.users:
                    graph.erase_node(use)
        if not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _named(node) -> dict:
    """The arguments of a call by name."""
    names = [a.name for a in node.target._schema.arguments]
    return dict(zip(names, node.args)) | dict(node.kwargs)


def _caller(graph):
    def add(op, *args, **kwargs):
        """The node of a call; of one that gives several tensors, the nodes of each."""
        node = call(graph, op, *args, **kwargs)
        values = node.meta["val"]
        if isinstance(values, torch.Tensor):
            return node
        return [_item(graph, node, i, value) for i, value in enumerate(values)]

    return add


def _item(graph, node, i: int, value):
    item = graph.call_function(operator.getitem, (node, i))
    item.meta = dict(node.meta) | {"val": value}
    return item
