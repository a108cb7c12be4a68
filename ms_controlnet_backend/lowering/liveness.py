"""Which instructions and weights a set of outputs needs."""

from __future__ import annotations

from .program import Program, Value


def keep(program: Program, name: str, inputs, instructions, outputs) -> Program:
    """The program of those instructions that the outputs need, with the weights they use and all of the inputs."""
    live, kept = set(outputs), []
    for instruction in reversed(instructions):
        if instruction.effect or live.intersection(instruction.outputs):
            kept.append(instruction)
            live.update(values_in(instruction.args))
    weights = {v: t for v, t in program.weights.items() if v in live}
    return Program(
        name, list(inputs), weights, program.prepared, program.constants, kept[::-1], list(outputs), program.choices
    )


def values_in(args):
    """All Values in nested arguments."""
    for a in args:
        if isinstance(a, Value):
            yield a
        elif isinstance(a, (list, tuple)):
            yield from values_in(a)
