"""Single ATen overloads on the device, through the same lowerings as whole components."""

from __future__ import annotations

import functools
import logging
import operator

import torch
from torch.utils import _pytree as pytree

from ..capture import Captured, captured_node
from ..compat import forks, mindspore_runtime, torch_operators
from ..compat.torch_export import version_of
from ..errors import Refused, refusal
from ..interruptions import raise_if_scripts
from ..layout import Layout
from .recent import Recent
from .resident import Held, ResidentTensor, Uploaded, device_value, plain
from .weights import WeightStore

logger = logging.getLogger(__name__)
KEPT = 256
"""Compiled operators; beyond that the one not used for longest is dropped."""
_WEIGHTS = (torch.nn.Parameter, torch.nn.Buffer)


class Eager:
    """build: a Captured and its tensors → (executable, output), as :func:`.executable.build`. count: see Transfers.

    An overload runs here if it has a lowering. Ordinary tensors among its arguments are taken up: parameters by way of
    the store, as those of components, anything else as what is fed to a component.
    """

    def __init__(self, build, has_lowering, store: WeightStore):
        self._build = build
        self._has_lowering = has_lowering
        self._store = store
        self._graphs = Recent(KEPT)

    def __call__(self, op, args, kwargs, count):
        """ResidentTensors as the overload returns them, or NotImplemented."""
        forks.check()
        if not self._has_lowering(op):
            return self._part(op, args, kwargs, count)
        if kwargs.get("device") not in (None, torch.device("cpu")):
            return NotImplemented
        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = [i for i, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
        tensors = [leaves[i] for i in places]
        if not all(map(_is_fed, tensors)):
            return NotImplemented
        key = (op, torch_operators.structure(spec), *map(_key, leaves))
        with mindspore_runtime.LOCK:
            return self._answer(op, key, (leaves, spec, places), tensors, count)

    def _answer(self, op, key, call: tuple, tensors: list, count):
        graph = self._graphs.use(key)
        if graph is NotImplemented:
            return graph
        try:
            values = [self._uploaded(t) if isinstance(t, _WEIGHTS) else t for t in tensors]
            if graph is not None:
                return graph(values, count)
            graph, output = self._build(_captured(op, *call), values)
        except Exception as error:  # noqa: BLE001 - as for whole components
            raise_if_scripts(error)
            if not isinstance(error, Refused):
                logger.warning("%s between components runs on torch: %s", op, refusal(error))
            graph = output = NotImplemented
        self._graphs.keep(key, graph)
        return output

    def _uploaded(self, t: torch.Tensor) -> Uploaded:
        weight = self._store.get(t, "operand", tuple(t.shape))
        if not weight.shared:
            weight.refresh(thoroughly=True)
        return Uploaded(mindspore_runtime.as_argument(weight.parameter))

    def _part(self, op, args, kwargs, count):
        """A part of a composite operator; its results that serve gradients are the host's, if anybody asks."""
        whole = torch_operators.recomposed(op, args, kwargs)
        out = NotImplemented if whole is None else self(*whole, count)
        if out is NotImplemented or len(op._schema.returns) == 1:
            return out
        leaves, spec = pytree.tree_flatten((args, kwargs))
        before = list(map(_state, leaves))

        @functools.cache
        def results():
            if list(map(_state, leaves)) != before:
                raise RuntimeError(f"what {op} was computed from was written to since: give it a clone()")
            args, kwargs = pytree.tree_unflatten(map(plain, leaves), spec)
            return op(*args, **kwargs)

        key = (op, torch_operators.structure(spec), *map(_key, leaves))
        layouts = self._graphs.use(key)
        if layouts is None:
            with torch_operators.examples():
                args, kwargs = pytree.tree_unflatten(map(_example, leaves), spec)
                layouts = [Layout.of(t) for t in op(*args, **kwargs)]
            self._graphs.keep(key, layouts)
        others = [
            ResidentTensor(Held(None, lambda i=i: results()[i], None), layout) for i, layout in enumerate(layouts) if i
        ]
        return (out, *others)


def _is_fed(t: torch.Tensor) -> bool:
    """Is the tensor on the device, or one that may be taken there? Gradients are torch's."""
    if device_value(t) is not None:
        return True
    if type(t) not in (torch.Tensor, *_WEIGHTS) and not isinstance(t, ResidentTensor):
        return False
    if t.device.type != "cpu" or t.layout is not torch.strided or t.is_neg():
        return False
    return t.numel() == 1 or not (torch.is_grad_enabled() and t.requires_grad or torch_operators.in_backward())


def _key(x) -> tuple:
    return (x.dtype, x.shape, x.stride()) if isinstance(x, torch.Tensor) else (type(x), repr(x))


def _state(x):
    """Another one after a write."""
    if isinstance(x, ResidentTensor):
        return id(x.held.memory), x.held.memory.given
    return version_of(x) if isinstance(x, torch.Tensor) else None


def _example(x):
    return Layout.of(x)._replace(offset=0).empty() if isinstance(x, torch.Tensor) else x


def _captured(op, leaves: list, spec, places: list[int]) -> Captured:
    """A graph of one call of the overload."""
    graph, leaves = torch.fx.Graph(), list(leaves)
    inputs = {}
    # a view of a real tensor touches no memory, where a fake one has other strides for axes of size 1
    is_view = any(r.alias_info for r in op._schema.returns)
    with torch_operators.examples(fake=not is_view):
        example = [_example(x) for x in leaves]
        for n, i in enumerate(places):
            leaves[i] = graph.placeholder(f"x{n}")
            leaves[i].meta["val"] = example[i]
            inputs[leaves[i]] = n
        args, kwargs = pytree.tree_unflatten(example, spec)
        try:
            result = op(*args, **kwargs)
        except Exception as error:
            raise_if_scripts(error)
            raise Refused(f"{op} has no fake kernel: {error}") from error
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    node = graph.call_function(op, args, kwargs)
    node.meta["val"] = result
    rebuild = operator.itemgetter(0) if isinstance(result, torch.Tensor) else type(result)
    return captured_node(str(op).replace("aten.", ""), node, inputs, {}, rebuild)
