"""What comes back lies in memory as torch's would: scripts draw noise "like" an output."""

import models
import models_xl
import pytest
import torch
from ms_controlnet_backend.compat import fake_strides
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from ms_controlnet_backend.backends import mindspore as backend
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.hookspecs import Options, Site
from ms_controlnet_backend.layout import Layout, laid_out
from ms_controlnet_backend.signature import Arguments


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _denoiser(n, h, w, width=16, **more):
    return dict(sample=random(n, 4, h, w), timestep=5, encoder_hidden_states=random(n, 77, width)) | more


def _added(n, sizes=models_xl.SIZES):
    return dict(added_cond_kwargs=dict(text_embeds=random(n, 16), time_ids=torch.ones(n, sizes)))


def _cond(n, h, w):
    return random(n, 3, 2 * h, 2 * w)


def _t2i():
    from diffusers import T2IAdapter

    torch.manual_seed(0)
    return models.randomise(T2IAdapter(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2), 1)


def _vision():
    return models.safety_checker().vision_model


def _image_encoder():
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    config = CLIPVisionConfig(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
                              image_size=32, patch_size=8, projection_dim=16)  # fmt: skip
    return CLIPVisionModelWithProjection(config).eval()


def _union(n, h, w):
    kinds = torch.tensor([[1.0, 0, 0, 1, 0, 0]]).expand(n, -1).contiguous()
    return _denoiser(n, h, w, 32, controlnet_cond=[_cond(n, h, w)] * 2, control_type=kinds, control_type_idx=[0, 3],
                     conditioning_scale=[1.0, 0.5]) | _added(n)  # fmt: skip


KINDS = {
    "unet": (models.unet, _denoiser),
    "controlnet": (models.controlnet, lambda n, h, w: _denoiser(n, h, w, controlnet_cond=_cond(n, h, w))),
    "controlnet, guess mode": (
        models.controlnet, lambda n, h, w: _denoiser(n, h, w, controlnet_cond=_cond(n, h, w), guess_mode=True)),
    "sdxl unet": (models_xl.unet, lambda n, h, w: _denoiser(n, h, w, 32) | _added(n)),
    "sdxl controlnet": (
        models_xl.controlnet, lambda n, h, w: _denoiser(n, h, w, 32, controlnet_cond=_cond(n, h, w)) | _added(n)),
    "union": (models_xl.union, _union),
    "vae encoder": (lambda: models.vae().encoder, lambda n, h, w: dict(sample=random(n, 3, 2 * h, 2 * w))),
    "vae decoder": (lambda: models.vae().decoder, lambda n, h, w: dict(sample=random(n, 4, h, w))),
    "t2i adapter": (_t2i, lambda n, h, w: dict(x=random(n, 3, 2 * h, 2 * w))),
    "safety checker": (_vision, lambda n, h, w: dict(pixel_values=random(n, 3, 32, 32))),
    "image encoder": (
        _image_encoder, lambda n, h, w: dict(pixel_values=random(n, 3, 32, 32), output_hidden_states=True)),
    "text encoder": (
        models.text_encoder, lambda n, h, w: dict(input_ids=torch.ones(n, h, dtype=torch.long),
                                                  output_hidden_states=True)),
    "text encoder 2": (
        models_xl.text_encoder_2, lambda n, h, w: dict(input_ids=torch.ones(n, h, dtype=torch.long))),
}  # fmt: skip
SIZES = [(2, 8, 8), (1, 8, 8), (1, 6, 10), (3, 2, 2)]


def sliced(t):
    """A part of something wider."""
    return torch.cat([t, t], -1)[..., : t.shape[-1]] if t.ndim == 4 else t


def channels_last(t):
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t


def turned(t):
    return t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.ndim > 1 else t


def expanded(t):
    return t[:1].expand(t.shape)


LYING = {"contiguous": lambda t: t, "channels_last": channels_last, "sliced": sliced, "turned": turned, "expanded":
         expanded}  # fmt: skip


def lay(arguments, lying, dtype=torch.float32):
    """The arguments with their tensors lying so."""

    def one(t):
        if not isinstance(t, torch.Tensor):
            return t
        return LYING[lying](t.to(dtype) if t.is_floating_point() else t)

    return pytree.tree_map(one, arguments)


def strides(out):
    return [t.stride() for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]


def fake(module, kwargs):
    """The forward on fake tensors, as a capture traces it, without the seconds of torch.export."""
    with fake_strides.as_on_the_cpu(), FakeTensorMode() as mode, torch.no_grad():
        weights = {
            name: mode.from_tensor(t, static_shapes=True)
            for name, t in [*module.named_parameters(), *module.named_buffers()]
        }
        like = lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype) if isinstance(t, torch.Tensor) else t  # noqa: E731
        return strides(torch.func.functional_call(module, weights, (), pytree.tree_map(like, kwargs)))


def build(kind, dtype, weights):
    module = KINDS[kind][0]().to(dtype)
    return module.to(memory_format=torch.channels_last) if weights == "channels_last" else module


