"""What several passes ask about a node of the graph, and how they add one."""

from __future__ import annotations

import torch
from torch.fx import Node, map_arg


def is_last_axis(axis: int, node) -> bool:
    """Of the node's value."""
    rank = node.meta["val"].ndim
    return axis % rank == rank - 1


def only_user(node) -> bool:
    """Does one node alone read it?"""
    return len(node.users) == 1


def same_dtype(node) -> bool:
    """Has it the dtype of its first argument?"""
    return node.meta["val"].dtype == node.args[0].meta["val"].dtype


def call(graph, op, *args, like=None, **kwargs):
    """A new node, with its value. like: the node whose place in the module it shares."""
    node = graph.call_function(op, args, kwargs)
    value = lambda a: a.meta["val"] if isinstance(a, Node) else a  # noqa: E731
    values = ([value(x) for x in a] if isinstance(a, list) else value(a) for a in args)
    node.meta = dict(like.meta if like is not None else node.meta) | {"val": op(*values, **kwargs)}
    return node


def constant(graph_module, tensor: torch.Tensor, like: torch.Tensor, name: str = "folded"):
    """A placeholder that :func:`..passes.run` feeds with the tensor. like: a value of the graph, of any shape."""
    graph, folded = graph_module.graph, graph_module.__dict__.setdefault("folded", {})
    with graph.inserting_before(next(iter(graph.nodes))):
        node = graph.placeholder(f"{name}_{len(folded)}")
    node.meta["val"] = like.new_empty(tensor.shape, dtype=tensor.dtype)
    folded[node.name] = tensor
    return node


def evaluate(node, values: dict):
    """What torch makes of the node's call, on the host. values: of the nodes it reads."""
    args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
    return node.target(*args, **kwargs | ({"device": torch.device("cpu")} if "device" in kwargs else {}))
