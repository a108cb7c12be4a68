"""Common subexpressions: a node equal to an earlier one (same overload, same arguments) is replaced by it."""

from __future__ import annotations

from .repeatable import is_repeatable


def merge_duplicates(graph_module) -> None:
    seen: dict = {}
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or not is_repeatable(node):
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