@pytest.mark.parametrize("weights", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_fake_strides_are_those_of_torch(kind, dtype, weights):
    module = build(kind, dtype, weights)
    whole = dtype is torch.float32
    sizes = SIZES[: 4 if weights == "contiguous" else 2] if whole else SIZES[1:2]
    wrong = []
    for size in sizes + ([(1, 1, 4), (1, 4, 1)] if kind.startswith("vae") else []):
        for lying in LYING if whole else ("contiguous", "channels_last"):
            kwargs = lay(KINDS[kind][1](*size), lying, dtype)
            with torch.no_grad():
                expected = strides(module(**kwargs))
            found = fake(module, kwargs)
            wrong += [(size, lying, i, f, e) for i, (f, e) in enumerate(zip(found, expected, strict=True)) if f != e]
    assert not wrong, wrong[:8]


@pytest.mark.parametrize("lying", ["contiguous", "channels_last"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_capture_records_them(kind, lying):
    module = build(kind, torch.float32, "channels_last" if lying == "contiguous" else "contiguous")
    kwargs = lay(KINDS[kind][1](1, 8, 8), lying)
    with torch.no_grad():
        expected = strides(module(**kwargs))
    structure, tensors = Arguments(module.forward).split((), kwargs)
    captured = capture("module", module, module.forward, structure, tensors)
    assert [x.strides for x in captured.layouts] == expected


class Lying(torch.nn.Module):
    """Outputs that lie in memory in every way."""

    def forward(self, x):
        return {
            "itself": x + 1, "turned": (x + 1).transpose(0, 1), "expanded": (x[:1] + 1).expand(x.shape), "gaps":
            (x + 1)[:, ::2], "half": (x + 1).chunk(2, 1)[1], "one":
            (x + 1)[:, :, None], "number": x.sum(), "like": torch.zeros_like(x),
        }  # fmt: skip


@pytest.mark.parametrize("resident", [True, False])
def test_every_way_of_lying_comes_back(resident):
    """Also of zeros; the graph of a contiguous call serves the others, and is not compiled again."""
    engine = backend.build(Options("CPU", strict=True))
    module = Lying()
    component = engine.component(Site("lying", module, resident=resident))
    x = random(4, 6)
    for given in (x, x.t().contiguous().t(), torch.cat([x, x], 1)[:, :6], x[:1].expand(4, 6)):
        with torch.no_grad():
            expected, got = module(given), component(module.forward, (given,), {})
        for name, e in expected.items():
            t = got[name]
            assert (t.stride(), t.shape, t.dtype) == (e.stride(), e.shape, e.dtype)
            memory = torch.from_numpy(t.numpy())
            assert memory.stride() == e.stride() or not e.numel()
            torch.testing.assert_close(memory, e, rtol=1e-6, atol=1e-6)
    assert component.stats.compiles == 1
    zeros = next(iter(component._now.graphs.values())).zeros()
    assert strides(zeros) == strides(module(x))


def test_a_new_place_is_seen():
    """The same memory as another matrix: nothing but the strides changed."""
    engine = backend.build(Options("CPU", strict=True))
    layer = torch.nn.Linear(4, 4, bias=False)
    component = engine.component(Site("layer", layer))
    x = random(2, 4)
    with torch.no_grad():
        component(layer.forward, (x,), {})
        layer.weight.data = layer.weight.data.t()
        assert torch.allclose(component(layer.forward, (x,), {}), layer(x), atol=1e-6)


class Twice(torch.nn.Module):
    """Returns the same numbers twice, one time with gaps between them."""

    def forward(self, x):
        part = (x + 1)[:, :2]
        return part, part.clone()


def test_what_is_computed_once_and_returned_twice():
    """Each in memory of its own, with its own strides."""
    module, x = Twice(), torch.randn(3, 4)
    structure, tensors = Arguments(module.forward).split((x,), {})
    captured = capture("twice", module, module.forward, structure, tensors)
    got, expected = backend.build(Options("CPU", strict=True)).evaluate(captured, tensors), module(x)
    assert [t.stride() for t in got] == [t.stride() for t in expected] == [(4, 1), (2, 1)]
    assert all(map(torch.equal, got, expected))
    got[0].zero_()
    assert torch.equal(got[1], expected[1])


def test_noise_like_a_result():
    """torch.randn_like walks memory."""
    engine = backend.build(Options("CPU", strict=True))
    encoder = models.vae().encoder
    component = engine.component(Site("encoder", encoder, resident=True))
    x = channels_last(random(1, 3, 16, 16))
    with torch.no_grad():
        for operation in (lambda t: t, lambda t: t * 0.5, lambda t: torch.cat([t, t]), lambda t: t.permute(1, 0, 2, 3)):
            draws = []
            for out in (encoder(x), component(encoder.forward, (x,), {})):
                torch.manual_seed(0)
                draws.append(torch.randn_like(operation(out)))
            assert draws[0].stride() == draws[1].stride() and torch.equal(*draws)


@pytest.mark.parametrize(
    "shape, strides",  # fmt: skip
    [
        ((2, 3), (1, 2)),
        ((2, 3), (0, 1)),
        ((2, 3), (6, 2)),
        ((3, 4), (1, 1)),
        ((2, 1, 3), (3, 9, 1)),
        ((0, 3), (3, 1)),
        ((), ()),
    ],
)
def test_laid_out(shape, strides):
    expected = torch.arange(12.0).as_strided(shape, strides)
    t = laid_out(expected.contiguous(), strides)
    assert t.stride() == strides and torch.equal(t, expected)
    assert Layout.of(t).empty().stride() == strides
