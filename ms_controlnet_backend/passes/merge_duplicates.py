"""Common subexpressions: a node equal to an earlier one (same overload, same arguments) is replaced by it."""

from __future__ import annotations

import torch


def merge_duplicates(graph_module) -> None:
    seen: dict = {}
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.OpOverload):
            if torch.Tag.nondeterministic_seeded in node.target.tags or node.target._schema.is_mutable:
                continue
        key = _key(node)
        if key in seen:
            node.replace_all_uses_with(seen[key])
            graph_module.graph.erase_node(node)
        else:
            seen[key] = node


def _key(node):
    def freeze(a):
        if isinstance(a, (list, tuple)):
            return tuple(freeze(x) for x in a)
        if isinstance(a, dict):
            return tuple((k, freeze(v)) for k, v in a.items())
        return (type(a), repr(a) if isinstance(a, float) else a)

    return node.target, freeze(node.args), freeze(node.kwargs)
