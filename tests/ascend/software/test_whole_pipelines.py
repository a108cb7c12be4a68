"""Stable Diffusion 1.5 and XL with a ControlNet, whole and at full size in float16, everything but the arithmetic: what
a step costs, and what the device's memory is full of.

    pytest --long -m long -rP tests/ascend/software/test_whole_pipelines.py     # prints the figures
"""

from __future__ import annotations

import models
import models_xl
import pytest
import test_full_size as full
from ascend import cases

MIB = 1 << 20


def sd15():
    parts = dict(unet=cases.sd15_unet, controlnet=cases.sd15_controlnet, vae=full.sd15_vae,
                 text_encoder=full.sd15_text_encoder)  # fmt: skip
    return models.pipeline(**{name: cases.empty(make) for name, make in parts.items()})


def sdxl():
    parts = dict(unet=cases.sdxl_unet, controlnet=cases.sdxl_controlnet, vae=full.sd15_vae,
                 text_encoder=full.sd15_text_encoder, text_encoder_2=cases.sdxl_text_encoder_2)  # fmt: skip
    return models_xl.pipeline(**{name: cases.empty(make) for name, make in parts.items()})


PIPELINES = {  # a step's launches, and the most MiB that are no weights: kept between calls, in use at once
    "sd15": (sd15, 512, 761, (60, 330)),
    "sdxl": (sdxl, 1024, 1761, (330, 2600)),  # its VAE decodes in float32
}


@pytest.mark.long
@pytest.mark.parametrize("name", PIPELINES)
def test_a_whole_pipeline(clean, npu, name):
    import mindspore as ms

    make, size, launches, (kept_limit, activations_limit) = PIPELINES[name]
    pipe, reports = make(), []
    clean.enable(pipe, strict=True)

    def tick(pipeline, step, timestep, tensors):
        reports.append(npu.report())
        return {}

    with npu.set(skip=True):
        for _ in range(2):
            reports.clear()
            pipe("a", negative_prompt="b", image=models.picture(1, size), height=size, width=size, output_type="np",
                 num_inference_steps=4, callback_on_step_end=tick)  # fmt: skip
    before, after = reports[-2:]
    step, crossed = after.launched(before), after.crossed(before)

    decoder = pipe.vae.decoder, pipe.vae.post_quant_conv
    parts = [pipe.unet, pipe.controlnet, pipe.text_encoder, getattr(pipe, "text_encoder_2", None), *decoder]
    weights = sum(p.numel() * p.element_size() for m in parts if m is not None for p in m.parameters()) / MIB
    held, most, reserved = (
        getattr(ms.runtime, f)() / MIB for f in ("memory_allocated", "max_memory_allocated", "max_memory_reserved")
    )
    print(f"\n{name}: {sum(step.values())} launches a step, {crossed}")
    print(", ".join(f"{op.removeprefix('aclnn')} {n}" for op, n in sorted(step.items(), key=lambda item: -item[1])))
    print(f"device memory, MiB: weights {weights:.1f}, kept between calls besides {held - weights:.1f}, in use at once "
          f"besides {most - held:.1f}, in the pool unused {reserved - most:.1f}: {reserved:.1f} at most")  # fmt: skip
    compiled = {label: s.compile_seconds for label, s in clean.stats().items() if s.compiles}
    print("seconds of the first call: " + ", ".join(f"{label} {s:.1f}" for label, s in compiled.items()))
    assert sum(step.values()) <= launches
    assert crossed == dict(up=1, down=1, within=0, stream_waits=1, device_waits=0, event_waits=0)
    assert 0 <= held - weights <= kept_limit and most - held <= activations_limit
    assert npu.report().peak / MIB == pytest.approx(reserved, abs=2)
