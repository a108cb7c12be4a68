"""softmax(scale * q @ kᵀ + mask) @ v, written out → ``scaled_dot_product_attention``, whose lowerings never hold all
scores at once. Upstream's AttnProcessor and SlicedAttnProcessor write it out; so do processors of users' own.

Casts around the softmax (``upcast_attention``, ``upcast_softmax``) are left out where they only widen it: the lowerings
compute it in float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from .nodes import call, is_last_axis, only_user

aten = torch.ops.aten
PRODUCTS = {aten.bmm.default, aten.matmul.default}
NUMBERS = (int, float)


class _Scores(NamedTuple):
    q: Any
    k_transposed: Any
    mask: Any
    scale: float


def fuse_attention(graph_module) -> None:
    graph = graph_module.graph
    for node in list(graph.nodes):
        scores = _scores(node)
        if scores is None:
            continue
        q, v, dtype = scores.q, node.args[1], scores.q.meta["val"].dtype
        with graph.inserting_before(node):
            k = _call(graph, aten.transpose.int, scores.k_transposed, -1, -2)
            v = v if v.meta["val"].dtype == dtype else _call(graph, aten.to.dtype, v, dtype)
            y = graph.call_function(
                aten.scaled_dot_product_attention.default, (q, k, v, scores.mask), {"scale": scores.scale}
            )
            y.meta = dict(node.meta) | {"val": node.meta["val"].to(dtype)}
            wanted = node.meta["val"].dtype
            y = y if wanted == dtype else _call(graph, aten.to.dtype, y, wanted)
        node.replace_all_uses_with(y)
        graph.erase_node(node)
    graph.eliminate_dead_code()


def _call(graph, target, x, *args):
    """The node of a call, or what it undoes."""
    if target is aten.transpose.int and _transposes(x):
        return x.args[0]
    return call(graph, target, x, *args)


def _scores(node) -> _Scores | None:
    """What the left operand of a product is the softmax of, if it is scores that nothing else reads."""
    if node.target not in PRODUCTS:
        return None
    softmax = _uncast(node.args[0])
    if softmax.target is not aten.softmax.int or not is_last_axis(softmax.args[1], softmax) or not only_user(softmax):
        return None
    if len(softmax.args) > 2 or softmax.kwargs:
        return None
    scores, scale = _uncast(softmax.args[0]), 1.0
    if not only_user(scores):
        return None
    if scores.target is aten.mul.Tensor and isinstance(scores.args[1], NUMBERS):
        scores, scale = scores.args[0], float(scores.args[1])
    if scores.target is aten.baddbmm.default and scores.kwargs.get("beta", 1) == 1:
        found = _Scores(scores.args[1], scores.args[2], scores.args[0], float(scores.kwargs.get("alpha", 1)) * scale)
        found = found if scale == 1 else None  # the mask would be scaled too
    elif scores.target in PRODUCTS:
        found = _Scores(*scores.args, None, scale)
    else:
        return None
    return found if found and only_user(scores) and _alike(found, node.args[1]) else None


def _uncast(node):
    while node.target is aten.to.dtype and only_user(node) and node.meta["val"].dtype.is_floating_point:
        node = node.args[0]
    return node


def _alike(scores: _Scores, v) -> bool:
    """Matrices in stacks of one shape, and a mask in the dtype of the scores."""
    lead = {tuple(x.meta["val"].shape[:-2]) for x in (scores.q, scores.k_transposed, v)}
    if len(lead) > 1 or scores.q.meta["val"].ndim < 2:
        return False
    return scores.mask is None or scores.mask.meta["val"].dtype == scores.q.meta["val"].dtype


def _transposes(node) -> bool:
    if node.target is not aten.transpose.int:
        return False
    rank = node.meta["val"].ndim
    return {axis % rank for axis in node.args[1:3]} == {rank - 1, rank - 2}
