"""A program lowered for Ascend, run on the software NPU without any component around it."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from ms_controlnet_backend.compat import mindspore_runtime

from ms_controlnet_backend import codegen
from ms_controlnet_backend.runtime.source_cache import SourceCache, load
from ms_controlnet_backend.runtime.weights import WeightStore


class Running:
    """A compiled program. ``weights``: on the device; ``weights[i].refresh()`` brings one up to date."""

    def __init__(self, program, target):
        mindspore_runtime.select_device(target.device)
        self.program, self.target = program, target
        self.weights = WeightStore(target).of(program)
        cache = SourceCache(Path(os.environ["MS_CONTROLNET_CACHE"]))
        path = cache.write("program", codegen.generate("of a test", Graph=program))
        self._graph = mindspore_runtime.Graph(load(path).Graph(tuple(w.parameter for w in self.weights)))

    def __call__(self, inputs) -> list[torch.Tensor]:
        """The outputs, in the dtypes that the device computed. inputs: torch tensors in the program's order."""
        hosts = [t.detach().to(self.target.host_dtype(t.dtype)).contiguous() for t in inputs]
        values = self._graph(*(mindspore_runtime.tensor(t) for t in hosts))
        outputs = []
        for said, value in zip(self.program.outputs, values, strict=True):
            got = torch.from_numpy(mindspore_runtime.to_host(value))
            assert (tuple(got.shape), str(value.dtype).lower()) == (said.shape, said.dtype), said
            outputs.append(got.to(getattr(torch, said.dtype)))
        return outputs


def run(program, inputs, target) -> list[torch.Tensor]:
    """The outputs of a program, compiled for this one call."""
    return Running(program, target)(inputs)
