"""A graph that is cut: what crosses, and in which dtype the host sees it."""

import pytest
import torch
from cutting import Module, inputs, upstream

from ms_controlnet_backend import binding
from ms_controlnet_backend.hookspecs import Site


def in_the_middle(m, x):
    return m.b(torch.special.i0e(m.a(x))).relu()


def several(m, x):
    order = torch.searchsorted(torch.arange(-2.0, 2.0).half(), m.a(x))
    return m.b(x + torch.randn_like(x) + torch.randn_like(m.b(x))) * torch.special.i0e(order.half())


# function: (copies, bytes) that go up in a call (48 of them: integers, as int32), and that come down
CASES = {in_the_middle: ((2, 48), (2, 48)), several: ((5, 144), (3, 72))}


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_what_crosses(function, clean, npu, tmp_path):
    module = Module(function).half()
    engine = binding.build("mindspore", device="ascend", cache_dir=str(tmp_path))
    component = engine.component(Site("cut", module))
    for i, x in enumerate(inputs(dtype=torch.float16)):
        torch.manual_seed(3)
        expected = upstream(module, x)
        torch.manual_seed(3)
        npu.reset()
        with torch.no_grad():
            got = component(module.forward, (x,), {})
        found = npu.report()
        assert got.dtype == torch.float16
        assert (got - expected).abs().max() <= 5e-3 * expected.abs().max()
        if i:  # in the first the weights go up
            assert ((found.up, found.up_bytes), (found.down, found.down_bytes)) == CASES[function]
    stats = engine.stats()["cut"]
    assert (stats.compiles, stats.fallbacks, stats.calls) == (1, 0, 4)
