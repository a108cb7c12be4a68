"""The first differing operator inside a component: its captured graph, node by node, on both sides.

Every node is computed by both engines from the reference's inputs, as a graph of its own, so an error shows where it is
made and not where it ends up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ..backends.eager_torch import TorchEngine
from ..capture import Captured, capture, captured_node
from ..errors import BackendError, Refused
from ..lowering.lower import describe, origin
from ..signature import Arguments
from .metrics import Distance, distance, dtype_name
from .recording import tensors_of
from .shadow import Suspect
from .verdict import beyond, tolerance


@dataclass(frozen=True)
class Operator:
    """A node of the graph. overload: e.g. ``aten.silu.default``; schema with its arguments' types. module: path inside
    the component. output: index among the node's outputs."""

    component: str
    overload: str
    schema: str
    module: str
    node: str
    output: int
    shape: tuple[int, ...]
    dtype: str
    distance: Distance


@dataclass
class Found:
    """first: the first operator beyond tolerance, or None. worst: the furthest off of those compared. compared: how
    many operators were. refused: overload → why one side cannot run it alone. conclusion: a sentence."""

    first: Operator | None = None
    worst: Operator | None = None
    compared: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    conclusion: str = ""


def bisect(suspect: Suspect, reference, other, progress=lambda nodes: nodes) -> Found:
    """Look into a component call. reference, other: engines. progress: wraps the list of nodes.

    To be called where components run on plain torch. Engines without ``evaluate`` cannot be looked into.
    """
    for engine in (reference, other):
        if not hasattr(engine, "evaluate"):
            return Found(conclusion=f"{engine.describe()} cannot run single operators (it has no Engine.evaluate)")
    site = suspect.site
    try:
        structure, tensors = Arguments(suspect.original, site.scalars).split(suspect.args, suspect.kwargs)
        captured = capture(site.label, site.module, suspect.original, structure, tensors)
        if captured.objects:
            raise Refused("it draws from a generator of its own")
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            expected = tensors_of(suspect.original(*suspect.args, **suspect.kwargs))
        if _apart(captured, tensors, expected):
            return Found(
                conclusion=f"the captured graph does not compute what {site.label} does: torch.export is wrong"
            )
        for engine in (reference, other):
            engine.optimise(captured)
        if _apart(captured, tensors, expected):
            return Found(conclusion="the graph passes change what the graph computes")
        found = _Walk(captured, reference, other, site.label).run(tensors, progress)
    except BackendError as error:
        return Found(conclusion=f"{site.label} cannot be run operator by operator: {error}")
    if found.first is not None:
        found.conclusion = f"{found.first.overload} in {found.first.module or site.label} is the first that differs"
    else:
        found.conclusion = (
            "no single operator is beyond tolerance: look at what the backend does around them (weights it holds, "
            "results it keeps, fused operators), or at many small errors that add up"
        )
    return found


def _apart(captured: Captured, tensors: list, expected: list) -> bool:
    """Does a graph, run by torch as a whole from the same random state, miss what the module returned?"""
    with torch.random.fork_rng(devices=[]):
        found = list(zip(TorchEngine().evaluate(captured, tensors), expected))
    return any(not distance(g, e).relative_rms <= tolerance(dtype_name(e.dtype)).component for g, e in found)


class _Walk:
    def __init__(self, captured: Captured, reference, other, component: str):
        self._captured, self._reference, self._other = captured, reference, other
        self._component = component
        self._results: dict = {}
        self._found = Found()

    def run(self, tensors: list, progress) -> Found:
        graph = self._captured.graph
        last_use = {n: user for user in graph.nodes for n in user.all_input_nodes}
        for node in graph.nodes:
            if node.op == "placeholder":
                weight = self._captured.weights.get(node)
                own = weight.tensor.detach() if weight else tensors[self._captured.inputs[node]]
                self._results[node] = own
        for node in progress([n for n in graph.nodes if n.op == "call_function"]):
            if isinstance(node.target, torch._ops.OpOverload):
                if node.target._schema.returns and self._compare(node):  # an assertion returns nothing
                    break
            else:  # operator.getitem of a node's several outputs, and the like: Python, the same on both sides
                args = torch.fx.map_arg((node.args, node.kwargs), self._results.__getitem__)
                self._results[node] = node.target(*args[0], **args[1])
            for used in node.all_input_nodes:  # a full-size network's values do not all fit into memory
                if last_use[used] is node:
                    del self._results[used]
        return self._found

    def _compare(self, node) -> bool:
        """Compute a node on both sides; True if it is the one."""
        single, inputs = self._single(node)
        with torch.no_grad():
            expected = self._reference.evaluate(single, inputs)
        self._results[node] = expected if isinstance(node.meta["val"], (list, tuple)) else expected[0]
        single, inputs = self._single(node)  # passes changed the other one
        try:
            got = self._other.evaluate(single, inputs)
        except Refused as error:
            self._found.refused[str(node.target)] = str(error)
            return False
        self._found.compared += 1
        for i, (g, e) in enumerate(zip(got, expected)):
            module = origin(node).rpartition(": ")[0]
            operator = Operator(
                self._component, str(node.target), describe(node.target), module, node.name, i,
                tuple(e.shape), dtype_name(e.dtype), distance(g, e),
            )  # fmt: skip
            worst = self._found.worst
            if worst is None or not operator.distance.relative_rms <= worst.distance.relative_rms:
                self._found.worst = operator
            if beyond(operator, "operator"):
                self._found.first = operator
                return True
        return False

    def _single(self, node) -> tuple[Captured, list]:
        """A graph of this node alone, and the tensors it is called with. Weights stay weights."""
        graph = torch.fx.Graph()
        inputs, weights, tensors = {}, {}, []
        made: dict = {}

        def place(used):
            if used in made:
                return made[used]
            new = made[used] = graph.placeholder(used.name)
            value = self._results[used]
            new.meta["val"] = used.meta["val"]
            if used in self._captured.weights:
                weights[new] = replace(self._captured.weights[used], tensor=value)
            else:
                inputs[new] = len(tensors)
                tensors.append(value)
            return new

        return captured_node("operator", graph.node_copy(node, place), inputs, weights), tensors
