"""torch_npu's own operators, as upstream calls them: on MindSpore they give what torch_npu's descriptions of them say,
written out here in float64, whether the module's tensors lie on the NPU or on the CPU, where torch_npu has no
kernels."""

from __future__ import annotations

import math

import pytest
import torch

from ms_controlnet_backend import binding
from ms_controlnet_backend.ab.metrics import distance
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.errors import NotLowered
from ms_controlnet_backend.signature import Arguments

pytestmark = pytest.mark.torch_npu
BATCH, HEADS, QUERIES, KEYS, SIZE = 2, 3, 5, 7, 16
HALF = torch.float16


class Calls(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, tensors):
        return self.function(torch.ops.npu, *tensors)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(q, k, v, mask=None, scale=1.0):
    """Of [batch, heads, positions, size]. mask: what is left out."""
    scores = q @ k.transpose(-1, -2) * scale
    return (scores if mask is None else scores.masked_fill(mask, -math.inf)).softmax(-1) @ v


def bsh(t):
    return t.transpose(1, 2).flatten(2)


def bsnd(t):
    return t.transpose(1, 2)


def sbh(t):
    return bsh(t).transpose(0, 1)


def same(t):
    return t


Q, K, V = (random(BATCH, HEADS, n, SIZE, seed=i) for i, n in enumerate((QUERIES, KEYS, KEYS)))
SQUARE = [random(BATCH, HEADS, KEYS, SIZE, seed=i) for i in range(3)]
LATER = torch.ones(KEYS, KEYS, dtype=torch.bool).triu(1)
MASK = random(BATCH, 1, QUERIES, KEYS, seed=9) > 0.5
X, GAMMA = random(2, 4, 6, seed=5), random(6, seed=6)
LEFT, RIGHT = X[..., :3], X[..., 3:]


def gelu(x, approximate="none"):
    return torch.nn.functional.gelu(x, approximate=approximate)


def laid(layout, *tensors):
    return [{"BNSD": same, "BSH": bsh, "BSND": bsnd, "SBH": sbh}[layout](t) for t in tensors]


def fusion(layout, name="npu_fusion_attention", **options):
    return lambda npu, *t: getattr(npu, name)(*t[:3], HEADS, layout, scale=0.3, **options)[0]


TURN = torch.cat([-RIGHT, LEFT], -1)
PAIRS = torch.stack([-X[..., 1::2], X[..., ::2]], -1).flatten(-2)
CASES = {  # name → (the call, its tensors, what it gives)
    "geglu as diffusers": (lambda npu, x: npu.npu_geglu(x, dim=-1, approximate=1)[0], [X], LEFT * gelu(RIGHT, "tanh")),
    "geglu, exact": (lambda npu, x: npu.npu_geglu(x, -1, 0)[0], [X], LEFT * gelu(RIGHT)),
    "geglu, another axis": (lambda npu, x: npu.npu_geglu(x, 1)[0], [X], X[:, :2] * gelu(X[:, 2:], "tanh")),
    "geglu, the left half": (lambda npu, x: npu.npu_geglu(x, -1, 0, True)[0], [X], gelu(LEFT) * RIGHT),
    "geglu's second": (lambda npu, x: npu.npu_geglu(x, -1, 0)[1], [X], gelu(RIGHT)),
    "rms_norm": (lambda npu, x, g: npu.npu_rms_norm(x, g, epsilon=0.1)[0], [X, GAMMA],
                 X / (X.pow(2).mean(-1, True) + 0.1).sqrt() * GAMMA),
    "rotary_mul": (lambda npu, x, c, s: npu.npu_rotary_mul(x, c, s), [X, X.cos(), X.sin()],
                   X * X.cos() + TURN * X.sin()),
    "rotary_mul, pairs": (lambda npu, x, c, s: npu.npu_rotary_mul(x, c, s, "interleave"), [X, X.cos(), X.sin()],
                          X * X.cos() + PAIRS * X.sin()),
    **{f"attention {layout}": (fusion(layout), laid(layout, Q, K, V), *laid(layout, attention(Q, K, V, scale=0.3)))
       for layout in ("BNSD", "BSH", "BSND", "SBH")},
    "attention, masked": (
        lambda npu, *t: npu.npu_fusion_attention(*t[:3], HEADS, "BNSD", atten_mask=t[3], scale=0.3)[0],
        [Q, K, V, MASK], attention(Q, K, V, MASK, 0.3)),
    "attention, causal": (fusion("BNSD", sparse_mode=2, atten_mask=None), SQUARE, attention(*SQUARE, LATER, 0.3)),
    "attention, causal from the end": (fusion("BNSD", sparse_mode=3), SQUARE, attention(*SQUARE, LATER, 0.3)),
    "attention v3": (fusion("BSND", "npu_fusion_attention_v3"), laid("BSND", Q, K, V),
                     bsnd(attention(Q, K, V, scale=0.3))),
}  # fmt: skip
UNKNOWN = {
    "dropout": fusion("BNSD", keep_prob=0.5),
    "rows of several sequences": fusion("BNSD", actual_seq_qlen=[QUERIES], actual_seq_kvlen=[KEYS]),
    "causal, from the end of other lengths": fusion("BNSD", sparse_mode=3),
    "a band": lambda npu, *t: npu.npu_fusion_attention(*t[:3], HEADS, "BNSD", atten_mask=t[3], pre_tockens=1)[0],
}


