"""A/B on one NPU: "torch" is torch_npu there, and both sides compute on the same device."""

from __future__ import annotations

import models
import pytest
import sides
import torch

from ms_controlnet_backend import compare
from ms_controlnet_backend.ab.state import State

pytestmark = pytest.mark.torch_npu
NPU = "npu:0"


@pytest.fixture(autouse=True)
def any_head_size(npu, clean):
    with npu.set(any_head_size=True):
        yield


def compared(**options):
    pipe = models.pipeline().to(NPU)
    options = dict(num_inference_steps=4, progress=False, repeats=1) | options
    return compare(pipe, device="ascend", **models.call_kwargs(**options))


@pytest.mark.parametrize("generator", [None, NPU])
def test_the_same_picture(generator, npu):
    """And what each side took: seconds when the device is done, memory on it."""
    drawn = None if generator is None else torch.Generator(NPU).manual_seed(3)
    with npu.set(defer=True):
        report = compared(shadow=True, generator=drawn)
    assert report.ok, str(report)
    call = report.calls[0]
    assert call.shadow and not call.errors and max(d.distance.relative_rms for d in call.shadow) < 1e-4
    runs = {(r.backend, r.kind): r for r in call.runs}
    alone, ours = runs["torch", "first"], runs["mindspore", "first"]
    weights = sum(p.nbytes for p in models.unet().parameters())
    assert weights < alone.device_bytes < ours.device_bytes < 3 * alone.device_bytes
    assert ours.counters["fallbacks"] == 0 and ours.counters["to_host"] == 0
    assert "on the device, MiB" in str(report)


def test_a_wrong_lowering_is_found():
    op = torch.ops.aten.silu.default
    with sides.wrong_lowering(op, lambda b, out: b.mul(out, 1.05)):
        report = compared(num_inference_steps=1, guidance_scale=0.0, repeats=0, bisect=True)
    assert not report.ok
    call = report.calls[0]
    assert (call.first_difference.place.component, call.bisect.first.overload) == ("controlnet", str(op))
    assert call.bisect.first.module == "time_embedding.act"


def test_the_devices_random_state_is_put_back():
    state = State(())
    first = torch.randn(5, device=NPU).cpu()
    state.restore()
    assert torch.equal(torch.randn(5, device=NPU).cpu(), first)
    assert not torch.equal(torch.randn(5, device=NPU).cpu(), first)
