"""The comparison's parts, alone: figures whose value is known, states that come back, tolerances that bite."""

import math
import mmap
import random
import time

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ms_controlnet_backend.ab import memory, metrics, table, verdict
from ms_controlnet_backend.ab.recording import Place, compare_tensors
from ms_controlnet_backend.ab.state import State

INF, NAN = math.inf, math.nan


def test_distance_of_known_tensors():
    d = metrics.distance(torch.tensor([3.0, 4.0, 1.0]), torch.tensor([3.0, 4.0, 0.0]))
    assert (d.max_abs, d.relative_rms, d.finite) == (1.0, pytest.approx(1 / 5), True)
    assert d.cosine == pytest.approx(25 / (5 * math.sqrt(26)))
    assert metrics.distance(torch.tensor([-1.0]), torch.tensor([1.0])).cosine == -1
    assert metrics.distance(torch.zeros(2), torch.zeros(2)) == metrics.Distance(0, 0, 1)
    assert metrics.distance(torch.ones(2), torch.zeros(2)).relative_rms == INF
    assert metrics.distance(torch.ones(2), torch.ones(3)).relative_rms == INF
    assert metrics.distance(torch.tensor([True, False]), torch.tensor([True, True])).max_abs == 1


def test_infinities_in_the_same_places_are_equal_and_nan_never_is():
    mask = torch.tensor([-INF, 0.0, 2.0])
    d = metrics.distance(mask + torch.tensor([0, 0, 1.0]), mask)
    assert d.finite and d.relative_rms == 0.5 and d.max_abs == 1
    for got, reference in ([NAN, 1.0], [1.0, 1.0]), ([1.0, 1.0], [NAN, 1.0]), ([NAN, 1.0], [NAN, 1.0]), ([INF], [1.0]):
        d = metrics.distance(torch.tensor(got), torch.tensor(reference))
        assert not d.finite
        found = compare_tensors(Place("unet", 0, "steps", 0), [torch.tensor(got)], [torch.tensor(reference)])
        assert verdict.first_beyond(found, "component") is found[0]


def test_an_output_that_only_one_side_returns_is_infinitely_off():
    found = compare_tensors(Place("unet", 0, "steps", 0), [torch.ones(1)], [torch.ones(1), torch.ones(2)])
    assert [d.distance.relative_rms for d in found] == [0, INF] and found[1].shape == (2,)


def test_picture_distance_of_known_pictures():
    reference = np.zeros((16, 16, 3), np.float32)
    got = reference.copy()
    got[0, 0, 1] = 2 / 255  # one pixel of 256, one channel of three
    got[0, 1, :] = 1 / 255  # a level off: not counted
    d = metrics.picture_distance(got, reference)
    mse = (2**2 + 3) / 255**2 / got.size
    assert d.off == 1 / 256 and d.max_abs == pytest.approx(2 / 255) and d.mean_abs == pytest.approx(5 / 255 / got.size)
    assert d.psnr == pytest.approx(10 * math.log10(1 / mse)) and 0 < d.ssim < 1
    equal = metrics.picture_distance(reference, reference)
    assert (equal.psnr, equal.ssim, equal.off) == (INF, 1, 0)
    assert metrics.picture_distance(got, got[:8]).off == 1
    assert metrics.picture_distance(got[:5, :5], reference[:5, :5]).ssim < 1
    assert metrics.picture_distance(got[:2], reference[:2]).ssim is None


def test_defects():
    picture = np.full((4, 4, 3), 0.5, np.float32)
    assert metrics.defects(picture) == []
    assert metrics.defects(picture * 0) == ["black"]
    picture[0, 0, 0] = NAN
    assert metrics.defects(picture) == ["NaN"]
    assert metrics.picture_distance(picture, picture).off == 1 / 16


def test_state_comes_back_where_it_was():
    generator, numbers, dice = torch.Generator().manual_seed(1), np.random.default_rng(1), random.Random(1)
    tensor, array, picture = torch.rand(3), np.arange(3.0), PIL.Image.new("RGB", (2, 2), "red")
    values = {"a": [generator, tensor, numbers], "b": {"array": array, "picture": picture, "dice": dice}}

    def draw():
        global_ones = torch.rand(1).item(), np.random.rand(), random.random()
        return global_ones, torch.rand(1, generator=generator).item(), numbers.random(), dice.random()

    def look():
        return tensor.tolist(), array.tolist(), picture.tobytes(), list(values), len(values["a"])

    version = tensor._version
    state = State(values)
    first, before = draw(), look()
    state.restore()
    assert tensor._version == version  # nothing changed, nothing written
    assert draw() == first
    tensor.zero_()
    array[:] = 7
    picture.paste("blue", (0, 0, 2, 2))
    values["a"].pop()
    values["c"] = 1
    assert look() != before
    state.restore()
    assert look() == before and draw() == first and values["a"][1] is tensor


def test_memory_sees_what_is_gone_again():
    with memory.Peak() as small:
        pass
    with memory.Peak() as large:
        held = np.frombuffer(mmap.mmap(-1, 2**28), np.uint8)  # pages of its own: the heap may have as many left
        held[:] = 1
        time.sleep(0.2)
        del held
    assert large.growth > 200 * 2**20 > 50 * 2**20 > small.growth and large.peak >= large.growth


@pytest.mark.parametrize("dtype", verdict.TOLERANCES)
def test_tolerances_are_ordered_and_explained(dtype):
    t = verdict.tolerance(dtype)
    assert torch.finfo(getattr(torch, dtype)).eps < t.component < t.latents and t.operator <= t.component
    assert dtype in t.why and len(t.why) > 80


def test_the_coarsest_dtype_judges():
    assert verdict.coarsest(["float32", "float16", "int64"]) == "float16"
    assert verdict.coarsest([]) == "float32" and verdict.tolerance("int64") is verdict.tolerance("float32")


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_keep_three_digits(x):
    text = table.number(x)
    if math.isfinite(x):
        assert float(text) == pytest.approx(x, rel=6e-3)
    else:
        assert text in ("NaN", "inf", "-inf")
