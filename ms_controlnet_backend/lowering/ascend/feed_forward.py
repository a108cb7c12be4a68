"""A gated feed-forward layer (GEGLU) as one kernel, CANN's FFN."""

from __future__ import annotations

from collections.abc import Callable

from ..program import Instruction, Program, Value
from . import fuse

FFN = "ops.auto_generate.ffn_ext"
GELU = "mint.nn.functional.gelu"


def feed_forward(program: Program) -> list[Instruction]:
    """``linear(x, W1)`` in two halves, ``left * gelu(right)``, and a second linear layer: FFN with ``geglu``.

    Its kernel multiplies the left half with the GELU of the right one, and computes GELU by tanh, which is at most
    4.8e-4 from the exact one: half a unit of float16 at 1 (``ffn_glu.cpp`` of CANN's ops-transformer, ``geglu.h`` of
    AscendC; its document does not say so). diffusers itself takes GELU by tanh on an NPU (its GEGLU). The document of
    aclnnFFN wants float16, twice as many columns in the first matrix as rows in the second, and an output like the
    input.
    """
    producer = {v: i for i in program.instructions for v in i.outputs}
    users = fuse.users_of(program)
    replaced: dict[int, list[Instruction]] = {}
    for second in program.instructions:
        found = _gated(program, second, producer.get, users)
        if found is None:
            continue
        first, between = found
        x, weight, bias = first.args
        transposed = [fuse.transposed(program, w) for w in (weight, second.args[1])]
        none = (None,) * 8  # of quantised products
        args = (x, *transposed, None, bias, second.args[2], *none, "geglu", 1)
        replaced |= {id(i): [] for i in (first, *between)}
        origin = f"{first.origin}; {second.origin}"
        replaced[id(second)] = [Instruction(FFN, {}, args, second.outputs, origin)]
    return [i for old in program.instructions for i in replaced.get(id(old), [old])]


def _gated(program: Program, second: Instruction, producer: Callable, users) -> tuple[Instruction, list] | None:
    """(first linear layer, what is between) of that second one; None where it is something else."""
    if second.callee != fuse.LINEAR or second.outputs[0].dtype != "float16" or not fuse.of_module(program, second):
        return None
    product = producer(second.args[0])
    if product is None or product.callee != "Mul" or not all(isinstance(a, Value) for a in product.args):
        return None
    for left, right in (product.args, product.args[::-1]):
        gelu = producer(right)
        if gelu is None or gelu.callee != GELU:
            continue
        halves = producer(left), producer(gelu.args[0])
        if None in halves or any(half.callee != fuse.SLICE for half in halves):
            continue
        whole = halves[0].args[0]
        first = producer(whole)
        if first is None or first.callee != fuse.LINEAR or not fuse.of_module(program, first):
            continue
        x, inner = first.args[0], whole.shape[-1] // 2
        taken = [half.args[1:] for half in halves if half.args[0] is whole]
        if taken != [(whole.rank - 1, 0, inner, 1), (whole.rank - 1, inner, 2 * inner, 1)]:
            continue
        between = [*halves, gelu, product]
        alone = all(len(users[v]) == 1 and v not in program.outputs for i in between for v in i.outputs)
        fits = second.outputs[0].shape == x.shape and max(x.shape[-1], inner) <= fuse.LONGEST
        if alone and fits and len(users[whole]) == 2 and whole not in program.outputs:
            return first, between
    return None
