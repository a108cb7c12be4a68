"""A captured graph, lowered, written out and compiled: torch tensors in, torch tensors out."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass
from typing import Any

import torch

from .. import codegen, passes
from ..capture import Captured
from ..compat import mindspore_runtime
from ..errors import Refused
from ..hookspecs import Compiled
from ..lowering.lower import lower
from ..plugins import Registry
from . import source_cache
from .target import Target
from .weights import Weight, WeightStore


@dataclass
class Executable:
    """One compiled graph. Call it with the tensors of the call, in the structure's order.

    weights: kept alive for the graph. converted: those of them that do not lie on torch's own memory.
    """

    cell: Any
    target: Target
    weights: list[Weight]
    input_order: list[int]
    output_dtypes: list[torch.dtype]
    rebuild: Any
    event: Compiled

    def __post_init__(self):
        self.converted = [w for w in self.weights if not w.shared]

    def __call__(self, tensors: list[torch.Tensor]):
        """What the upstream forward would return, computed by MindSpore."""
        with mindspore_runtime.LOCK:
            inputs = [to_device(tensors[i], self.target) for i in self.input_order]
            results = self.cell(*inputs)
            arrays = [r.asnumpy() for r in results]
        outputs = [torch.from_numpy(a).to(dtype) for a, dtype in zip(arrays, self.output_dtypes)]
        return self.rebuild(outputs)


def to_device(t: torch.Tensor, target: Target):
    """A torch tensor as a MindSpore tensor, without a copy where dtype and layout allow it."""
    host = t.detach().to(device="cpu", dtype=target.host_dtype(t.dtype)).contiguous()
    return mindspore_runtime.tensor(host.numpy())


def build(captured: Captured, tensors, registry: Registry, target: Target, store: WeightStore, cache):
    """Compile a captured graph and run it on the tensors of the call that asked for it: (executable, its output).

    tensors: in the structure's order. Raises Refused with MindSpore's message.
    """
    passes.run(captured, registry.passes(target.device))
    operators = collections.Counter(str(n.target) for n in captured.graph.nodes if n.op == "call_function")
    program = lower(captured, registry, target.device, target.compute_dtype)
    source = codegen.generate(program, f"{captured.name} for {target.device}: generated, do not edit.")
    path = cache.write(captured.name, source)
    started = time.perf_counter()
    try:
        with mindspore_runtime.LOCK:
            weights = [
                store.constant(t, v.name) if v in program.constants else store.get(t, v.name)
                for v, t in program.weights
            ]
            cell = source_cache.load(path).Graph(tuple(w.parameter for w in weights))
            cell.set_train(False)
            event = Compiled(
                label=captured.name,
                signature=", ".join(f"{v.name}: {v.dtype}{list(v.shape)}" for v in program.inputs),
                operators=dict(operators),
                source=str(path),
            )
            order = list(captured.inputs.values())
            dtypes = [n.meta["val"].dtype for n in captured.outputs]
            executable = Executable(cell, target, weights, order, dtypes, captured.rebuild, event)
            output = executable(tensors)
    except Exception as error:  # noqa: BLE001 - MindSpore raises anything
        raise Refused(f"MindSpore does not compile {path}: {_message(error)}") from error
    event.compile_s = time.perf_counter() - started
    return executable, output


def _message(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- ")]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
