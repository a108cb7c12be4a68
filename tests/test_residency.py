"""Tensors that stay on the device between components: nothing crosses needlessly, and they are ordinary tensors."""

import copy
import io
import pickle

import models
import numpy as np
import parity
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ms_controlnet_backend
from ms_controlnet_backend.runtime.resident import ResidentTensor


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Two(torch.nn.Module):
    """Hands out its inputs, on the device."""

    def forward(self, x, y):
        return x + 0, y + 0


@pytest.fixture(scope="module")
def on_device():
    """on_device(x, y): resident tensors of these values."""
    from ms_controlnet_backend.backends import mindspore as backend
    from ms_controlnet_backend.hookspecs import Options, Site

    engine = backend.build(Options("CPU", strict=True))
    module = Two()
    component = engine.component(Site("two", module, resident=True))

    def move(x, y):
        with torch.no_grad():
            found = component(module.forward, (x, y), {})
        assert all(type(t) is ResidentTensor and t.held.host is None for t in found)
        return found

    move.stats = component.stats
    return move


ON_DEVICE = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "scale": lambda x, y: x * 0.3,
    "div": lambda x, y: x / 3, "neg": lambda x, y: -x, "cat": lambda x, y: torch.cat([x, y]),
    "cat zeros": lambda x, y: torch.cat([torch.zeros_like(x), x]), "zeros_like": lambda x, y: torch.zeros_like(x),
    "ones_like": lambda x, y: torch.ones_like(x), "sum of list": lambda x, y: sum([x, y, x]),
    "add alpha": lambda x, y: torch.add(x, y, alpha=0.5), "silu": lambda x, y: F.silu(x), "exp": lambda x, y: x.exp(),
    "times a number in a tensor": lambda x, y: x * torch.tensor(0.7), "clone": lambda x, y: x.clone(),
    "detach": lambda x, y: x.detach(), "stack": lambda x, y: torch.stack([x, y]), "mean": lambda x, y: x.mean(),
    "in place": lambda x, y: x.mul_(2), "in place both": lambda x, y: (x.add_(y), x)[1],
    "in place of an alias": lambda x, y: (x.detach().sub_(y), x)[1], "bmm": lambda x, y: x.bmm(y),
    "softmax": lambda x, y: x.softmax(-1), "where": lambda x, y: torch.where(x > y, x, y),
}  # fmt: skip
ANYWHERE = {
    "float16": lambda x, y: x.to(torch.float16), "double": lambda x, y: x.double(), "to cpu": lambda x, y: x.to("cpu"),
    "chunk": lambda x, y: x.chunk(2)[1], "view": lambda x, y: x.view(-1), "reshape": lambda x, y: x.reshape(4, -1),
    "index": lambda x, y: x[0], "slice": lambda x, y: x[:, 1:], "mask": lambda x, y: x[x > 0],
    "transpose": lambda x, y: x.transpose(0, 1), "permute": lambda x, y: x.permute(2, 0, 1), "T": lambda x, y: x.mT,
    "contiguous": lambda x, y: x.contiguous(), "expand": lambda x, y: x[None].expand(3, -1, -1, -1),
    "sum": lambda x, y: x.sum(), "norm": lambda x, y: x.norm(), "std": lambda x, y: x.std(),
    "sort": lambda x, y: x.sort().values, "topk": lambda x, y: x.topk(2).values, "argmax": lambda x, y: x.argmax(),
    "item": lambda x, y: x.sum().item(), "tolist": lambda x, y: x.tolist(), "numpy": lambda x, y: x.numpy(),
    "array": lambda x, y: np.asarray(x), "ufunc": lambda x, y: np.exp(x), "float": lambda x, y: float(x.mean()),
    "equal": lambda x, y: torch.equal(x, x.clone()), "allclose": lambda x, y: torch.allclose(x, y),
    "in place of a view": lambda x, y: (x[0].mul_(3), x)[1],
    "in place into a plain one": lambda x, y: torch.ones(x.shape).add_(x), "copy_": lambda x, y: x.copy_(y),
    "out": lambda x, y: torch.add(x, y, out=torch.empty(0)), "setitem": lambda x, y: (x.__setitem__(0, 1.0), x)[1],
    "fill": lambda x, y: (x.fill_(2.0), x + y)[1], "zero": lambda x, y: (x.zero_(), x)[1],
    "data": lambda x, y: (x.data.mul_(2), x + y)[1], "by numpy": lambda x, y: (x.numpy().__imul__(2), x + y)[1],
    "matmul": lambda x, y: x @ y, "einsum": lambda x, y: torch.einsum("bij,bjk->bik", x, y), "svd": lambda x, y:
    torch.linalg.svdvals(x), "fft": lambda x, y: torch.fft.rfft(x), "interpolate": lambda x, y: F.interpolate(x, 8),
    "pad": lambda x, y: F.pad(x, (1, 1)), "max": lambda x, y: x.max(0), "unbind": lambda x, y: torch.unbind(x)[1],
    "split": lambda x, y: x.split(1)[0], "repeat": lambda x, y: x.repeat(1, 2, 1), "flip": lambda x, y: x.flip(0),
    "roll": lambda x, y: x.roll(1), "cumsum": lambda x, y: x.cumsum(0), "clamp": lambda x, y: x.clamp(-0.5, 0.5),
    "comparison": lambda x, y: x > y, "all comparisons": lambda x, y:
    (x == y, x != y, x < y, x <= y, x >= y, x.eq(y), x == 1, x is None, x in [x]), "hash": lambda x, y: {x: 1}[x],
    "any": lambda x, y: bool((x > 0).any()), "plain plus": lambda x, y:
    torch.ones(x.shape) + x, "mixed": lambda x, y: torch.cat([x, torch.ones(x.shape)]), "len": lambda x, y: len(x),
    "iterate": lambda x, y: [r.sum() for r in x],
    "shape": lambda x, y: (x.shape, x.dtype, x.device, x.stride(), x.ndim),
    "size": lambda x, y: (x.size(0), x.numel(), x.nbytes, x.element_size()), "repr": lambda x, y: repr(x),
    "format": lambda x, y: f"{x.mean():.3f}", "deepcopy": lambda x, y: copy.deepcopy(x), "copy": lambda x, y:
    copy.copy(x), "pickle": lambda x, y: pickle.loads(pickle.dumps(x)), "save": lambda x, y: saved(x),
    "dlpack": lambda x, y: torch.from_dlpack(x), "parameter": lambda x, y: torch.nn.Parameter(x) + y,
    "share": lambda x, y: x.share_memory_() + y, "linear": lambda x, y: F.linear(x, y[0]), "normalise": lambda x, y:
    F.layer_norm(x, (4,)), "new": lambda x, y: x.new_zeros(3), "rand": lambda x, y: torch.zeros_like(x) +
    torch.manual_seed(0).initial_seed(), "is_floating_point": lambda x, y: (x.is_floating_point(), x.requires_grad,
    x.is_contiguous()), "grad": lambda x, y: gradient(x, y),
}  # fmt: skip


