"""Weights: on torch's own memory where that can be, one copy of the others, which follows whatever is written."""

import itertools
import math

import models
import parity
import pytest
import torch
from ms_controlnet_backend.compat import mindspore_runtime

import ms_controlnet_backend
from ms_controlnet_backend import binding
from ms_controlnet_backend.runtime.identity import checksum, identities, identity
from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.runtime.watch import Watch
from ms_controlnet_backend.runtime.weights import Weight, WeightStore

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
    assert checksum(t.view(-1)[1:]) == checksum(t.view(-1)[1:].clone())
    with torch.inference_mode():
        assert checksum(t.clone()) == checksum(t)


def swapped(t, i, j):
    t[i], t[j] = t[j].clone(), t[i].clone()


CHANGES = {
    "two places": lambda t: swapped(t, 1, t.numel() - 1),
    "neighbours": lambda t: swapped(t, t.numel() // 2, t.numel() // 2 + 1),
    "rows of words": lambda t: swapped(t, slice(0, 4096), slice(4096, 8192)),
    "columns": lambda t: swapped(t, 0, 4096),
    "halves": lambda t: swapped(t, slice(0, t.numel() // 2), slice(t.numel() // 2, t.numel() // 2 * 2)),
    "order": lambda t: t.copy_(t.flip(0)),
    "a value": lambda t: t[3].add_(1),
    "the last bit": lambda t: t.view(torch.uint8)[-1].bitwise_xor_(1),
}


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8,
          torch.complex128]  # fmt: skip


@pytest.mark.parametrize("special", [None, math.inf, math.nan])
@pytest.mark.parametrize("look", [checksum, identity, lambda t: identities([t, t])], ids=["sum", "one", "all"])
def test_every_change_is_seen(look, special):
    """Past the version counter: values that change places, too, and beside what is not finite."""
    for dtype, count in itertools.product(DTYPES, (5, 4099, 8192, 3 * 8192 + 4095)):
        original = (torch.rand(count, generator=torch.Generator().manual_seed(0)) * 100).to(dtype)
        if special is not None and dtype.is_floating_point:
            original[2] = special
        t = original.clone()
        before = look(t)
        assert look(t) == before
        for name, change in CHANGES.items():
            if count >= 8192 or name not in ("rows of words", "columns"):
                t.data.copy_(original)
                change(t.data)
                changed = not torch.equal(t.view(torch.uint8), original.view(torch.uint8))
                assert (look(t) != before) == changed, (dtype, count, name)


def graphs_of(module):
    (engine,) = (e for e in binding._engines.values() if module in getattr(e, "_components", ()))
    return engine._components[module]._now.graphs.values()


def used_by_graphs(module):
    """Parameter of torch → the Weights that a module's graphs, the size of the pictures apart, use of it."""
    found = {}
    for graph in graphs_of(module):
        for w in [*graph.weights, *(graph.prologue.weights if graph.prologue else [])]:
            if not w.constant:
                found.setdefault(id(w.source()), {})[id(w)] = w
    return {p: list(found[id(p)].values()) for p in module.parameters()}


def assert_shared(used):
    """All graphs read torch's memory, whole or in halves; of 3x3 kernels alone there may be a copy in another
    arrangement."""
    for p, weights in used.items():
        in_place = [w for w in weights if w.shared]
        if len(in_place) < len(weights):
            assert p.shape[2:] == (3, 3) and len(weights) <= 3  # as it is, for Winograd's algorithm, pixels first
        assert sum(w.host.nbytes for w in in_place) in (0, p.nbytes) and len(in_place) <= 2
        first = [w.parameter.data_ptr() - p.data_ptr() for w in in_place]
        assert sorted(first) == [0, p.nbytes // 2][: len(first)]
        assert all(w.parameter.data_ptr() == w.host.data_ptr() for w in weights)
    assert sum(any(w.shared for w in weights) for weights in used.values()) > len(used) / 2


def test_weights_are_not_copied(clean):
    """The MindSpore parameters of a float32 module lie on torch's memory, and are shared by all graphs."""
    pipe = models.pipeline()
    clean.enable(pipe, strict=True)
    with torch.no_grad():
        for size in (32, 16):
            pipe.unet(torch.randn(2, 4, size, size), 7, torch.randn(2, 77, 16))
    assert len(graphs_of(pipe.unet)) == 2
    assert_shared(used_by_graphs(pipe.unet))


@pytest.mark.parametrize("share", ["from_pipe", "components", "one unet"])
def test_pipelines_share_weights_and_graphs(clean, share):
    """Two pipelines over the same modules: one set of parameters, and nothing compiled again."""
    from diffusers import StableDiffusionControlNetImg2ImgPipeline

    pipe = models.pipeline()
    clean.enable(strict=True)
    pipe(**models.call_kwargs())
    compiles = ms_controlnet_backend.stats()["unet"].compiles
    before = used_by_graphs(pipe.unet)
    if share == "from_pipe":
        other, kind = StableDiffusionControlNetImg2ImgPipeline.from_pipe(pipe), "img2img"
    elif share == "components":
        other = StableDiffusionControlNetImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
        kind = "img2img"
    else:
        other, kind = models.pipeline("inpaint", unet=pipe.unet), "inpaint"
    other.set_progress_bar_config(disable=True)
    parity.assert_same(other, lambda: models.call_kwargs(kind))
    assert ms_controlnet_backend.stats()["unet"].compiles == compiles
    assert_shared(before)
    after = used_by_graphs(pipe.unet)
    assert {p: [id(w) for w in ws] for p, ws in after.items()} == {p: [id(w) for w in ws] for p, ws in before.items()}


@pytest.mark.parametrize("layout", ["rows", "channels last", "strided"])
def test_all_at_once(monkeypatch, layout):
    """A Watch looks at single weights only when something changed; where it cannot see all at once, every time."""
    tensors = [torch.randn(8, 16, 3, 3).half(), torch.randn(5, 7).bfloat16(), torch.randn(()).half()]
    if layout == "channels last":
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    if layout == "strided":
        tensors[1] = torch.randn(7, 10).bfloat16()[:, ::2].t()
    weights = [weight(t) for t in tensors]
    looked = []
    refresh = Weight.refresh
    monkeypatch.setattr(Weight, "refresh", lambda self: (looked.append(self), refresh(self))[1])
    watch = Watch(weights)
    for expected in (weights, [] if layout != "strided" else weights):
        watch.refresh()
        assert looked == expected
        looked.clear()
    for changed in (
        lambda t: t.mul_(2),
        lambda t: t.data.add_(1),
        lambda t: t.data.view(-1)[:1].sub_(3) if t.is_contiguous() else t.data.sub_(3),
    ):
        for t, w in zip(tensors, weights):
            changed(t)
            watch.refresh()
            assert torch.equal(w.host, t.float())
    looked.clear()
    watch.forget()
    watch.refresh()
    assert looked == weights
