"""Rewrites of the finished program: fewer kernels for the same numbers. Each is left out by its name."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from ..forms import Rows
from ..liveness import values_in
from ..program import Instruction, Program, Value
from .prepare import Transposed

LINEAR = "mint.nn.functional.linear"
LAYER_NORM = "mint.nn.functional.layer_norm"
SLICE = "ops.auto_generate.slice_ext_op"
ADD_LAYER_NORM = "ops.auto_generate.add_layernorm_v2"
GROUPED = "ops.auto_generate.grouped_matmul_v4"
MOST, LONGEST = 128, 65535
"""Products of one grouped kernel, and columns of each of its matrices, at most."""


def split_projections(program: Program) -> list[Instruction]:
    """A linear layer of which only slices are used: a linear layer for each, with those rows of its weight. A slice
    copies, and the copies of GEGLU are the largest tensors of a UNet."""
    users = users_of(program)
    replaced: dict[int, list[Instruction]] = {}
    for made in program.instructions:
        if made.callee != LINEAR or not of_module(program, made):
            continue
        (whole,) = made.outputs
        slices = users[whole]
        if not slices or whole in program.outputs or not all(_slices_columns(i, whole) for i in slices):
            continue
        x, weight, bias = made.args
        replaced[id(made)] = []
        for piece in slices:
            rows = Rows(piece.args[2], piece.args[3])
            parts = [w and _prepared(program, w, rows) for w in (weight, bias)]
            replaced[id(piece)] = [replace(made, args=(x, *parts), outputs=piece.outputs)]
    return [i for old in program.instructions for i in replaced.get(id(old), [old])]


def add_layer_norm(program: Program) -> list[Instruction]:
    """``Add`` and the layer norm of its result: one kernel that returns both."""
    producer = {v: i for i in program.instructions for v in i.outputs}
    replaced: dict[int, list[Instruction]] = {}
    for norm in program.instructions:
        if norm.callee != LAYER_NORM or len(norm.args[1]) != 1:
            continue
        total, _, weight, bias, eps = norm.args
        added = producer.get(total)
        if added is None or added.callee != "Add" or id(added) in replaced or not _same(*added.args):
            continue
        moments = Value(f"{total.name}_moments", total.shape[:-1] + (1,), "float32")
        outputs = (*norm.outputs, moments, replace(moments, name=f"{total.name}_spread"), total)
        args = (*added.args, weight, bias, eps, True)
        replaced[id(added)] = [Instruction(ADD_LAYER_NORM, {}, args, outputs, f"{added.origin}; {norm.origin}")]
        replaced[id(norm)] = []
    return [i for old in program.instructions for i in replaced.get(id(old), [old])]


def grouped_projections(program: Program) -> list[Instruction]:
    """Linear layers of one input: one kernel that reads it once and returns a tensor for each, without a copy."""
    groups = defaultdict(list)
    for made in program.instructions:
        if made.callee == LINEAR and _groupable(program, made):
            x, _, bias = made.args
            groups[x, bias is None].append(made)
    replaced: dict[int, list[Instruction]] = {}
    for (x, plain), members in groups.items():
        for part in (members[i : i + MOST] for i in range(0, len(members), MOST)):
            if len(part) < 2:
                continue
            weights = tuple(transposed(program, i.args[1]) for i in part)
            biases = None if plain else tuple(i.args[2] for i in part)
            outputs = tuple(v for i in part for v in i.outputs)
            origin = "; ".join(i.origin for i in part)
            replaced |= {id(i): [] for i in part}
            replaced[id(part[0])] = [Instruction(GROUPED, {}, ((x,) * len(part), weights, biases), outputs, origin)]
    return [i for old in program.instructions for i in replaced.get(id(old), [old])]


def _groupable(program: Program, made: Instruction) -> bool:
    """Does the grouped kernel take it? bfloat16 only without a bias, which it would want in float32."""
    x, weight, bias = made.args
    if x.dtype != "float16" and not (x.dtype == "bfloat16" and bias is None):
        return False
    return weight in program.weights and weight not in program.constants and max(weight.shape) <= LONGEST


def transposed(program: Program, weight: Value) -> Value:
    value = Value(weight.name, weight.shape[::-1], weight.dtype)
    program.weights[value] = program.weights[weight]
    program.prepared[value] = Transposed(program.prepared.get(weight))
    return value


def users_of(program: Program) -> dict[Value, list[Instruction]]:
    users = defaultdict(list)
    for instruction in program.instructions:
        for v in values_in(instruction.args):
            users[v].append(instruction)
    return users


def of_module(program: Program, linear: Instruction) -> bool:
    """Are its weight and bias the module's, as they are there?"""
    weights = [w for w in linear.args[1:] if w is not None]
    return all(w in program.weights and w not in program.constants and w not in program.prepared for w in weights)


def _slices_columns(i: Instruction, whole: Value) -> bool:
    return i.callee == SLICE and i.args[0] is whole and i.args[1] == whole.rank - 1


def _prepared(program: Program, weight: Value, rows: Rows) -> Value:
    value = Value(weight.name, (rows.stop - rows.start,) + weight.shape[1:], weight.dtype)
    program.weights[value] = program.weights[weight]
    program.prepared[value] = rows
    return value


def _same(a, b) -> bool:
    return isinstance(a, Value) and isinstance(b, Value) and (a.shape, a.dtype) == (b.shape, b.dtype)
