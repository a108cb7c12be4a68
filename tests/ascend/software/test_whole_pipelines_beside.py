"""Stable Diffusion 1.5 with a ControlNet, whole and at full size in float16 on torch_npu's device, everything but the
arithmetic: what a step costs, and the most device memory, with torch_npu alone and with MindSpore beside it.

    pytest --long -m long -rP tests/ascend/software/test_whole_pipelines_beside.py     # prints the table
"""

from __future__ import annotations

import gc

import models
import pytest
from ascend.software.test_whole_pipelines import MIB, sd15

import ms_controlnet_backend

pytestmark = [pytest.mark.torch_npu, pytest.mark.long]
PEAK = 1.05
"""The most memory, in torch_npu's."""


PROMPTS = dict(prompt="a", negative_prompt="b")


def drawn(npu, pipe, **prompts) -> tuple[dict, dict, float]:
    """(launches of a step, what crossed in it, the most MiB of the device's memory)"""
    reports = []

    def tick(pipeline, step, timestep, tensors):
        reports.append(npu.report())
        return {}

    for _ in range(2):
        reports.clear()
        npu.reset()
        pipe(**prompts or PROMPTS, image=models.picture(1, 512), height=512, width=512, output_type="np",
             num_inference_steps=4, callback_on_step_end=tick)  # fmt: skip
    before, after = reports[-3:-1]  # the last step of DDIM reads less
    return after.launched(before), after.crossed(before), npu.report().peak / MIB


def row(name: str, launches: dict, crossed: dict, peak: float) -> str:
    """Of the table in docs/torch_npu.md."""
    waits = sum(n for what, n in crossed.items() if what.endswith("waits"))
    copies = ", ".join(str(crossed[what]) for what in ("up", "down", "within"))
    return f"| {name} | {sum(launches.values())} | {copies}, {waits} | {peak:.0f} |"


def test_beside_torch_npu_and_without(clean, npu):
    import mindspore as ms
    import torch

    figures = {}
    with npu.set(skip_from=1 << 10, any_head_size=True):
        pipe = sd15().to("npu:0")
        figures["torch_npu"] = drawn(npu, pipe)
        gc.collect()
        torch.npu.empty_cache()
        torch.npu.reset_peak_memory_stats()
        clean.enable(pipe, strict=True)
        figures["MindSpore beside it"] = drawn(npu, pipe)
    (engine,) = (e for e in ms_controlnet_backend.binding._engines.values() if hasattr(e, "store"))
    kept = {id(w): w.host.nbytes for w in engine.store._weights.values() if w.host is not None}
    weights = sum(p.nbytes for m in (pipe.unet, pipe.controlnet, pipe.vae, pipe.text_encoder) for p in m.parameters())
    print("\n| | launches a step | up, down, within, waits a step | most device memory, MiB |")
    print("| --- | --- | --- | --- |")
    for name, counted in figures.items():
        print(row(name, *counted))
    print(f"weights {weights / MIB:.0f}, rearranged besides {sum(kept.values()) / MIB:.0f}; torch_npu's pool "
          f"{torch.npu.max_memory_reserved() / MIB:.0f} at most, "
          f"MindSpore's {ms.runtime.max_memory_reserved() / MIB:.0f}")  # fmt: skip
    alone, ours = figures.values()
    for what, count in ours[1].items():
        assert count <= alone[1][what], (what, figures)
    assert sum(ours[0].values()) < sum(alone[0].values())
    assert ours[2] <= PEAK * alone[2]
