"""Lowerings with several ways: each way against float64 on real Stable Diffusion shapes, and which one is chosen."""

import functools

import pytest
import torch
from ms_controlnet_backend.compat import mindspore_runtime
from torch import nn
from torch.nn import functional as F

from ms_controlnet_backend import codegen, plugins
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.lowering import cost, winograd
from ms_controlnet_backend.runtime import executable
from ms_controlnet_backend.runtime.source_cache import SourceCache
from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.runtime.transfers import Transfers
from ms_controlnet_backend.runtime.weights import WeightStore
from ms_controlnet_backend.signature import Arguments


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    mindspore_runtime.select_device("cpu")
    return SourceCache(tmp_path_factory.mktemp("sources"))


class Block(nn.Module):
    """A function of tensors with some weights."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *xs):
        return self.function(self, *xs)


def run(cache, module, *xs):
    """(source, result of MindSpore, executable)."""
    target = Target("CPU")
    with torch.no_grad():
        structure, tensors = Arguments(module.forward, frozenset()).split(xs, {})
        captured = capture("block", module, module.forward, structure, tensors)
        graph, got = executable.build(
            captured, tensors, plugins.registry(), Transfers(target), WeightStore(target), cache
        )
    return open(graph.event.source).read(), got, graph


def check(cache, module, *xs):
    """Compares with float64: at most 3 times torch's own error, RMS. Returns the source."""
    source, got, _ = run(cache, module, *xs)
    with torch.no_grad():
        torchs = module(*xs)
        exact = module.double()(*(x.double() for x in xs))
    module.float()
    assert got.shape == torchs.shape and exact.pow(2).mean() > 1e-6
    error = lambda y: (y.double() - exact).pow(2).mean().sqrt().item()  # noqa: E731
    floor = 2e-7 * exact.pow(2).mean().sqrt().item()  # torch's error may by chance be next to nothing
    assert error(got) <= 3 * max(error(torchs), floor), (error(got), error(torchs))
    return source


def block(function, **layers):
    torch.manual_seed(0)
    made = {k: v() for k, v in layers.items()}
    for layer in made.values():
        for p in layer.parameters():
            nn.init.normal_(p, 0.1 * (p.ndim == 1), p[0].numel() ** -0.5 if p.ndim > 1 else 1.0)
    return Block(function, **made).requires_grad_(False)


