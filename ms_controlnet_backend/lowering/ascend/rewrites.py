"""The rewrites of a finished program, in their order."""

from __future__ import annotations

from ..liveness import keep
from ..program import Program
from .feed_forward import feed_forward
from .fuse import add_layer_norm, grouped_projections, split_projections


def rewritten(program: Program, without=()) -> Program:
    """The program after every rewrite whose name is not in ``without``."""
    for rewrite in (feed_forward, split_projections, add_layer_norm, grouped_projections):
        if rewrite.__name__ not in without:
            instructions = rewrite(program)
            program = keep(program, program.name, program.inputs, instructions, program.outputs)
    return program
