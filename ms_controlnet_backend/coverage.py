"""What would be compiled of a pipeline, and how: each component's operators, their lowerings and the ways chosen.

Components are captured and lowered as :func:`~.binding.enable` would, in a run of the pipeline that torch computes:
MindSpore compiles nothing.
"""

from __future__ import annotations

import collections
from dataclasses import asdict, dataclass, field

from . import passes
from .errors import Refused
from .hookspecs import Options
from .lowering.lower import lower
from .lowering.prologue import split
from .plugins import registry
from .runtime.component import MindSporeEngine
from .runtime.target import Target


@dataclass
class Operator:
    """lowering: file and function, None where there is none. choices: way of computing it → how often chosen."""

    name: str
    count: int
    lowering: str | None
    choices: dict[str, int] = field(default_factory=dict)


@dataclass
class Component:
    """One signature of one component. refused: why it would stay on torch, else None. kernels: calls of MindSpore's
    primitives in a step; kernels_once: those computed once a run."""

    label: str
    signature: str = ""
    operators: list[Operator] = field(default_factory=list)
    refused: str | None = None
    kernels: int = 0
    kernels_once: int = 0

    def to_dict(self) -> dict:
        return asdict(self)


class _Looked(Refused):
    """Not a refusal: torch is to answer the call."""


class CoverageEngine(MindSporeEngine):
    """Captures and lowers every site that is called and leaves the answer to torch. found: by label and signature."""

    def __init__(self, device: str = "CPU"):
        super().__init__(Target(device), Options(device=device))
        self.found: dict[tuple[str, str], Component] = {}

    def build(self, captured, tensors, *, constant=(), **options):
        passes.run(captured, registry().passes(self.target.device))
        shapes = [f"{captured.structure.names[i]}: {list(n.meta['val'].shape)}" for n, i in captured.inputs.items()]
        component = Component(captured.name, ", ".join(shapes))
        self.found[component.label, component.signature] = component
        calls = collections.Counter(n.target for n in captured.graph.nodes if n.op == "call_function")
        component.operators = [self._operator(op, count) for op, count in calls.items() if hasattr(op, "_schema")]
        try:
            program = lower(captured, registry(), self.target.device, self.target.compute_dtype)
        except Refused as refusal:
            component.refused = str(refusal)
            raise
        for operator in component.operators:
            operator.choices = dict(program.choices.get(operator.name, {}))
        owners = captured.structure.owners
        fixed = [v for v, i in zip(program.inputs, captured.inputs.values()) if owners and owners[i] in constant]
        first, step = split(program, fixed)
        component.kernels, component.kernels_once = len(step.instructions), len(first.instructions) if first else 0
        raise _Looked(f"{captured.name} was looked at")

    def _operator(self, op, count: int) -> Operator:
        lowering = registry().lowering(op, self.target.device)
        if lowering is None:
            return Operator(str(op), count, None)
        function = lowering.function
        return Operator(str(op), count, f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}")

    def warn_once(self, message: str) -> None:
        """Told of every refusal, those of ``build`` among them: remember what could not even be captured."""
        label, _, reason = message.partition(" stays on torch: ")
        known = any(known == label for known, _ in self.found)
        if not known:
            self.found[label, ""] = Component(label, refused=reason)


def cover(pipe, **call) -> list[Component]:
    """The coverage of one call of a pipeline, computed by torch; one entry a component and signature."""
    from . import binding

    engine = CoverageEngine()
    with binding.on(engine):
        pipe(**call)
    return list(engine.found.values())


def lines(components: list[Component]) -> list[str]:
    """As text."""
    text = []
    for c in components:
        calls = sum(o.count for o in c.operators)
        text += [f"{c.label}({c.signature})"]
        if c.refused:
            text += [f"  stays on torch: {c.refused}"]
        else:
            text += [f"  {calls} operators → {c.kernels} kernels a step, {c.kernels_once} once a run"]
        names = [(o.name, str(o.count), o.lowering or "NO LOWERING", _choices(o)) for o in c.operators]
        widths = [max(map(len, column)) for column in list(zip(*names))[:3]]
        for name, count, lowering, choices in sorted(names, key=lambda row: -int(row[1])):
            row = f"    {name:{widths[0]}}  {count:>{widths[1]}}  {lowering:{widths[2]}}  {choices}"
            text += [row.rstrip()]
        text += [""]
    left = [c.label for c in components if c.refused]
    return [*text, f"left on torch: {', '.join(left)}" if left else "every component is compiled"]


def _choices(operator: Operator) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(operator.choices.items(), key=lambda item: -item[1]))
