"""What would be compiled of a pipeline, and how: each component's operators, their lowerings and the ways chosen.

Components are captured and lowered as :func:`~.binding.enable` would, for a device that need not be there, in a run of
the pipeline in which they answer with zeros: MindSpore compiles nothing and torch computes nothing of them.
"""

from __future__ import annotations

import collections
from dataclasses import asdict, dataclass, field, replace

from .errors import Refused
from .lowering.ascend.npu import NPUS, Prediction, predict
from .lowering.ascend.work import work
from .lowering.lower import lower_for
from .lowering.prologue import split_for
from .plugins import registry
from .runtime.blank import BlankEngine
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
    primitives in a step; kernels_once: those computed once a run. Of Ascend also flops and bytes of a step, and what
    is predicted of it on each NPU: name → seconds."""

    label: str
    signature: str = ""
    operators: list[Operator] = field(default_factory=list)
    refused: str | None = None
    kernels: int = 0
    kernels_once: int = 0
    flops: float | None = None
    bytes: float | None = None
    predicted: dict[str, Prediction] = field(default_factory=dict)

    def to_dict(self) -> dict:
        return asdict(self)


class CoverageEngine(BlankEngine):
    """Lowers every site that is called. found: by label and signature."""

    def __init__(self, target: Target):
        super().__init__(target)
        self.found: dict[tuple[str, str], Component] = {}

    def look(self, captured, constant) -> None:
        target = self.target
        shapes = [f"{captured.structure.names[i]}: {list(n.meta['val'].shape)}" for n, i in captured.inputs.items()]
        component = Component(captured.name, ", ".join(shapes))
        self.found[component.label, component.signature] = component
        calls = collections.Counter(n.target for n in captured.graph.nodes if n.op == "call_function")
        component.operators = [self._operator(op, count) for op, count in calls.items() if hasattr(op, "_schema")]
        try:
            choices, first, step = _lowered(captured, constant, target)
        except Refused as refusal:
            component.refused = str(refusal)
            raise
        for operator in component.operators:
            operator.choices = dict(choices.get(operator.name, {}))
        component.kernels, component.kernels_once = len(step.instructions), len(first.instructions) if first else 0
        if target.device == "Ascend":
            once, every = work(first) if first else [], work(step)
            component.kernels, component.kernels_once = len(every), len(once)
            component.flops, component.bytes = sum(w.matrix for w in every), sum(w.moved for w in every)
            for npu in NPUS:  # each has its own kernels
                other = step if npu == target.npu else _lowered(captured, constant, replace(target, npu=npu))[2]
                component.predicted[npu] = predict(work(other), npu)

    def _operator(self, op, count: int) -> Operator:
        lowering = registry().lowering(op, self.target.device)
        if lowering is None:
            return Operator(str(op), count, None)
        function = lowering.function
        return Operator(str(op), count, f"{function.__module__.rpartition('.lowering.')[2]}.{function.__qualname__}")

    def warn_once(self, message: str) -> None:
        """Told of every refusal, those of ``build`` among them: remember what could not even be captured."""
        label, _, reason = message.partition(" stays on torch: ")
        known = any(known == label for known, _ in self.found)
        if not known:
            self.found[label, ""] = Component(label, refused=reason)


def _lowered(captured, constant, target: Target):
    """(the ways chosen, what is computed once a run or None, the step)."""
    program = lower_for(target, captured, registry())
    return program.choices, *split_for(captured, program, constant)


def cover(pipe, target: Target = Target("CPU"), **call) -> list[Component]:
    """The coverage of one call of a pipeline; one entry a component and signature."""
    from . import binding

    engine = CoverageEngine(target)
    with binding.on(engine):
        pipe(**call)
    return list(engine.found.values())


def lines(components: list[Component], npu: str | None = None) -> list[str]:
    """As text. npu: whose predictions are shown."""
    text = []
    for c in components:
        calls = sum(o.count for o in c.operators)
        text += [f"{c.label}({c.signature})"]
        if c.refused:
            text += [f"  stays on torch: {c.refused}"]
        else:
            text += [f"  {calls} operators → {c.kernels} kernels a step, {c.kernels_once} once a run"]
            text += _predicted(c, npu)
        names = [(o.name, str(o.count), o.lowering or "NO LOWERING", _choices(o)) for o in c.operators]
        widths = [max(map(len, column)) for column in list(zip(*names))[:3]]
        for name, count, lowering, choices in sorted(names, key=lambda row: -int(row[1])):
            row = f"    {name:{widths[0]}}  {count:>{widths[1]}}  {lowering:{widths[2]}}  {choices}"
            text += [row.rstrip()]
        text += [""]
    if npu is not None and any(c.predicted for c in components):
        text += [f"PREDICTED, not measured, for {npu} with peak figures from: {NPUS[npu].source}", ""]
    left = [c.label for c in components if c.refused]
    return [*text, f"left on torch: {', '.join(left)}" if left else "every component is compiled"]


def _predicted(c: Component, npu: str | None) -> list[str]:
    if npu not in c.predicted:
        return []
    p = c.predicted[npu]
    parts = f"operations {p.operations * 1e3:.2g}, memory {p.memory * 1e3:.2g}, launches {p.launches * 1e3:.2g}"
    return [
        f"  {c.flops / 1e12:.3g} TFLOP, {c.bytes / 1e9:.3g} GB: {p.seconds * 1e3:.3g} ms predicted on {npu} ({parts})"
    ]


def _choices(operator: Operator) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(operator.choices.items(), key=lambda item: -item[1]))
