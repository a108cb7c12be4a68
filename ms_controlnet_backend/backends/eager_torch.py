"""Backend "torch": upstream's own forwards. What every comparison is made against."""

from __future__ import annotations

from ..compat import mindspore_runtime, versions
from ..errors import UnknownDevice
from ..hookspecs import Backend, Options, Probe, hookimpl


class TorchEngine:
    def component(self, site):
        return None

    def optimise(self, captured) -> None:
        """Nothing: torch runs a graph as it was captured."""

    def evaluate(self, captured, tensors: list) -> list:
        """The outputs of a captured graph, computed by torch. tensors: in the structure's order."""
        import torch

        placeholders = [n for n in captured.graph.nodes if n.op == "placeholder"]

        def weight(n):  # what passes fold is on the host
            return captured.weights[n].tensor.to(n.meta["val"].device)

        values = [tensors[captured.inputs[n]] if n in captured.inputs else weight(n) for n in placeholders]
        with torch.no_grad():
            return list(torch.fx.Interpreter(captured.graph_module).run(*values))

    def describe(self) -> str:
        return f"torch {versions.installed('torch')}"


def build(options: Options) -> TorchEngine:
    if mindspore_runtime.canonical_device(options.device) not in (None, "CPU"):
        raise UnknownDevice(
            f"the torch backend leaves every module where it is; device={options.device!r} is not its own"
        )
    return TorchEngine()


@hookimpl
def register_backends():
    return [Backend("torch", lambda options: Probe(True, "CPU", f"torch {versions.installed('torch')}"), build)]
