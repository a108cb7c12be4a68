"""Single ATen overloads on the device, through the same lowerings as whole components."""

from __future__ import annotations

import logging
import operator

import torch
from torch.utils import _pytree as pytree

from ..capture import Captured, captured_node
from ..errors import Refused, refusal
from .recent import Recent
from .resident import ResidentTensor

logger = logging.getLogger(__name__)
KEPT = 256
"""Compiled operators; beyond that the one not used for longest is dropped."""


class Eager:
    """build: a Captured and its tensors → (executable, output), as :func:`.executable.build`. count: see Transfers.

    An overload runs here if it has a lowering and its tensors are on the device (single numbers are taken up).
    """

    def __init__(self, build, has_lowering):
        self._build = build
        self._has_lowering = has_lowering
        self._graphs = Recent(KEPT)

    def __call__(self, op, args, kwargs, count):
        """ResidentTensors as the overload returns them, or NotImplemented."""
        if not self._has_lowering(op) or kwargs.get("device") not in (None, torch.device("cpu")):
            return NotImplemented
        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        tensors = [leaves[i] for i in places]
        if any(not isinstance(t, ResidentTensor) and (t.numel() != 1 or t.device.type != "cpu") for t in tensors):
            return NotImplemented
        rest = [(x.dtype, x.shape) if isinstance(x, torch.Tensor) else (type(x), repr(x)) for x in leaves]
        key = (op, spec, *rest)
        graph = self._graphs.use(key)
        if graph is NotImplemented:
            return graph
        try:
            if graph is not None:
                return graph(tensors, count)
            graph, output = self._build(_captured(op, leaves, spec, places), tensors)
        except Exception as error:  # noqa: BLE001 - as for whole components
            if not isinstance(error, Refused):
                logger.warning("%s between components runs on torch: %s", op, refusal(error))
            graph = output = NotImplemented
        self._graphs.keep(key, graph)
        return output


def _captured(op, leaves: list, spec, places: list[int]) -> Captured:
    """A graph of one call of the overload."""
    graph, leaves = torch.fx.Graph(), list(leaves)
    example, inputs = list(leaves), {}
    for n, i in enumerate(places):
        example[i] = torch.empty(leaves[i].shape, dtype=leaves[i].dtype, device="meta")
        leaves[i] = graph.placeholder(f"x{n}")
        leaves[i].meta["val"] = example[i]
        inputs[leaves[i]] = n
    args, kwargs = pytree.tree_unflatten(example, spec)
    kwargs = {k: v for k, v in kwargs.items() if k != "device"}
    try:
        result = op(*args, **kwargs)
    except Exception as error:
        raise Refused(f"{op} has no meta kernel: {error}") from error
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    node = graph.call_function(op, args, kwargs)
    node.meta["val"] = result
    rebuild = operator.itemgetter(0) if isinstance(result, torch.Tensor) else type(result)
    return captured_node(str(op).replace("aten.", ""), node, inputs, {}, rebuild)
