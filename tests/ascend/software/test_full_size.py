"""Stable Diffusion 1.5 and XL in float16 at 512 and 1024 px, everything but the arithmetic: launches and memory."""

from __future__ import annotations

import pytest
from ascend import cases, graphs
from ascend.software.running import Running

from ms_controlnet_backend.lowering.ascend.work import work

BUDGET = {  # launches: in a step, once a run
    "unet": (514, 1),
    "controlnet": (247, 16),
    "vae.encoder": (89, 0),
    "vae.decoder": (117, 0),
    "text_encoder": (137, 0),
    "xl unet": (968, 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGET)
def test_launches(name, npu):
    """MindSpore compiles it, and CANN accepts every launch."""
    made = graphs.graph(*cases.FULL[name](), cases.SITES.get(name, 0))
    with npu.set(skip=True):
        known = dict(zip(made.program.inputs, made.tensors))
        for program, budget in ((made.first, BUDGET[name][1]), (made.step, BUDGET[name][0])):
            if program is None:
                assert budget == 0
                continue
            running = Running(program, made.target)
            npu.reset()
            got = running([known[v] for v in program.inputs])
            known |= dict(zip(program.outputs, got))
            assert sum(npu.report().launches.values()) == len(work(program)) <= budget