def image(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


CONVOLUTIONS = {  # name: (input, output channels, arguments, way on CPU)
    "UNet, first level": ((2, 320, 32, 32), 320, dict(padding=1), "winograd"),
    "UNet, one sample": ((1, 640, 16, 16), 640, dict(padding=1), "im2col|winograd"),
    "UNet, innermost": ((2, 1280, 4, 4), 1280, dict(padding=1), "im2col|gathered pixels"),
    "UNet, conv_in": ((2, 4, 32, 32), 320, dict(padding=1), "gathered pixels"),
    "UNet, conv_out": ((2, 320, 32, 32), 4, dict(padding=1), "winograd|gathered pixels|im2col"),
    "down-sampling": ((2, 320, 32, 32), 320, dict(padding=1, stride=2), "gathered pixels"),
    "hint embedding": ((2, 16, 128, 128), 32, dict(padding=1, stride=2), "gathered pixels|im2col"),
    "odd sizes": ((3, 192, 37, 23), 160, dict(padding=1), "winograd"),
    "VAE, last level": ((1, 128, 160, 96), 128, dict(padding=1), "winograd"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(cache, name):
    shape, channels, arguments, way = CONVOLUTIONS[name]
    module = block(lambda m, x: m.conv(x), conv=lambda: nn.Conv2d(shape[1], channels, 3, **arguments))
    source = check(cache, module, image(*shape))
    assert any(f"aten.conv2d.default ({w}, " in source for w in way.split("|")), source


@pytest.mark.parametrize("way", ["im2col", "gathered pixels", "winograd", "winograd on the fly"])
@pytest.mark.parametrize("shape", [(2, 24, 9, 14), (1, 8, 1, 1), (1, 40, 2, 7)])
def test_every_way(cache, monkeypatch, way, shape):
    """Also where it would not be chosen; Winograd in bands."""
    monkeypatch.setattr(cost.Kept, "cheapest", lambda self, plans, weight: next(p for p in plans if p.name == way))
    monkeypatch.setattr(winograd, "BAND_BYTES", 16 * -(-shape[3] // 2) * 40 * 4 * 2)
    module = block(lambda m, x: m.conv(x), conv=lambda: nn.Conv2d(shape[1], 40, 3, padding=1))
    source = check(cache, module, image(*shape))
    assert f"({way}, " in source
    assert shape[2:] == (1, 1) or "= BiasAdd(" in source and "= Add(" not in source


@pytest.mark.parametrize("side", [4, 16])
def test_one_bad_sample_stays_alone(cache, side):
    """Products with zeros must not carry a NaN over to the other samples."""
    module = block(
        lambda m, x: m.conv(F.silu(m.norm(x))),
        norm=lambda: nn.GroupNorm(32, 64),
        conv=lambda: nn.Conv2d(64, 64, 3, padding=1),
    )
    xs = image(2, 64, side, side)
    _, good, _ = run(cache, module, xs)
    xs[1, 3, 2, 2] = float("nan")
    _, got, _ = run(cache, module, xs)
    assert got[1].isnan().any()
    torch.testing.assert_close(got[0], good[0])


@pytest.mark.parametrize("samples", [1, 2])
def test_group_norm(cache, samples):
    module = block(lambda m, x: m.norm(x), norm=lambda: nn.GroupNorm(32, 320))
    check(cache, module, image(samples, 320, 32, 32) * 3 + 5)


@pytest.mark.parametrize("samples", [1, 2])
def test_group_norm_of_few_numbers_takes_few_kernels(cache, samples):
    module = block(lambda m, x: m.norm(x), norm=lambda: nn.GroupNorm(4, 16))
    source = check(cache, module, image(samples, 16, 8, 8) * 3 + 5)
    assert "= LayerNorm(" in source and "MatMul(" not in source, source


def test_resnet_block(cache):
    """Normalisation, activation, convolution, time embedding and the sum, without a transposed copy in between."""
    module = block(
        lambda m, x, t: (
            m.shortcut(x) + m.conv2(F.silu(m.norm2(m.conv1(F.silu(m.norm1(x))) + m.time(F.silu(t))[:, :, None, None])))
        ),
        norm1=lambda: nn.GroupNorm(32, 320),
        conv1=lambda: nn.Conv2d(320, 640, 3, padding=1),
        time=lambda: nn.Linear(1280, 640),
        norm2=lambda: nn.GroupNorm(32, 640),
        conv2=lambda: nn.Conv2d(640, 640, 3, padding=1),
        shortcut=lambda: nn.Conv2d(320, 640, 1),
    )
    source = check(cache, module, image(2, 320, 16, 16), image(2, 1280))
    assert source.count("= Transpose") + source.count("= Split") <= 2, source  # into the matrix and out of it


def test_up_sampling_before_a_convolution_is_never_made(cache):
    """Rows of gathered rows are gathered from the small image at once."""
    module = block(
        lambda m, x: m.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")),
        conv=lambda: nn.Conv2d(320, 320, 3, padding=1),
    )
    source = check(cache, module, image(1, 320, 16, 16))
    assert source.count("= EmbeddingLookup(") == source.count("= Gather(") == 1, source  # into tiles, out of them
    assert "Concat" not in source, source  # the border of zeros is no copy of the image


@pytest.mark.parametrize("keys, width", [(1024, 40), (77, 40), (1024, 64), (64, 160)])
def test_attention(cache, keys, width):
    module = Block(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v))
    q, k, v = (image(2, 8, length, width) for length in (1024, keys, keys))
    check(cache, module, q * 2, k.flip(2), v.flip(1))


@pytest.mark.parametrize("weights", ["weight and bias", "weight", "none"])
@pytest.mark.parametrize("length, kernel", [(16, True), (1024, False)])
def test_layer_norm(cache, length, kernel, weights):
    """The kernel is slow on many numbers; a row that is NaN or far from zero does not touch the others."""
    affine = dict(elementwise_affine=weights != "none", bias=weights == "weight and bias")
    module = block(lambda m, x: m.norm(x), norm=lambda: nn.LayerNorm(320, **affine))
    x = image(2, length, 320) * 3 + 5
    x[0, 1] += 100
    source = check(cache, module, x)
    assert ("= LayerNorm(" in source) == kernel and ("= MatMul(" in source) != kernel, source
    _, good, _ = run(cache, module, x)
    x[1, 3, 2] = float("nan")
    _, got, _ = run(cache, module, x)
    assert got[1, 3].isnan().all() and torch.equal(got[0], good[0]) and torch.equal(got[1, 4:], good[1, 4:])


def test_layer_norm_and_gelu(cache):
    module = block(
        lambda m, x: m.linear(m.norm(x)).chunk(2, -1),
        norm=lambda: nn.LayerNorm(320),
        linear=lambda: nn.Linear(320, 2560),
    )
    module.function = lambda m, x: (lambda a, g: a * F.gelu(g))(*m.linear(m.norm(x)).chunk(2, -1))
    check(cache, module, image(2, 1024, 320))


def test_a_changed_weight_is_transformed_again(cache):
    """The transformed copy follows changes in place, with and without a trace in the version, of single elements."""
    module = block(lambda m, x: m.conv(x), conv=lambda: nn.Conv2d(320, 320, 3, padding=1))
    x = image(2, 320, 32, 32)
    source, before, graph = run(cache, module, x)
    assert "(winograd, " in source
    for change in (
        lambda w: w.mul_(1.5),
        lambda w: w.data.mul_(0.5),
        lambda w: w.data[7, 5, 1, 2].add_(3.0),
    ):
        with torch.no_grad():
            change(module.conv.weight)
            expected = module(x)
            got = graph([x], executable.Crossings())
        assert not torch.allclose(got, before, atol=1e-3)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        before = got


def test_equal_transforms_share_their_weight(cache):
    """Graphs of two sizes feed the same transformed copy."""
    module = block(lambda m, x: m.conv(x), conv=lambda: nn.Conv2d(320, 320, 3, padding=1))
    target, store, used = Target("CPU"), WeightStore(Target("CPU")), []
    for size in (32, 40):
        with torch.no_grad():
            structure, tensors = Arguments(module.forward, frozenset()).split((image(2, 320, size, 32),), {})
            captured = capture("block", module, module.forward, structure, tensors)
            graph, _ = executable.build(captured, tensors, plugins.registry(), Transfers(target), store, cache)
        used.append({id(w) for w in graph.converted})
    assert used[0] and used[0] == used[1]


def chain(layers=6):
    """Equal convolutions, one after the other."""
    return block(
        lambda m, x: functools.reduce(lambda y, layer: layer(y), m.children(), x),
        **{f"conv{i}": lambda: nn.Conv2d(320, 320, 3, padding=1) for i in range(layers)},
    )


def test_prepared_weights_are_bounded(cache, monkeypatch):
    """Winograd's weight is 16/9 of the original: of eight equal layers the first keeps it and no other. The others make
    it in every call, from the weight as it is then, and after their input: all at once would take as much memory."""
    monkeypatch.setattr(cost, "KEPT_LEAST", 0)
    module, x = chain(8), image(2, 320, 32, 32)
    source, before, graph = run(cache, module, x)
    assert source.count("(winograd, ") == 1 and source.count("(winograd on the fly, ") == 7
    assert [id(w.source()) for w in graph.converted] == [id(module.conv0.weight)]
    assert source.count("= Depend(self.w_") == 7
    with torch.no_grad():
        torch.testing.assert_close(before, module(x), rtol=1e-3, atol=1e-4)
        module.conv7.weight.data.mul_(-1)
        torch.testing.assert_close(graph([x], executable.Crossings()), module(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [(32, 4, 32), (4, 32, 4)])
def test_a_weight_is_kept_once_for_all_sizes(cache, monkeypatch, sizes):
    """What one size keeps, another one uses, and it keeps no second arrangement, nor more than the first one might."""
    monkeypatch.setattr(cost, "KEPT_BYTES", 1e15)
    module = chain(3)
    target, store, kept = Target("CPU"), WeightStore(Target("CPU")), []
    for size in sizes:
        with torch.no_grad():
            structure, tensors = Arguments(module.forward, frozenset()).split((image(1, 320, size, size),), {})
            captured = capture("block", module, module.forward, structure, tensors)
            executable.build(captured, tensors, plugins.registry(), Transfers(target), store, cache)
        kept.append(store.prepared())
    assert kept[0] == kept[1] == kept[2] and all(len(of) == 1 for of in kept[0].values()) and len(kept[0]) == 3


def test_long_programs_are_cut_into_methods(cache, monkeypatch):
    monkeypatch.setattr(codegen, "PART", 3)
    module = block(
        lambda m, x: (F.silu(m.a(x)) + x, m.b(F.silu(m.a(x))) * x.mean(-1, keepdim=True)),
        a=lambda: nn.Linear(32, 32),
        b=lambda: nn.Linear(32, 32),
    )
    x = image(3, 32)
    source, got, _ = run(cache, module, x)
    assert source.count("def part_") >= 3
    with torch.no_grad():
        for g, e in zip(got, module(x), strict=True):
            torch.testing.assert_close(g, e, rtol=1e-5, atol=2e-6)
