"""Evaluates, on torch, every node that depends on nothing but literals (frequency tables, causal masks).

Results become placeholders, fed like weights; those of an earlier run are literals too. Nodes that draw random numbers
are left alone.
"""

from __future__ import annotations

import torch
from torch.utils import _pytree as pytree

from .nodes import constant, evaluate
from .repeatable import is_repeatable

LIMIT = 16 * 2**20  # bytes; a larger constant is cheaper to compute than to keep


def fold_constants(graph_module) -> None:
    graph = graph_module.graph
    folded = getattr(graph_module, "folded", {})
    known: dict = {n: folded[n.name] for n in graph.nodes if n.op == "placeholder" and n.name in folded}
    made: dict = {}
    for node in list(graph.nodes):
        if node.op == "call_function" and _foldable(node, known):
            value = evaluate(node, known)
            if _bytes(value) <= LIMIT:  # contiguous, as to the lowerings: a copy that made it so may have been dropped
                known[node] = made[node] = pytree.tree_map_only(torch.Tensor, torch.Tensor.contiguous, value)
    for node, value in made.items():
        if isinstance(value, torch.Tensor) and any(user not in known for user in node.users):
            node.replace_all_uses_with(constant(graph_module, value, node.meta["val"]))
    graph.eliminate_dead_code()


def _foldable(node, known) -> bool:
    return is_repeatable(node) and all(n in known for n in node.all_input_nodes)


def _bytes(value) -> int:
    return sum(t.numel() * t.element_size() for t in pytree.tree_leaves(value) if isinstance(t, torch.Tensor))
