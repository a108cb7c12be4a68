"""What runs on the CPU in other tests runs on MindSpore's Ascend backend here, and equals torch by the same limits."""

from __future__ import annotations

import models
import numpy as np
import pytest
import test_freshness
import test_parity
import torch
from test_freshness import test_another_controlnet  # noqa: F401
from test_parity import test_pipeline, test_two_controlnets  # noqa: F401

import ms_controlnet_backend

CHANGES = (
    "in place", "by .data", ".data replaced", "load_state_dict", "lora", "fuse_lora", "set_attn_processor", "submodule",
    "flag", "freeu",
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changes(clean, change):
    test_freshness.test_unet(clean, change)


def test_safety_checker(make):
    test_parity.test_safety_checker(make, "txt2img")


@pytest.mark.parametrize("where", ["callback", "inside a graph"])
def test_a_run_that_is_broken_off(clean, where, monkeypatch):
    test_freshness.test_a_run_that_is_broken_off_leaves_the_next_one_right(clean, where, monkeypatch)


def rms(a, b) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("txt2img", torch.float16), ("inpaint", torch.float16), ("img2img", torch.bfloat16)], ids=str
)
def test_half_precision_is_as_good_as_torchs(clean, kind, dtype):
    """Compared with float32: the error is that of torch in the same dtype."""
    pipe = models.pipeline(kind)
    reference = pipe(**models.call_kwargs(kind)).images
    pipe.to(dtype)
    on_torch = rms(pipe(**models.call_kwargs(kind)).images, reference)
    with ms_controlnet_backend.using("mindspore", strict=True):
        ours = rms(pipe(**models.call_kwargs(kind)).images, reference)
    assert 0 < ours < 1.5 * on_torch + 1e-4


@pytest.mark.parametrize("settings", [{"defer": True}, {"workspace": 1 << 16}], ids=str)
def test_whatever_the_stream_does(clean, npu, settings):
    """What is freed or overwritten before the device gets there would show."""
    pipe = models.pipeline(unet=models.unet(5), controlnet=models.controlnet(6))
    on_torch = pipe(**models.call_kwargs()).images
    with npu.set(**settings), ms_controlnet_backend.using("mindspore", strict=True):
        for _ in range(2):
            np.testing.assert_allclose(pipe(**models.call_kwargs()).images, on_torch, atol=1 / 255)