def captured(function, tensors):
    module = Calls(function)
    structure, flat = Arguments(module.forward).split((list(tensors),), {})
    return capture("calls", module, module.forward, structure, flat), flat


def given(tensors, place, dtype):
    return [t.to(place, torch.bool if t.dtype == torch.bool else dtype) for t in tensors]


def gives_what_it_is_said_to(name, device, places):
    function, tensors, expected = CASES[name]
    engine = binding.build("mindspore", device=device)
    for place in places:
        for dtype, limit in ((torch.float32, 1e-6), (HALF, 2e-3)):
            (got,) = engine.evaluate(*captured(function, given(tensors, place, dtype)))
            assert got.device.type == place.partition(":")[0] and got.dtype == dtype, name
            assert got.shape == expected.shape and distance(got.cpu().double(), expected).relative_rms < limit, name


@pytest.mark.parametrize("name", CASES)
def test_gives_what_it_is_said_to(name):
    gives_what_it_is_said_to(name, "ascend", ("cpu", "npu:0"))


@pytest.mark.npu(devices=1)  # MindSpore keeps the first device it is given: the CPU has a process of its own
def test_on_mindspores_cpu(npu):
    """Whether torch has begun to compute on the NPU or not."""
    npu.elsewhere = True
    for name in CASES:
        gives_what_it_is_said_to(name, "cpu", ("cpu",))
    torch.zeros(1, device="npu:0")
    gives_what_it_is_said_to("attention BSND", "cpu", ("cpu", "npu:0"))


VIEWS = {
    "permuted": lambda npu, x: x.permute(2, 0, 1) * 1,
    "a view": lambda npu, x: (x + 1).permute(2, 0, 1),
    "axes of size 1": lambda npu, x: (x + 1)[:, :1].transpose(0, 1).unsqueeze(2),
    "expanded": lambda npu, x: (x + 1)[:, :1].expand(2, 4, 6),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=str)
@pytest.mark.parametrize("name", VIEWS)
def test_strides_are_torch_npus(name, dtype):
    """int64 is computed in int32, and comes back as what it was."""
    x = (X * 100).to("npu:0", dtype)
    expected = VIEWS[name](None, x)
    (got,) = binding.build("mindspore", device="ascend").evaluate(*captured(VIEWS[name], [x]))
    look = lambda t: (t.device, t.dtype, t.shape, t.stride())  # noqa: E731
    assert look(got) == look(expected) and torch.equal(got.cpu(), expected.cpu())


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_named(name, npu):
    """Not computed in another way."""
    npu.elsewhere = True
    with pytest.raises(NotLowered, match="npu_fusion_attention"):
        engine = binding.build("mindspore", device="ascend")
        engine.evaluate(*captured(UNKNOWN[name], given([Q, K, V, MASK], "cpu", HALF)))
