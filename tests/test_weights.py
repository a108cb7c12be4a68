"""Converted weights follow what they were converted from, however it was written."""

import pytest
import torch
from ms_controlnet_backend.compat import mindspore_runtime

from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.runtime.weights import WeightStore, checksum

SHAPES = [(64, 32, 3, 3), (7, 5), (3,), ()]


def weight(t):
    mindspore_runtime.select_device("cpu")
    return WeightStore(Target("CPU")).get(t, "w", tuple(t.shape))


def ones(shape, kind):
    if kind == "channels last":
        return torch.randn(8, 16, 3, 3).to(memory_format=torch.channels_last)
    if kind == "part of another":
        return (
            torch.randn(3 + 2 * max(1, torch.Size(shape).numel())).half()[3:][: torch.Size(shape).numel()].view(shape)
        )
    return torch.randn(shape).to(kind)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, "channels last", "part of another"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_element_counts(shape, kind):
    t = ones(shape, kind)
    w = weight(t)
    assert not w.shared and not w.refresh() and not w.refresh(thoroughly=True)
    for place in {0, t.numel() // 2, t.numel() - 1}:
        index = torch.unravel_index(torch.tensor(place), t.shape) if t.ndim else ()
        t.data[index] += 1.0
        assert w.refresh(thoroughly=True) and not w.refresh(thoroughly=True)
        assert torch.equal(w.host, t.to(w.host.dtype))
    t.data.mul_(2)
    assert w.refresh() and torch.equal(w.host, t.to(w.host.dtype))


def test_empty():
    assert not weight(torch.empty(0, 3, dtype=torch.float16)).refresh(thoroughly=True)


def test_the_sample_sees_rows_change_places():
    t = torch.randn(16, 16).half()
    w = weight(t)
    t.data.copy_(t.flip(0))
    assert w.refresh() and torch.equal(w.host, t.float())


def test_checksum_of_any_layout():
    t = torch.randn(4, 6, 5).half()
    assert checksum(t) == checksum(t.clone())
    assert checksum(t.transpose(0, 1)) == checksum(t.transpose(0, 1).contiguous())
