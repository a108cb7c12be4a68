"""Cuts a program that calls the host into segments, each a program of its own, with the calls between them.

As few segments as the dependences admit: an instruction belongs to the first one in which all it needs is there. What
depends on weights alone is there everywhere, and is computed where it is first used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .host_call import HostCall
from .liveness import keep, values_in
from .program import Program, Value


@dataclass
class Stage:
    """program: what is compiled, None where nothing is. calls: of the host, after it, in the order of the graph.
    dropped: what is not needed any more after them."""

    program: Program | None
    calls: list[HostCall]
    dropped: list[Value] = field(default_factory=list)


def host_calls(program: Program) -> list[HostCall]:
    return [i for i in program.instructions if isinstance(i, HostCall)]


def segments(step: Program) -> list[Stage]:
    """The stages of a step: the first one only calls the host, before anything else."""
    at = _levels(step)
    count = 1 + max(at.values(), default=-1)
    stages = []
    for level in range(-1, count):
        own = [i for i in step.instructions if at[id(i)] == level]
        calls = [i for i in own if isinstance(i, HostCall)]
        compiled = [i for i in own if not isinstance(i, HostCall)]
        program = None
        if compiled:
            made = [v for i in compiled for v in i.outputs]
            others = [i for i in step.instructions if at[id(i)] > level] + calls
            needed = _used(others) | set(step.outputs)
            used = _used(compiled) - set(made) - set(step.weights)
            outputs = [v for v in made if v in needed]
            program = keep(step, f"{step.name} segment {level}", _in_order(step, used), compiled, outputs)
        stages.append(Stage(program, calls))
    _drop(stages, step)
    return [s for s in stages if s.program or s.calls]


def _levels(step: Program) -> dict[int, int]:
    """id of an instruction → the segment that it is in, or that it comes after; -1: before the first one."""
    at: dict[int, int] = {}
    compiled_from: dict[Value, int] = {}  # the first segment that can read it
    called_from: dict[Value, int] = {}  # the first segment after which the host can
    free = set(step.weights)
    floor = -1  # calls with an effect stay in their order
    for i in step.instructions:
        used = set(values_in(i.args))
        if isinstance(i, HostCall):
            level = max((called_from.get(v, -1) for v in used), default=-1)
            if i.effect:
                level = floor = max(floor, level)
            compiled_from |= dict.fromkeys(i.outputs, level + 1)
        else:
            level = max((compiled_from.get(v, 0) for v in used), default=0)
            compiled_from |= dict.fromkeys(i.outputs, level)
            if used <= free:
                free.update(i.outputs)
        at[id(i)] = level
        called_from |= dict.fromkeys(i.outputs, level)
    _later(step, at, free)
    return at


def _later(step: Program, at: dict[int, int], free: set[Value]) -> None:
    """What depends on weights alone goes to the segment of its first user."""
    first: dict[Value, int] = dict.fromkeys(step.outputs, max(at.values(), default=0))
    for i in reversed(step.instructions):
        if not isinstance(i, HostCall) and free.issuperset(i.outputs):
            at[id(i)] = min(first[v] for v in i.outputs if v in first)
        for v in values_in(i.args):
            first[v] = min(first.get(v, at[id(i)]), at[id(i)])


def _used(instructions: Iterable) -> set[Value]:
    return {v for i in instructions for v in values_in(i.args)}


def _in_order(step: Program, used: set[Value]) -> list[Value]:
    """Values in the order in which the program makes them: the same source for the same graph."""
    known = step.inputs + [v for i in step.instructions for v in i.outputs]
    return [v for v in known if v in used]


def _drop(stages: list[Stage], step: Program) -> None:
    wanted = set(step.outputs)
    for stage in reversed(stages):
        used = _used(stage.calls) | {v for i in stage.calls for v in i.outputs}
        used |= set(stage.program.inputs + stage.program.outputs) if stage.program else set()
        stage.dropped = [v for v in used if v not in wanted]
        wanted |= used
