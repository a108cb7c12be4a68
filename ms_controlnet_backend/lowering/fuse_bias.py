"""A rewrite of the finished program for CPUs: the bias of a product is added by its kernel."""

from __future__ import annotations

from collections import Counter

from .liveness import values_in
from .program import Instruction, Program

NAME = "fused_bias"
KERNELS = {(False, False): "own.matmul_bias", (False, True): "own.linear"}
"""(transpose_a, transpose_b) → the kernel."""
MOST = 48 * 2**20
"""Bytes of a result beyond which it is left alone: MindSpore then ran a VAE decoder's kernels in another order, and the
peak memory was 3.21 GiB in place of 2.46 (512 px). The UNet's largest are 40 MiB at 512 px."""


def fuse_bias(program: Program) -> None:
    """``MatMul`` whose only use is ``BiasAdd``: one kernel, to the last bit the same numbers."""
    uses = Counter(v for i in program.instructions for v in values_in(i.args))
    uses.update(program.outputs)
    products = {i.outputs[0]: i for i in program.instructions if i.callee == "MatMul"}
    gone: set[int] = set()
    for n, added in enumerate(program.instructions):
        product = products.get(added.args[0]) if added.callee == "BiasAdd" else None
        if product is None or uses[product.outputs[0]] != 1 or product.outputs[0].dtype != "float32":
            continue
        transposed = tuple(bool(product.attributes.get(name)) for name in ("transpose_a", "transpose_b"))
        if transposed in KERNELS and 4 * added.outputs[0].size <= MOST:
            gone.add(id(product))
            args = (*product.args, added.args[1], *transposed)
            program.instructions[n] = Instruction(KERNELS[transposed], {}, args, added.outputs, added.origin)
    program.instructions = [i for i in program.instructions if id(i) not in gone]
