"""Passes over the captured ATen graph, one a file; each changes a ``torch.fx.GraphModule`` in place."""

from __future__ import annotations

from ..capture import CapturedWeight
from ..hookspecs import Pass, hookimpl


@hookimpl
def register_passes():
    from .drop_no_ops import drop_no_ops
    from .drop_unread import drop_unread
    from .fold_constants import fold_constants
    from .fuse_attention import fuse_attention
    from .merge_duplicates import merge_duplicates
    from .split_complex import split_complex
    from .split_geglu import split_geglu

    return [
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
    """Run the passes in order, then drop dead nodes. Inputs and outputs of the graph keep their places. cut: as CUT."""
    captured.graph_module.meta[CUT] = cut
    for p in passes:
        p.function(captured.graph_module)
    captured.graph.eliminate_dead_code()
    output = next(n for n in captured.graph.nodes if n.op == "output")
    captured.outputs = list(output.args[0])
    for name, tensor in getattr(captured.graph_module, "folded", {}).items():
        node = next((n for n in captured.graph.nodes if n.op == "placeholder" and n.name == name), None)
        if node is not None:
            captured.weights[node] = CapturedWeight(name, tensor, constant=True)
