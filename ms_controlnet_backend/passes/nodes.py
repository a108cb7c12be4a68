"""What several passes ask about a node of the graph, and how they add one."""

from __future__ import annotations

from torch.fx import Node


def is_last_axis(axis: int, node) -> bool:
    """Of the node's value."""
    rank = node.meta["val"].ndim
    return axis % rank == rank - 1


def only_user(node) -> bool:
    """Does one node alone read it?"""
    return len(node.users) == 1


def call(graph, op, *args, like=None, **kwargs):
    """A new node, with its value. like: the node whose place in the module it shares."""
    node = graph.call_function(op, args, kwargs)
    value = lambda a: a.meta["val"] if isinstance(a, Node) else a  # noqa: E731
    values = ([value(x) for x in a] if isinstance(a, list) else value(a) for a in args)
    node.meta = dict(like.meta if like is not None else node.meta) | {"val": op(*values, **kwargs)}
    return node
