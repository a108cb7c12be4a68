"""Views of resident tensors, and operators that mix them with ordinary ones: on the device, and exactly torch's."""

import contextlib
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ms_controlnet_backend.backends import mindspore as backend
from ms_controlnet_backend.hookspecs import Options, Site
from ms_controlnet_backend.runtime.resident import ResidentTensor


class Same(torch.nn.Module):
    def forward(self, x):
        return x + 0


class Device:
    """device(x): a resident tensor of these values."""

    def __init__(self):
        self.engine = backend.build(Options("CPU", strict=True))
        self._module = Same()
        self._component = self.engine.component(Site("same", self._module, resident=True))
        self.stats = self._component.stats

    def __call__(self, x):
        with torch.no_grad():
            return self._component(self._module.forward, (x.clone(),), {})

    def run(self, call, *tensors):
        """The call's result on residents, nothing having crossed to the host; twice, the second time with no upload of
        a parameter."""
        before = self.stats.to_host
        out = call(*map(self, tensors))
        assert self.stats.to_host == before
        return out

    def graphs(self):
        return len(self.engine.eager._graphs)


@pytest.fixture(scope="module")
def device():
    return Device()


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def described(t):
    version = None if t.is_inference() else t._version
    return (t.shape, t.stride(), t.storage_offset(), t.is_contiguous(), t._is_view(), version)


VIEWS = {
    "view": lambda x: x.view(-1), "transpose": lambda x: x.transpose(0, -1), "rows": lambda x: x[1:], "first": lambda x:
    x[0], "unsqueeze": lambda x: x[:, None], "squeeze": lambda x: x.squeeze(), "expand": lambda x: x[None].expand(
    2, *[-1] * x.ndim), "second chunk": lambda x: x.chunk(2)[1], "split": lambda x: x.split(1, -1)[0], "permute":
    lambda x: x.permute(*range(x.ndim)[::-1]), "flatten": lambda x: x.flatten(), "reshape": lambda x:
    x.reshape(x.shape[0], -1), "narrow": lambda x: x.narrow(0, 1, 1), "unbind": lambda x: x.unbind(0)[-1],
    "detach": lambda x: x.detach(), "every second": lambda x: x[::2], "diagonal": lambda x: x.diagonal(), "unflatten":
    lambda x: x.unflatten(0, (x.shape[0], 1)), "contiguous": lambda x: x.contiguous(), "view_as": lambda x:
    x.view_as(x),
}  # fmt: skip
WRITES = {
    "mul_": lambda x: x.mul_(2), "add_ itself": lambda x: x.add_(x), "setitem": lambda x: x.__setitem__(0, 5.0),
    "zero_": lambda x: x.zero_(), "copy_": lambda x: x.copy_(torch.ones(x.shape)), "numpy": lambda x:
    x.numpy().__iadd__(1), "data": lambda x: x.data.add_(3), "out": lambda x: torch.neg(x, out=x), "clamp_": lambda x:
    x.clamp_(-0.5, 0.5), "turned in place": lambda x: x.transpose_(0, -1), "as_strided": lambda x: x.as_strided(
    (2,), (1,)).mul_(7), "foreach": lambda x: torch._foreach_add_([x], [torch.full(x.shape, 2.0)]),
    "from_numpy": lambda x: torch.from_numpy(x.numpy()).sub_(1), "unsqueezed in place": lambda x: x.unsqueeze_(0),
}  # fmt: skip
steps = st.lists(
    st.tuples(st.sampled_from(["view"] * 3 + ["write", "drop"]), st.integers(0, 9), st.integers(0, 99)),
    min_size=2,
    max_size=9,
)


def attempt(call, x):
    try:
        return call(x)
    except (RuntimeError, IndexError) as error:
        return type(error)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, contextlib.nullcontext])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=steps)
