"""SDXL, Union, T2I-Adapter, IP-Adapter, LoRA, textual inversion, guess mode, several sizes, two threads: the tests that
run on the CPU elsewhere, on MindSpore's Ascend backend."""

from __future__ import annotations

import copy
import threading

import models
import numpy as np
import parity
import pytest
import test_ip_adapter
import test_loaders
import test_sdxl
import test_t2i_adapter
import torch
from test_ip_adapter import pipe as with_image_encoder  # noqa: F401
from test_loaders import pipe as with_loaders  # noqa: F401

import ms_controlnet_backend


@pytest.mark.parametrize(("kind", "nets"), [("txt2img", 1), ("inpaint", 2), ("union txt2img", 1), ("union img2img", 2)])
def test_sdxl_and_union(clean, kind, nets):
    test_sdxl.test_pipeline(clean, kind, nets)


@pytest.mark.parametrize("kind", ["full_adapter", "several xl"])
def test_t2i(clean, kind):
    test_t2i_adapter.test_pipeline(clean, kind)


def test_ip_adapter_loaded_scaled_and_unloaded(with_image_encoder):  # noqa: F811
    test_ip_adapter.test_loaded_scaled_and_unloaded(with_image_encoder)


def test_lora(with_loaders, clean, tmp_path):  # noqa: F811
    """Loaded, weighed, fused, unfused and unloaded."""
    test_loaders.test_lora(with_loaders, clean, tmp_path)


def test_textual_inversion(with_loaders):  # noqa: F811
    test_loaders.test_textual_inversion(with_loaders)


def test_guess_mode(make):
    seen = parity.Seen()
    for guess in (False, True):
        seen.new(parity.assert_same(make(), lambda g=guess: models.call_kwargs(guess_mode=g))[0])


def test_two_sizes_in_turn(clean, make, npu):
    """Each is compiled once."""
    pipe = make()
    sizes = [dict(height=h, width=w, image=models.picture(size=h)) for h, w in ((64, 64), (96, 64))]
    for _ in range(2):
        for size in sizes:
            parity.assert_same(pipe, lambda s=size: models.call_kwargs(**s))
    assert {s.compiles for label, s in clean.stats().items() if label in ("unet", "controlnet")} == {2}


def test_two_threads(clean, npu):
    """Pipelines of the same components, each with a scheduler of its own, while the device's streams lag behind."""
    pipe = models.pipeline()
    twin = type(pipe)(**{**pipe.components, "scheduler": copy.deepcopy(pipe.scheduler)}, requires_safety_checker=False)
    twin.set_progress_bar_config(disable=True)
    calls = [(pipe, 1), (twin, 2)]

    def draw(pipe, seed):
        return pipe(**models.call_kwargs(generator=torch.Generator().manual_seed(seed))).images

    expected = [draw(*call) for call in calls]
    assert np.abs(expected[0] - expected[1]).max() > parity.PIXELS
    clean.enable(strict=True)
    draw(pipe, 0)  # compiled by one thread
    got: dict[int, list] = {0: [], 1: []}

    def work(i):
        got[i] += [draw(*calls[i]) for _ in range(3)]

    with npu.set(defer=True):
        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i in range(2):
        assert len(got[i]) == 3 and max(np.abs(g - expected[i]).max() for g in got[i]) < parity.PIXELS
    assert ms_controlnet_backend.stats()["unet"].fallbacks == 0
