"""MindIR files: MindSpore's serialised graphs, after its own inference of shapes and dtypes."""

from __future__ import annotations

import collections
from pathlib import Path

from .mindspore_runtime import mindspore

DTYPES = {1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
          11: "float64", 16: "bfloat16", 17: "float64"}  # fmt: skip
"""Of mind_ir.proto's TensorProto.DataType."""


def export(cell, tensors, path: Path) -> list[Path]:
    """Write a Cell as MindIR: the files written. A large graph's weights lie beside it, in a folder. LOCK must be held.

    Raises MindSpore's error where it infers another shape or dtype than an operator takes.
    """
    cell.set_train(False)
    before = set(path.parent.rglob("*"))
    mindspore().export(cell, *tensors, file_name=str(path.with_suffix("")), file_format="MINDIR")
    return sorted(p for p in set(path.parent.rglob("*")) - before if p.is_file())


def graph_file(files: list[Path]) -> Path:
    """The one with the graph in it."""
    return next(p for p in files if p.suffix == ".mindir")


def primitives(path: Path) -> collections.Counter:
    """Primitive → how often it is called, in all functions of the file."""
    model = _read(path)
    calls = collections.Counter()
    for graph in [model.graph, *model.functions]:
        for node in graph.node:
            kind, _, rest = node.op_type.partition("::")
            name = rest.split(":")[0]
            if kind == "REF" and name:
                calls[name] += 1
    return calls


def outputs(path: Path) -> list[tuple[tuple[int, ...], str]]:
    """(shape, dtype) of each output, as MindSpore inferred them."""
    (output,) = _read(path).graph.output  # a tuple
    tensors = [t for value in output.attr_info.values for t in value.tensors]
    return [(tuple(t.dims), DTYPES.get(t.data_type, str(t.data_type))) for t in tensors]


def _read(path: Path):
    mindspore()
    from mindspore.train import mind_ir_pb2

    model = mind_ir_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model
