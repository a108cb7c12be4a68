"""What a program makes an NPU do: kernels, floating-point operations, bytes of memory read and written."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..liveness import values_in
from ..program import Instruction, Program, Value

FREE = ("Reshape", "Depend")
"""Calls that no kernel answers: another shape of the same memory, and order."""
BYTES = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2}


@dataclass(frozen=True)
class Work:
    """Of one kernel. matrix: operations of matrix products and convolutions; vector: elements the vector units write;
    moved: bytes, every operand read and every result written once, and what goes through a workspace. dtype: what is
    computed in."""

    callee: str
    matrix: float
    vector: float
    moved: float
    dtype: str


def work(program: Program) -> list[Work]:
    """Of every kernel of a program, in its order."""
    return [_work(i) for i in program.instructions if i.callee not in FREE]


def _work(i: Instruction) -> Work:
    operands, results = list(dict.fromkeys(values_in(i.args))), list(i.outputs)
    if i.callee == "mint.nn.functional.embedding" or i.callee == "mint.index_select":
        operands = results  # of the table, what is picked
    matrix = MATRIX.get(i.callee, lambda i: 0.0)(i)
    vector = 0.0 if matrix else float(sum(v.size for v in results))
    moved = sum(map(_bytes, operands + results)) + WORKSPACE.get(i.callee, lambda i: 0)(i)
    return Work(i.callee, matrix, vector, float(moved), results[0].dtype)


def _bytes(v: Value) -> int:
    return v.size * BYTES.get(v.dtype, 1)


def _linear(i: Instruction) -> float:
    return 2.0 * i.outputs[0].size * i.args[1].shape[1]


def _grouped(i: Instruction) -> float:
    return sum(2.0 * y.size * w.shape[0] for y, w in zip(i.outputs, i.args[1], strict=True))


def _ffn(i: Instruction) -> float:
    x, first, second = i.args[:3]
    return 2.0 * math.prod(x.shape[:-1]) * (first.size + second.size)


def _product(i: Instruction) -> float:
    return 2.0 * i.outputs[0].size * i.args[0].shape[-2 if i.attributes.get("transpose_a") else -1]


def _added_product(i: Instruction) -> float:
    return 2.0 * i.outputs[0].size * i.args[1].shape[-1]


def _convolution(i: Instruction) -> float:
    return 2.0 * i.outputs[0].size * math.prod(i.args[1].shape[1:])


def _transposed_convolution(i: Instruction) -> float:
    return 2.0 * i.args[0].size * math.prod(i.args[1].shape[1:])


def _attention(i: Instruction) -> float:
    query, key = i.args[:2]  # (B, L, H), (B, S, H)
    return 4.0 * query.size * key.shape[1]


def _between_products(i: Instruction) -> int:
    """Both halves, and their product, each written and read (``ffn_glu.cpp`` of CANN's ops-transformer)."""
    x, _, second = i.args[:3]
    return 3 * 2 * math.prod(x.shape[:-1]) * second.shape[0] * BYTES[x.dtype]


WORKSPACE = {"ops.auto_generate.ffn_ext": _between_products}
MATRIX = {
    "mint.nn.functional.linear": _linear,
    "ops.auto_generate.grouped_matmul_v4": _grouped,
    "ops.auto_generate.ffn_ext": _ffn,
    "MatMul": _product,
    "BatchMatMul": _product,
    "mint.addmm": _added_product,
    "mint.baddbmm": _added_product,
    "mint.nn.functional.conv2d": _convolution,
    "mint.nn.functional.conv_transpose2d": _transposed_convolution,
    "ops.flash_attention_score": _attention,
    "ops.prompt_flash_attention": _attention,
}