def saved(x):
    buffer = io.BytesIO()
    torch.save({"x": x}, buffer)
    buffer.seek(0)
    return torch.load(buffer)["x"]


def gradient(x, y):
    w = torch.ones(4, requires_grad=True)
    (x * w).sum().backward()
    return w.grad


def flat(result):
    leaves = torch.utils._pytree.tree_leaves(result)
    return [np.asarray(t.detach()) if isinstance(t, torch.Tensor) else t for t in leaves]


def assert_equal(got, expected):
    for g, e in zip(flat(got), flat(expected), strict=True):
        if isinstance(e, (np.ndarray, float)):
            assert np.asarray(g).dtype == np.asarray(e).dtype
            np.testing.assert_allclose(g, e, rtol=1e-5, atol=1e-6)
        else:
            assert g == e


def pair():
    return random(2, 4, 4), random(2, 4, 4, seed=1)


@pytest.mark.parametrize("name", [*ON_DEVICE, *ANYWHERE])
def test_equals_the_call_on_a_plain_tensor(on_device, name):
    call = (ON_DEVICE | ANYWHERE)[name]
    x, y = pair()
    ours, theirs = on_device(x.clone(), y.clone()), (x.clone(), y.clone())
    expected = call(*theirs)
    before = on_device.stats.to_host
    got = call(*ours)
    if name in ON_DEVICE:
        assert on_device.stats.to_host == before and type(got) is ResidentTensor
    assert_equal(got, expected)
    assert_equal(ours, theirs)  # what was changed in place


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(sorted(ON_DEVICE | ANYWHERE)), min_size=2, max_size=6))
def test_any_sequence_of_calls(on_device, names):
    ours, theirs = on_device(*pair()), pair()
    calls = ON_DEVICE | ANYWHERE
    for name in names:
        assert_equal(calls[name](*ours), calls[name](*theirs))
        assert_equal([t.clone() for t in ours], theirs)


