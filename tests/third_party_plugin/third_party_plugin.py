"""A plugin as somebody else would write it: a lowering nobody has yet, an adapter for a new component."""

from ms_controlnet_backend.hookspecs import Adapter, Lowering, Site, hookimpl


def logsigmoid(b, x):
    return b.unary("Log", b.unary("Sigmoid", x))


@hookimpl
def register_lowerings():
    import torch

    return [Lowering(torch.ops.aten.log_sigmoid.default, logsigmoid)]


@hookimpl
def register_adapters():
    return [
        Adapter(
            "refiner",
            lambda component: type(component).__name__ == "Refiner",
            lambda component, name: [Site(name, component)],
        )
    ]
