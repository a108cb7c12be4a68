"""A graph that is cut, on the emulated NPU: what crosses, and in which dtype the host sees it."""

from dataclasses import replace

import pytest
import torch
from ascend.device import Device, engine
from cutting import Module, inputs, upstream

from ms_controlnet_backend.hookspecs import Site


def in_the_middle(m, x):
    return m.b(torch.special.i0e(m.a(x))).relu()


def several(m, x):
    order = torch.searchsorted(torch.arange(-2.0, 2.0).half(), m.a(x))
    return m.b(x + torch.randn_like(x) + torch.randn_like(m.b(x))) * torch.special.i0e(order.half())


# function: bytes of what goes up in a call (48: integers, as int32), of what comes down
CASES = {in_the_middle: ([24, 24], [24, 24]), several: ([24, 24, 24, 24, 48], [24, 24, 24])}


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_what_crosses(function, monkeypatch, tmp_path):
    device, module = Device(), Module(function).half()
    emulated = engine(device, monkeypatch, tmp_path)
    emulated.options = replace(emulated.options, strict=False)
    component = emulated.component(Site("cut", module))
    for x in inputs(dtype=torch.float16):
        torch.manual_seed(3)
        expected = upstream(module, x)
        torch.manual_seed(3)
        device.clear()
        with torch.no_grad():
            got = component(module.forward, (x,), {})
        assert got.dtype == torch.float16
        assert (got - expected).abs().max() <= 5e-3 * expected.abs().max()
        assert (sorted(device.uploads), sorted(device.reads)) == CASES[function]
    stats = emulated.stats()["cut"]
    assert (stats.compiles, stats.fallbacks, stats.calls) == (1, 0, 4)
