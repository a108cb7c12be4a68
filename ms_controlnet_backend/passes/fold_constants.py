"""Evaluates, on torch, every node that depends on nothing but literals (frequency tables, causal masks).

Results become placeholders, fed like weights. Nodes that draw random numbers are left alone.
"""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree

from .repeatable import is_repeatable

LIMIT = 16 * 2**20  # bytes; a larger constant is cheaper to compute than to keep


def fold_constants(graph_module) -> None:
    graph = graph_module.graph
    known: dict = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and _foldable(node, known):
            args, kwargs = pytree.tree_map(
                lambda a: known[a] if isinstance(a, torch.fx.Node) else a, (list(node.args), dict(node.kwargs))
            )
            if "device" in kwargs:
                kwargs["device"] = torch.device("cpu")
            value = node.target(*args, **kwargs)
            if _bytes(value) <= LIMIT:
                known[node] = value
    graph_module.folded = {}
    first = next(iter(graph.nodes))
    for node, value in known.items():
        if isinstance(value, torch.Tensor) and any(user not in known for user in node.users):
            with graph.inserting_before(first):
                placeholder = graph.placeholder(f"folded_{len(graph_module.folded)}")
            placeholder.meta["val"] = node.meta["val"]
            graph_module.folded[placeholder.name] = value
            node.replace_all_uses_with(placeholder)
    graph.eliminate_dead_code()


def _foldable(node, known) -> bool:
    return is_repeatable(node) and all(n in known for n in node.all_input_nodes)


def _bytes(value) -> int:
    return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(value) if isinstance(t, torch.Tensor))
