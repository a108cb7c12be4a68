"""``h * gelu(g)`` with h and g the halves of one linear layer (GEGLU, Shazeer, arXiv 2002.05202) → two linear layers of
the halves of its weight, scaled: with h' = h / √2 and g' = g / √2 it is h' g' + h' g' erf(g').

The halves of its output, the largest tensors of a UNet, are not copied, and the numbers that gelu multiplies them by go
into what they are computed from, which is a fourth of their size.
"""

from __future__ import annotations

import functools
import math
import operator

import torch

from .nodes import call, is_last_axis, only_user

aten = torch.ops.aten


def split_geglu(graph_module) -> None:
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten.mul.Tensor:
            continue
        for h, g in (node.args, node.args[::-1]):
            linear = _linear_of(h, g)
            if linear is None:
                continue
            with graph.inserting_before(node):
                product = _product(graph, node, *linear.args)
            node.replace_all_uses_with(product)
            graph.erase_node(node)
            break
    graph.eliminate_dead_code()


def _linear_of(h, gelu):
    """The linear layer whose halves are h and what gelu is of; None where something else reads them."""
    if getattr(gelu, "target", None) is not aten.gelu.default or gelu.kwargs or len(gelu.args) > 1:
        return None
    g, chunk = gelu.args[0], next(iter(getattr(h, "args", ())), None)
    if not (_half(h, chunk, 0) and _half(g, chunk, 1) and only_user(gelu) and len(chunk.users) == 2):
        return None
    linear = chunk.args[0]
    if linear.target is not aten.linear.default or not only_user(linear) or chunk.target is not aten.chunk.default:
        return None
    n, axis = chunk.args[1], (*chunk.args, 0)[2]
    even = linear.meta["val"].shape[-1] % 2 == 0
    return linear if n == 2 and is_last_axis(axis, linear) and even else None


def _half(node, chunk, number: int) -> bool:
    return getattr(node, "target", None) is operator.getitem and node.args == (chunk, number) and only_user(node)


def _product(graph, like, x, weight, bias=None):
    new = functools.partial(call, graph, like=like)

    def half(start, stop):
        """Scaled by way of what goes in."""
        rows = [None if w is None else new(aten.slice.Tensor, w, 0, start, stop) for w in (weight, bias)]
        return new(aten.linear.default, scaled, rows[0], rows[1] and new(aten.mul.Tensor, rows[1], math.sqrt(0.5)))

    scaled = new(aten.mul.Tensor, x, math.sqrt(0.5))
    size = weight.meta["val"].shape[0]
    h, g = half(0, size // 2), half(size // 2, size)
    product = new(aten.mul.Tensor, h, g)
    return new(aten.add.Tensor, product, new(aten.mul.Tensor, product, new(aten.erf.default, g)))
