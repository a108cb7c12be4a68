"""Passes over the captured ATen graph, one a file; each changes a ``torch.fx.GraphModule`` in place."""

from __future__ import annotations

import torch

from ..capture import CapturedWeight
from ..hookspecs import Pass, hookimpl


@hookimpl
def register_passes():
    from .drop_no_ops import drop_no_ops
    from .drop_unread import drop_unread
    from .fold_constants import fold_constants
    from .fuse_attention import fuse_attention
    from .in_aten import in_aten
    from .merge_duplicates import merge_duplicates
    from .split_complex import split_complex
    from .split_geglu import split_geglu

    return [
        Pass("in_aten", in_aten, order=5),
        Pass("drop_no_ops", drop_no_ops, order=10),
        Pass("drop_unread", drop_unread, order=12),
        Pass("fuse_attention", fuse_attention, order=15),
        Pass("split_geglu", split_geglu, order=17, target="CPU"),
        Pass("fold_constants", fold_constants, order=20),
        Pass("split_complex", split_complex, order=25),
        Pass("merge_duplicates", merge_duplicates, order=30),
    ]


CUT = "cut"
"""In the ``meta`` of a graph module: may what cannot be lowered be left as it is, to be run by torch?"""


def run(captured, passes, cut: bool = False) -> None:
    """Run the passes in order, whatever that is, then drop dead nodes. Inputs and outputs of the graph keep their
    places, and outputs their values' strides. cut: as CUT. Raises Refused for a graph that is not one of values
    (:mod:`.by_value`)."""
    from .by_value import by_value

    graph, before = captured.graph, [(n, n.meta.get("val")) for n in captured.outputs]
    captured.graph_module.meta[CUT] = cut
    by_value(captured.graph_module)
    for p in passes:
        p.function(captured.graph_module)
    graph.eliminate_dead_code()
    captured.outputs = _apart(graph, before)
    _feed_folded(captured)


def _apart(graph, before: list) -> list:
    """The outputs. What was computed as two tensors, or with other strides, stays a node of its own."""
    output = next(n for n in graph.nodes if n.op == "output")
    found: dict = {}  # node before → node now
    for node, (old, value) in zip(output.args[0], before):
        if old in found:
            continue
        if node in found.values() or node.meta["val"].stride() != value.stride():
            with graph.inserting_before(output):
                copy = graph.call_function(torch.ops.aten.clone.default, (node,))
            copy.meta = dict(node.meta) | {"val": value}
            node = copy
        found[old] = node
    output.args = (tuple(found[old] for old, _ in before),)
    return list(output.args[0])


def _feed_folded(captured) -> None:
    folded = getattr(captured.graph_module, "folded", {})
    for node in [n for n in captured.graph.nodes if n.op == "placeholder" and n.name in folded]:
        if node.users:
            captured.weights[node] = CapturedWeight(node.name, folded[node.name], constant=True)
        else:
            captured.weights.pop(node, None)
            captured.graph.erase_node(node)
            del folded[node.name]
