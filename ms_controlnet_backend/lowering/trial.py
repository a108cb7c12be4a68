"""A graph of one call of an overload, from a sample declared beside its lowering, and what is right for it."""

from __future__ import annotations

import torch

from ..capture import Captured, CapturedWeight, captured_node
from .samples import T


def trial(op, args, kwargs, generator, dtype=torch.float32) -> tuple[Captured, list, list]:
    """(graph, input tensors, what torch returns: a list).

    args, kwargs: of a Sample; its tensors are made with the generator, those of floats in ``dtype``.
    """
    graph = torch.fx.Graph()
    inputs, weights, tensors, values = {}, {}, [], {}

    def place(a):
        if isinstance(a, T):
            value = a.make(generator)
            value = value.to(dtype) if value.is_floating_point() else value
            node = graph.placeholder(f"p{len(values)}")
            node.meta["val"] = values[node] = value
            if a.weight:
                weights[node] = CapturedWeight(node.name, torch.nn.Parameter(value, requires_grad=False))
            else:
                inputs[node] = len(tensors)
                tensors.append(value)
            return node
        return [place(x) for x in a] if isinstance(a, list) else a

    def real(a):
        if isinstance(a, torch.fx.Node):
            return values[a]
        return [real(x) for x in a] if isinstance(a, list) else a

    node_args = [place(a) for a in args]
    expected = op(*(real(a) for a in node_args), **kwargs)
    node = graph.call_function(op, tuple(node_args), dict(kwargs))
    node.meta["val"] = expected
    captured = captured_node("lowering_test", node, inputs, weights)
    return captured, tensors, list(expected) if isinstance(expected, (list, tuple)) else [expected]


def in_float32(captured: Captured, tensors: list) -> list[torch.Tensor]:
    """What torch computes in float32 from the same numbers: the reference for half precision, free of its rounding."""

    def wide(t):
        return t.float() if t.is_floating_point() else t

    values = {n: wide(tensors[i]) for n, i in captured.inputs.items()}
    values |= {n: wide(w.tensor) for n, w in captured.weights.items()}
    with torch.no_grad():
        return list(captured.graph_module(*(values[n] for n in captured.graph.nodes if n.op == "placeholder")))
