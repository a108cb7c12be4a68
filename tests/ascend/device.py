"""An NPU that is not there: memory of its own and the emulated primitives, under the runtime as it is.

What crosses, what is launched and what is uploaded is counted. Everything between a pipeline and MindSpore runs as on
an NPU: captures, prologues, weights, tensors that stay on the device.
"""

from __future__ import annotations

import itertools
import types
from dataclasses import dataclass, field, replace

import torch
from ascend import emulator
from ms_controlnet_backend.compat import mindspore_runtime

from ms_controlnet_backend import codegen
from ms_controlnet_backend.hookspecs import Options
from ms_controlnet_backend.runtime import executable
from ms_controlnet_backend.runtime.component import MindSporeEngine
from ms_controlnet_backend.runtime.target import Target


@dataclass
class OnDevice:
    """A tensor, or a Parameter, in the device's memory."""

    data: torch.Tensor
    name: str = ""

    @property
    def shape(self):
        return tuple(self.data.shape)

    @property
    def dtype(self):
        return self.data.dtype


@dataclass
class Device:
    """uploads, reads: (bytes of) tensors to and from it, weights not counted; a read waits for all that was launched.
    launches: names of the graphs run. weights: uploaded or written, by name."""

    uploads: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    _programs: dict = field(default_factory=dict)
    _numbers: itertools.count = field(default_factory=itertools.count)

    def clear(self) -> None:
        for counted in (self.uploads, self.reads, self.launches, self.weights):
            counted.clear()

    def put_under(self, monkeypatch) -> None:
        """In place of MindSpore."""
        for name in ("tensor", "parameter", "assign", "to_host"):
            monkeypatch.setattr(mindspore_runtime, name, getattr(self, name))
        monkeypatch.setattr(mindspore_runtime, "Graph", lambda graph, compiled, key: graph)
        monkeypatch.setattr(executable, "codegen", types.SimpleNamespace(generate=self.generate))
        monkeypatch.setattr(executable, "load", self.load)

    def tensor(self, host):
        self.uploads.append(host.nbytes)
        return OnDevice(host.clone())

    def parameter(self, host, name, device="CPU"):
        self.weights.append(name)
        return OnDevice(host.clone(), name)

    def assign(self, parameter, host) -> None:
        self.weights.append(parameter.name)
        assert host.shape == parameter.data.shape and host.dtype == parameter.data.dtype
        parameter.data.copy_(host)

    def to_host(self, value):
        self.reads.append(value.data.nbytes)
        return value.data.numpy().copy()

    def generate(self, header, *, jit, **programs):
        """The source, with a number by which :meth:`load` finds the programs again."""
        number = next(self._numbers)
        self._programs[number] = {  # without the module's weights, which are given up when asked for
            name: replace(program, weights=dict.fromkeys(program.weights), prepared={})
            for name, program in programs.items()
        }
        return f"{codegen.generate(header, jit=jit, **programs)}NUMBER = {number}\n"

    def load(self, path):
        programs = self._programs[int(path.read_text().rpartition("NUMBER = ")[2])]
        return types.SimpleNamespace(**{k: lambda w, p=p: self._graph(p, w) for k, p in programs.items()})

    def _graph(self, program, parameters):
        def run(*values):
            self.launches.append(program.name)
            held = {v: p.data for v, p in zip(program.weights, parameters, strict=True)}
            outputs = emulator.run(replace(program, weights=held), [v.data for v in values], Target("Ascend"))
            return [OnDevice(t.clone()) for t in outputs]

        return run


def engine(device: Device, monkeypatch, folder, **options) -> MindSporeEngine:
    device.put_under(monkeypatch)
    return MindSporeEngine(Target("Ascend"), Options("ascend", strict=True, cache_dir=str(folder), **options))
