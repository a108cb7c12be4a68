"""A module's forward with example arguments → a functional ATen graph, by ``torch.export``.

The forward is wrapped so that export sees a function from a flat list of tensors to a flat list of tensors: upstream's
argument and output structures (dataclasses, tuples, dictionaries) are taken apart and rebuilt here, and hooks on the
module itself stay outside the graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .compat import model_outputs, torch_export
from .errors import NotNow, Refused, first_line
from .foreign import Impure, effects, hooked, unfollowed
from .gate import gate
from .intercept import is_own
from .interruptions import raise_if_scripts
from .layout import Layout
from .reach import Reach
from .settings import OWNER, Settings
from .signature import Structure
from .state import State

_RETURNED = (int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


@dataclass(frozen=True)
class CapturedWeight:
    """name: path in the module. constant: made while tracing, so no change of the module can reach it."""

    name: str
    tensor: torch.Tensor
    constant: bool = False


@dataclass
class Captured:
    """A functional ATen graph.

    inputs: placeholder node → index of the tensor in the structure, in the graph's order. weights: placeholder node →
    CapturedWeight. outputs: the nodes of the tensors returned. rebuild: those tensors → what forward returns. layouts:
    of those tensors, as forward itself returned them: passes may change what the nodes say. objects: placeholder node →
    a constant that is no tensor (a generator of random numbers).
    """

    name: str
    graph_module: Any
    structure: Structure
    inputs: dict
    weights: dict
    outputs: list
    rebuild: Callable[[list], Any]
    layouts: list[Layout] = field(default_factory=list)
    objects: dict = field(default_factory=dict)

    @property
    def graph(self):
        return self.graph_module.graph

    def described(self) -> str:
        """Equal for two captures of a module that compute the same; to be asked before passes change the graph."""
        weights = [(w.name, w.tensor.tolist() if w.constant else id(w.tensor)) for w in self.weights.values()]
        inputs = [(n.name, i) for n, i in self.inputs.items()]
        return hashlib.sha256(repr((str(self.graph), weights, inputs)).encode()).hexdigest()


class _Flat(torch.nn.Module):
    """Flat tensors in, flat tensors out. call: the function traced; the component is here for its weights only."""

    def __init__(self, component, call: Callable):
        super().__init__()
        self.component = component
        self._call = (call,)

    def forward(self, *tensors):
        return self._call[0](tensors)


@dataclass
class _Constant:
    value: Any


def capture(
    name: str, component, forward: Callable, structure: Structure, tensors: list, settings=Settings()
) -> Captured:
    """Trace ``forward`` of ``component``, called with the structure's arguments.

    name: for the generated source. tensors: examples; only their shapes, dtypes and strides count. settings: numbers
    in the component that become one more input of the graph, a vector after the tensors.
    Raises Refused, with upstream's own error as its cause, where the module cannot be traced or is not functional;
    Impure where it does something that a graph cannot do; NotNow while torch's functions are replaced in a way that a
    trace does not survive, or where weights have no memory. Whatever happens, nothing of it is left in any object.
    """
    for left in reversed(range(torch_export.TRACES)):
        try:
            with gate.alone(component.modules()):
                return _captured(name, component, forward, structure, tensors, settings)
        except Impure as impure:
            # another thread may have drawn the random numbers; it seldom does so in every trace
            if not (left and impure.draws and threading.active_count() > 1):
                raise


def _captured(name: str, component, forward: Callable, structure: Structure, tensors: list, settings) -> Captured:
    modules = list(component.modules())
    if any(t.is_meta for t in _tensors(component)):
        raise NotNow("its weights are brought layer by layer, and are nowhere between calls (sequential offloading); "
                     "model offloading keeps a component whole")  # fmt: skip
    covered = component if is_own(component, forward) else None
    reach = Reach(modules, covered=covered)
    if reach.untraceable:
        raise NotNow(reach.untraceable[0])
    # hooks inside the component may keep what they see (feature extractors do): never show them fake tensors
    python = hooked(component, forward) or unfollowed(component, reach)
    if python:
        raise Impure(python)
    arguments = len(tensors)
    if len(settings):
        tensors = [*tensors, *settings.tensors()]
        structure = replace(structure, names=(*structure.names, "settings"), owners=(*structure.owners, OWNER))
    recorded: dict = {}  # export puts attributes back that a forward assigns, so the output's structure is kept here

    def call(tensors):
        args, kwargs = structure.rebuild(tensors[:arguments])
        traced = settings.traced(tensors[arguments]) if len(settings) else contextlib.nullcontext()
        # export has put copies of containers into the module by now, and takes back what a forward assigns
        inside = State(modules, Reach(modules, covered=covered), tracing=True)
        try:
            with traced:
                out = forward(*args, **kwargs)
        except Exception as error:
            raise torch_export.Failed from error
        finally:
            changes.extend(inside.changes())
        leaves, recorded["spec"] = _flattened(out)
        recorded["constants"] = [None if isinstance(x, torch.Tensor) else _Constant(x) for x in leaves]
        returned = tuple(x for x in leaves if isinstance(x, torch.Tensor))
        recorded["layouts"] = [Layout.of(t)._replace(offset=0) for t in returned]  # in memory of its own
        return returned

    state, failure, changes = State([*modules, *reach.modules], reach), None, []
    try:
        exported = torch_export.export(_Flat(component, call), tuple(torch_export.example(t) for t in tensors))
    except Exception as error:  # noqa: BLE001 - whatever upstream's code or torch.export raises
        failure = error.__cause__ if isinstance(error, torch_export.Failed) else error
    finally:
        changes += state.put_back()
    if failure is not None:
        raise_if_scripts(failure)
    impure = effects(component, reach, changes)
    if impure is not None:
        raise impure from failure
    if isinstance(failure, Refused):
        raise failure
    if failure is not None:
        raise Refused(f"torch.export failed: {type(failure).__name__}: {first_line(failure)}") from failure
    inputs, weights, outputs = torch_export.signature(exported)
    held = {_place(t): t for t in (*reach.tensors, *(p for m in reach.modules for p in _tensors(m)))}
    graph_module = exported.graph_module
    nodes = {n.name: n for n in graph_module.graph.nodes}
    return Captured(
        name=name,
        graph_module=graph_module,
        structure=structure,
        inputs={nodes[p]: i for i, p in enumerate(inputs)},
        weights={nodes[p]: _weight(component, path, tensor, held) for p, (path, tensor) in weights.items()},
        outputs=[nodes[o] for o in outputs],
        rebuild=_rebuilder(recorded["spec"], recorded["constants"]),
        objects={nodes[p]: o for p, o in torch_export.generators(exported).items()},
        layouts=recorded["layouts"],
    )


def captured_node(name: str, node, inputs: dict, weights: dict, rebuild: Callable[[list], Any] = list) -> Captured:
    """A graph of a single call, completed with its outputs: the tensors in the call's ``meta["val"]``.

    inputs, weights, rebuild: as of Captured.
    """
    graph, outputs = node.graph, [node]
    if isinstance(node.meta["val"], (list, tuple)):
        outputs = [graph.call_function(operator.getitem, (node, i)) for i in range(len(node.meta["val"]))]
        for output, value in zip(outputs, node.meta["val"]):
            output.meta["val"] = value
    graph.output(tuple(outputs))
    structure = Structure((), tuple(n.name for n in inputs), {}, ("",) * len(inputs))
    layouts = [Layout.of(n.meta["val"]) for n in outputs]
    return Captured(name, torch.fx.GraphModule({}, graph), structure, inputs, weights, outputs, rebuild, layouts)


def _weight(component, path: str, exported: torch.Tensor, held: dict) -> CapturedWeight:
    """The module's own tensor at the path (export may hold another object), that of foreign code, or a constant."""
    path = path.removeprefix("component.")
    owner, _, name = path.rpartition(".")
    try:
        own = getattr(component.get_submodule(owner), name)
    except AttributeError:
        own = held.get(_place(exported))
    if isinstance(own, torch.Tensor):
        return CapturedWeight(path, own)
    return CapturedWeight(path, exported, constant=True)


def _place(t: torch.Tensor) -> tuple:
    return t.untyped_storage().data_ptr(), t.storage_offset(), t.shape, t.stride(), t.dtype


def _tensors(module):
    yield from module.parameters()
    yield from module.buffers()


def _flattened(out):
    leaves, spec = pytree.tree_flatten(out)
    odd = next((x for x in leaves if not isinstance(x, (torch.Tensor, *_RETURNED))), None)
    if odd is None:
        return leaves, spec
    if model_outputs.register(type(odd)):
        return _flattened(out)
    raise Refused(f"it returns a {type(odd).__name__}, which may hold tensors")


def _rebuilder(spec, constants) -> Callable[[list], Any]:
    def rebuild(tensors: list):
        it = iter(tensors)
        return pytree.tree_unflatten([next(it) if c is None else c.value for c in constants], spec)

    return rebuild
