"""What a denoising step costs at the boundary of CANN: copies, launches, and how often the host waits."""

from __future__ import annotations

import models
import numpy as np
import pytest
import torch

import ms_controlnet_backend


def steps(npu, pipe, kwargs) -> list[dict[str, int]]:
    """What each step but the first and the last cost."""
    reports = []

    def tick(pipeline, step, timestep, tensors):
        reports.append(npu.report())
        return {}

    pipe(**kwargs, callback_on_step_end=tick)
    return [after.crossed(before) for before, after in zip(reports[:-1], reports[1:])]


@pytest.mark.parametrize("nets", [1, 2])
@pytest.mark.parametrize("kind", models.KINDS)
def test_a_step(clean, npu, kind, nets):
    """Latents go up once, though ControlNets and UNet take them; the prediction comes down, which is the one wait. The
    time steps of a run are there in the next."""
    pipe = models.pipeline(kind, nets).to(torch.float16)
    clean.enable(pipe, strict=True)
    first, second = (steps(npu, pipe, models.call_kwargs(kind, nets)) for _ in range(2))
    expected = dict(down=1, within=0, stream_waits=1, device_waits=0, event_waits=0)
    assert len(first) == 3 and all(step == {"up": 2} | expected for step in first)
    assert all(step == {"up": 1} | expected for step in second)


def test_what_goes_up_is_the_callers_no_more(clean, npu):
    """The script writes to its latents before the device has got them."""
    net, unet = models.controlnet(), models.unet()
    pipe = models.pipeline(controlnet=net, unet=unet)
    random = torch.Generator().manual_seed(0)
    text, picture = torch.randn(1, 77, 16, generator=random), torch.randn(1, 3, 64, 64, generator=random)

    def run():
        latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            down, middle = net(latents, 5, text, picture, return_dict=False)
            latents.mul_(3)
            return unet(latents, 5, text, down_block_additional_residuals=down, mid_block_additional_residual=middle)[0]

    expected = run()
    clean.enable(pipe, strict=True)
    with npu.set(defer=True):
        for _ in range(2):
            torch.testing.assert_close(torch.as_tensor(np.asarray(run())), expected, atol=1e-4, rtol=0)
    assert ms_controlnet_backend.stats()["controlnet"].to_host == 0
