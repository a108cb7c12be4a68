"""Splits a program into what is constant over the steps of a run, and the step.

An instruction goes into the prologue if it depends on at least one constant input and otherwise only on weights and on
the prologue. What depends on weights alone stays in the step: keeping it would cost memory, not save work twice. What
the host computes stays in the step, with all that depends on it: it may draw random numbers.
"""

from __future__ import annotations

from collections.abc import Collection

from .builder import Program, Value
from .host_call import HostCall
from .liveness import keep, values_in


def split_for(captured, program: Program, constant: Collection[str]) -> tuple[Program | None, Program]:
    """:func:`split` of the Program of a :class:`~ms_controlnet_backend.capture.Captured`. constant: names of the
    arguments that stay the same over the steps of a run."""
    owners, inputs = captured.structure.owners, zip(program.inputs, captured.inputs.values())
    return split(program, [v for v, i in inputs if owners and owners[i] in constant])


def split(program: Program, constant: Collection[Value]) -> tuple[Program | None, Program]:
    """(prologue or None, step). constant: inputs of the program.

    The prologue's inputs are among ``constant``; its outputs are further inputs of the step, after the step's own.
    """
    fixed: set[Value] = set(constant)  # depends on constant inputs
    free = set(program.weights)  # depends on weights alone
    first, second = [], []
    for instruction in program.instructions:
        used = set(values_in(instruction.args))
        if isinstance(instruction, HostCall):
            second.append(instruction)
        elif used <= free:
            free.update(instruction.outputs)
            first.append(instruction)  # in both; what one of them does not need is dropped below
            second.append(instruction)
        elif used <= free | fixed:
            fixed.update(instruction.outputs)
            first.append(instruction)
        else:
            second.append(instruction)
    computed = fixed - set(constant)
    needed = {v for i in second for v in values_in(i.args)} | set(program.outputs)
    border = [v for i in first for v in i.outputs if v in needed and v in computed]
    if not border:
        return None, program
    prologue = keep(program, f"{program.name} prologue", [v for v in program.inputs if v in constant], first, border)
    step_inputs = [v for v in program.inputs if v not in constant or v in needed]
    step = keep(program, program.name, step_inputs, second, program.outputs)
    step.inputs = step_inputs + border
    return prologue, step
