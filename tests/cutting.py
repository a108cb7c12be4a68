"""A component of one function, on MindSpore and on torch, for the tests of graphs that are cut."""

from __future__ import annotations

import torch

from ms_controlnet_backend import plugins
from ms_controlnet_backend.hookspecs import Options, Site

SHAPE = (3, 4)


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        torch.manual_seed(0)
        self.a, self.b = (torch.nn.Linear(4, 4).requires_grad_(False) for _ in range(2))

    def forward(self, x, **more):
        return self.function(self, x, **more)


def build(module, **options):
    """(the component of a fresh engine as a function, the engine)."""
    sites = {"resident": False, "settings": None, "constant": (), "is_zero": None}
    options = sites | {"strict": False, "release": False} | options
    asked = Options(strict=options["strict"], release_host_weights=options["release"])
    engine = plugins.registry().backend("mindspore").build(asked)
    site = Site("cut", module, **{k: options[k] for k in sites})
    component = engine.component(site)

    def call(*args, **kwargs):
        with torch.no_grad():
            return component(module.forward, args, kwargs)

    return call, engine


def upstream(module, *args, **kwargs):
    with torch.no_grad():
        return module(*args, **kwargs)


def assert_same(got, expected, tolerance=1e-5):
    got, expected = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (got, expected))
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert (g.dtype, g.shape) == (e.dtype, e.shape)
        assert (g.double() - e.double()).abs().max() <= tolerance * e.double().abs().max().clamp(min=1e-3)


def inputs(count=4, shape=SHAPE, dtype=torch.float32):
    return [torch.randn(shape, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(count)]