def test_views_are_views(on_device):
    x, _ = on_device(*pair())
    row, again = x[0], x.detach()
    row.mul_(2)
    assert torch.equal(x[0], pair()[0][0] * 2) and torch.equal(again, x)
    again.zero_()
    assert not x.any() and not row.any()


def counters(pipe_stats):
    labels = [k for k in pipe_stats if k.startswith(("unet", "controlnet"))]
    return {f: sum(getattr(pipe_stats[k], f) for k in labels) for f in ("to_device", "to_host", "bytes_to_host")}


@pytest.mark.parametrize("nets", [1, 2])
@pytest.mark.parametrize("kind", models.KINDS)
def test_three_copies_a_step(clean, kind, nets):
    """Latents and time step go up, the noise prediction comes down; the residuals of the ControlNets stay."""
    pipe = models.pipeline(kind, nets)
    clean.enable(pipe, strict=True)
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append(counters(ms_controlnet_backend.stats()))
        return tensors

    for _ in range(2):
        seen.clear()
        pipe(**models.call_kwargs(kind, nets, num_inference_steps=5, callback_on_step_end=watch))
    for before, after in zip(seen[1:], seen[2:]):
        assert 1 <= after["to_device"] - before["to_device"] <= 2  # a time step seen before does not go up again
        assert after["to_host"] - before["to_host"] == 1
        assert after["bytes_to_host"] - before["bytes_to_host"] == 2 * 4 * 32 * 32 * 4


@pytest.mark.parametrize("nets", [1, 2])
def test_guess_mode_stays_on_the_device(clean, nets):
    pipe = models.pipeline(nets=nets)
    clean.enable(pipe, strict=True)
    kwargs = lambda **k: models.call_kwargs(nets=nets, guess_mode=True, **k)  # noqa: E731
    pipe(**kwargs())
    before = counters(ms_controlnet_backend.stats())
    pipe(**kwargs(num_inference_steps=6))
    after = counters(ms_controlnet_backend.stats())
    assert after["to_host"] - before["to_host"] == 6
    parity.assert_same(pipe, kwargs)


def test_residuals_reach_a_denoiser_on_torch(clean):
    """Where only the ControlNet is compiled, the UNet's operators after its residuals are done on the device."""
    pipe = models.pipeline()
    expected = pipe(**models.call_kwargs(output_type="latent")).images
    clean.enable(pipe, strict=True)
    from ms_controlnet_backend import routes

    routes.detach(pipe.unet)
    got = pipe(**models.call_kwargs(output_type="latent")).images
    assert parity.relative_error(got, expected) < parity.LATENTS
    assert ms_controlnet_backend.stats()["controlnet"].to_host == 0 and type(got) is ResidentTensor


def test_zeros_of_a_skipped_controlnet_are_nobodys(clean):
    """They are shared, so whoever writes to them must get memory of his own."""
    pipe = models.pipeline()
    clean.enable(pipe, strict=True)
    call = lambda scale: pipe.controlnet(  # noqa: E731
        random(1, 4, 32, 32), 5, random(1, 77, 16), random(1, 3, 64, 64), scale, return_dict=False
    )
    with torch.no_grad():
        call(1.0), call(0.0)[1].add_(7)
        down, middle = call(0.0)
        assert type(middle) is ResidentTensor and not middle.any() and not any(d.any() for d in down)
