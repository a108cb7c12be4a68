"""Run by test_plugins.py in a process of its own, with the plugin installed."""

import logging
import sys

import torch
from diffusers import DiffusionPipeline

import ms_controlnet_backend

logging.basicConfig(stream=sys.stdout)


class Refiner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return torch.nn.functional.logsigmoid(self.linear(x))


class Pipeline(DiffusionPipeline):
    def __init__(self, refiner):
        super().__init__()
        self.refiner = refiner


pipe = Pipeline(Refiner().eval())
x = torch.randn(3, 4)
with torch.no_grad():
    expected = pipe.refiner(x)
    ms_controlnet_backend.enable(strict=True)
    got = pipe.refiner(x)
torch.testing.assert_close(got, expected)
assert ms_controlnet_backend.stats()["refiner"].calls == 1
print("both used")
