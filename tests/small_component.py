"""A component of three blocks, the middle one being where scripts put foreign code, and a pipeline that has it."""

from __future__ import annotations

import gc

import pytest
import torch

from ms_controlnet_backend import plugins
from ms_controlnet_backend.hookspecs import Adapter, Site, hookimpl


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.act = torch.nn.Linear(4, 4), torch.nn.SiLU()

    def forward(self, x):
        return self.act(self.inner(x))


class Component(torch.nn.Module):
    """Three blocks; the middle one is where foreign code is put."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.block, self.last = Block(), Block(), Block()
        self.requires_grad_(False)

    def forward(self, x):
        return self.last(self.block(self.first(x)) + x)


class Plugin:
    @hookimpl
    def register_adapters(self):
        return [Adapter("component", lambda c: isinstance(c, Component), lambda c, name: [Site(name, c)])]


@pytest.fixture(scope="module", autouse=True)
def adapter():
    plugin = Plugin()
    plugins.manager().register(plugin)
    yield
    plugins.manager().unregister(plugin)
    gc.collect()  # its pipelines, or other tests would enable them without the adapter


def pipeline():
    from diffusers import DiffusionPipeline

    class Pipeline(DiffusionPipeline):
        def __init__(self, component):
            super().__init__()
            self.component = component

    return Pipeline(Component())


X = torch.linspace(-1, 1, 8).reshape(2, 4)


def by(block, function):
    """Put ``function(upstream, x)`` in the place of the block's forward."""
    upstream = block.forward
    block.forward = lambda x: function(upstream, x)


def calls(component, n=4):
    with torch.no_grad():
        return [component(X * (i + 1)).clone() for i in range(n)]
