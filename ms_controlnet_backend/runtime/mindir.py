"""A program as a MindIR file, for any target, whatever devices there are."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import codegen
from ..compat import mindir, mindspore_runtime
from ..errors import Refused
from ..interruptions import raise_if_scripts
from ..lowering.program import Program, Value
from .source_cache import SourceCache, load
from .target import Target
from .weights import WeightStore


def write(program: Program, path: Path, target: Target, cache: SourceCache) -> list[Path]:
    """The files written: ``path`` and, of a large graph, its weights beside it. Raises Refused with what MindSpore
    says where its own inference of shapes and dtypes does not agree with the program."""
    header = f"{program.name} for {target.device}: generated, do not edit."
    source = codegen.generate(header, Graph=program)
    weights = WeightStore(target).of(program)  # dies with the file written
    with mindspore_runtime.LOCK:
        cell = load(cache.write(program.name, source)).Graph(tuple(w.parameter for w in weights))
        try:
            files = mindir.export(cell, [_example(v) for v in program.inputs], path)
        except Exception as error:  # noqa: BLE001 - whatever MindSpore's front end raises
            raise_if_scripts(error)
            raise Refused(f"MindSpore does not export {program.name}: {type(error).__name__}: {error}") from error
    wanted = [(v.shape, v.dtype) for v in program.outputs]
    inferred = mindir.outputs(mindir.graph_file(files))
    if inferred != wanted:
        raise Refused(f"MindSpore infers the outputs {inferred} of {program.name}, the program says {wanted}")
    return files


def _example(v: Value):
    return mindspore_runtime.tensor(torch.zeros(v.shape, dtype=getattr(torch, v.dtype)))
