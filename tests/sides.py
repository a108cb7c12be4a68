"""Backends that are wrong on purpose, for the tests of comparisons."""

from __future__ import annotations

import contextlib

import torch

from ms_controlnet_backend import plugins
from ms_controlnet_backend.backends.eager_torch import TorchEngine
from ms_controlnet_backend.hookspecs import Backend, Lowering, Probe, hookimpl


class Handled(TorchEngine):
    """torch, with every component's call going through ``function(label, original, args, kwargs)``."""

    def __init__(self, function):
        self._function = function

    def component(self, site):
        return lambda original, args, kwargs: self._function(site.label, original, args, kwargs)

    def describe(self):
        return "torch, tampered with"


@contextlib.contextmanager
def backend(name: str, function):
    """The name is a registered backend inside the block."""

    class Plugin:
        @hookimpl
        def register_backends(self):
            return [Backend(name, lambda options: Probe(True, "CPU"), lambda options: Handled(function))]

    plugin = Plugin()
    plugins.manager().register(plugin)
    try:
        yield name
    finally:
        plugins.manager().unregister(plugin)


def bent(label: str, path: str, factor: float = 1.02, from_call: int = 0):
    """A function for :class:`Handled`: one weight of one component is multiplied while it runs."""
    calls = []

    def function(site, original, args, kwargs):
        if site != label:
            return original(*args, **kwargs)
        calls.append(site)
        weight = original.__self__.get_parameter(path)
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(factor if len(calls) > from_call else 1.0)
            try:
                return original(*args, **kwargs)
            finally:
                weight.copy_(before)

    return function


@contextlib.contextmanager
def wrong_lowering(op, change):
    """The built-in lowering of an overload, its result put through ``change(builder, value)``."""
    right = plugins.registry().lowering(op, "CPU").function

    def wrong(b, *args):
        return change(b, right(b, *args))

    class Plugin:
        @hookimpl
        def register_lowerings(self):
            return [Lowering(op, wrong, priority=9)]

    plugin = Plugin()
    plugins.manager().register(plugin)
    try:
        yield
    finally:
        plugins.manager().unregister(plugin)