def test_any_sequence_of_views_and_writes(device, mode, steps):
    """After each step every tensor that lives has the numbers, shape, strides and version of torch's."""
    with mode():
        pairs = [(device(random(3, 4, 2)), random(3, 4, 2))]
        if mode is torch.inference_mode:  # ordinary and resident tensors are both made inside
            assert pairs[0][0].is_inference()
        for kind, which, number in steps:
            which %= len(pairs)
            if kind == "drop" and len(pairs) > 1:
                del pairs[which]
                continue
            calls = list((VIEWS if kind == "view" else WRITES).values())
            call = calls[number % len(calls)]
            ours, theirs = (attempt(call, t) for t in pairs[which])
            if isinstance(theirs, type):
                assert ours is theirs
            elif kind == "view" and len(pairs) < 8:
                pairs.append((ours, theirs))
            for ours, theirs in pairs:
                assert described(ours) == described(theirs)
                torch.testing.assert_close(torch.clone(ours).numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_views_stay_on_the_device(device):
    """And so does what is computed of them; no memory is kept of one that nobody has."""

    def call(x):
        q = x.view(2, 6, 2, 4).transpose(1, 2)
        a, b = q.chunk(2, -1)
        assert all(type(t) is ResidentTensor for t in (q, a, b)) and a._base is x and b._is_view()
        return (a + b).flatten(1)[:, 1:].permute(1, 0).unsqueeze(0)

    x = random(2, 6, 8)
    with torch.no_grad():
        out = device.run(call, x)
        q = x.view(2, 6, 2, 4).transpose(1, 2)
        expected = (q[..., :2] + q[..., 2:]).flatten(1)[:, 1:].permute(1, 0).unsqueeze(0)
    assert type(out) is ResidentTensor and out.stride() == expected.stride()
    torch.testing.assert_close(out.numpy(), expected.numpy())
    base = device(x)
    view = base.view(-1)
    value, members = weakref.ref(view.held), base.held.memory.members
    assert len(members) == 2
    del view
    gc.collect()
    assert value() is None and len(members) == 1
    assert base.add_(1).held.value is not None, "nobody shares its memory any more"


class Block(torch.nn.Module):
    """What a container's forward in Python does between its parts."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.conv = torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 8, 3, padding=1)
        self.linear, self.after = torch.nn.Linear(8, 16), torch.nn.LayerNorm(8)
        self.register_buffer("scale", torch.rand(8, 1, 1))
        self.eval().to(dtype)

    def forward(self, x):
        y = self.conv(F.silu(self.norm(x))) * self.scale
        rows = y.flatten(2).transpose(1, 2)
        a, b = self.linear(self.after(rows)).chunk(2, -1)
        q = (a * F.gelu(b)).unflatten(-1, (2, 4)).transpose(1, 2)
        z = F.scaled_dot_product_attention(q, q, q, dropout_p=0.0).transpose(1, 2).reshape(rows.shape)
        z = F.linear(z, self.linear.weight[:8].clone()) @ torch.eye(8, dtype=z.dtype)
        return x + z.transpose(1, 2).unflatten(2, x.shape[2:]) / 1.5


TOLERANCE = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_containers_forward_stays_on_the_device(device, dtype, mode):
    block, x = Block(dtype), random(2, 8, 4, 4).to(dtype)
    with mode():
        expected, out = block(x), device.run(block, x)
        assert type(out) is ResidentTensor and (out.stride(), out.dtype) == (expected.stride(), dtype)
        error = (out - expected).abs().max() / expected.abs().max()
    assert float(error) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", ["AttnProcessor", "AttnProcessor2_0"])
@pytest.mark.parametrize("rank", [3, 4])
def test_attention_processors_stay_on_the_device(device, name, rank):
    from diffusers.models import attention_processor

    torch.manual_seed(0)
    attention = attention_processor.Attention(16, heads=2, dim_head=8, norm_num_groups=4, residual_connection=True)
    attention.set_processor(getattr(attention_processor, name)())
    x = random(2, 16, 4, 4) if rank == 4 else random(2, 6, 16)
    attention.eval()
    with torch.no_grad():
        expected, out = attention(x), device.run(attention, x)
    assert out.stride() == expected.stride()
    torch.testing.assert_close(out.numpy(), expected.numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_parameters_go_through_the_store(device, dtype):
    """Equal shapes share a graph, a parameter is never an upload, and what is written to it is seen."""
    x = random(3, 8)
    with torch.no_grad():
        layers = [torch.nn.Linear(8, 8, dtype=dtype) for _ in range(3)]
        resident = device(x.to(dtype))
        layers[0](resident)
        graphs, uploads = device.graphs(), device.stats.to_device

        def check():
            for layer in layers:
                expected = layer(x.to(dtype))
                assert float((layer(resident) - expected).abs().max()) < 4 * TOLERANCE[dtype]

        got = [layer(resident) for layer in layers]
        assert (device.graphs(), device.stats.to_device) == (graphs, uploads)
        assert all(type(t) is ResidentTensor for t in got)
        check()
        for layer in layers:
            layer.weight.mul_(3)
        check()
        layers[1].weight.data[5, 3] = 40  # leaves no version
        layers[2].weight = torch.nn.Parameter(torch.ones(8, 8, dtype=dtype))
        check()
        shared = device.engine.store.known(layers[0].weight)[0].shared
        assert shared == (dtype is torch.float32)


def test_ordinary_tensors_are_taken_up(device):
    x, y = random(2, 3, 4), random(2, 3, 4, seed=1)
    with torch.no_grad():
        for call in (lambda x: x + y, lambda x: torch.cat([y, x], 1), lambda x: torch.where(y > 0, x, y), y.mul):
            assert torch.allclose(device.run(call, x), call(x))
        resident, source = device(x), y.clone()
        resident.copy_(source)
        source.zero_()
        assert torch.equal(resident, y), "a copy is a copy"
        up = device.stats.to_device
        assert torch.allclose(resident + y, y + y) and device.stats.to_device == up, "an upload is remembered"
        y.add_(1)
        assert torch.allclose(resident + y, source + 2 * y - 1), "and not after a change"


def test_gradients_are_torchs(device):
    layer, x = torch.nn.Linear(4, 4), random(3, 4)
    layer(device(x)).sum().backward()
    ours = layer.weight.grad
    layer.weight.grad = None
    layer(x).sum().backward()
    torch.testing.assert_close(ours, layer.weight.grad)
    assert type(ours) is torch.Tensor
    leaf = device(x).requires_grad_()
    F.linear(leaf, layer.weight).sum().backward()
    torch.testing.assert_close(torch.clone(leaf.grad), layer.weight.detach().sum(0).expand(3, 4))


def test_autocast_is_torchs(device):
    layer, x = torch.nn.Linear(4, 4), random(3, 4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(device(x)).dtype is layer(x).dtype is torch.bfloat16


def test_results_that_serve_gradients(device):
    """The mean that ``native_layer_norm`` returns is the host's; never that of other numbers."""
    x, ours = random(3, 4), device(random(3, 4))
    with torch.no_grad():
        got, late, expected = (torch.native_layer_norm(t, (4,), None, None, 1e-5) for t in (ours, ours, x))
        assert type(got[0]) is ResidentTensor
        for g, e in zip(got, expected):
            assert g.stride() == e.stride()
            torch.testing.assert_close(g.numpy(), e.numpy(), rtol=1e-5, atol=1e-6)
        ours.zero_()
        with pytest.raises(RuntimeError, match="written to since: give it a clone"):
            late[1].sum()


def test_a_mode_sees_the_parts(device):
    from torch.utils.flop_counter import FlopCounterMode

    layer, x = torch.nn.Linear(8, 8), random(4, 8)
    counts = []
    for t in (x, device(x)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(t)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
