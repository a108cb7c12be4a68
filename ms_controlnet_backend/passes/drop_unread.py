"""``baddbmm(unread, x, y, beta=0)`` → the product alone. Upstream writes scores of attention so, on memory as large as
they are and not initialised, which no lowering should have to make."""

from __future__ import annotations

import torch

aten = torch.ops.aten


def drop_unread(graph_module) -> None:
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten.baddbmm.default or node.kwargs.get("beta", 1) != 0:
            continue
        with graph.inserting_before(node):
            product = graph.call_function(aten.bmm.default, node.args[1:3])
            product.meta = dict(node.meta)
            alpha = node.kwargs.get("alpha", 1)
            if alpha != 1:
                product = graph.call_function(aten.mul.Tensor, (product, alpha))
                product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    graph.eliminate_dead_code()
