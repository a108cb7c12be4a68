"""torch_npu beside MindSpore, in one process, on one NPU: scripts whose pipelines lie there are computed by MindSpore,
without a copy, and as torch_npu computes them."""

from __future__ import annotations

import contextlib
import gc

import models
import models_xl
import numpy as np
import parity
import pytest
import test_ip_adapter
import test_loaders
import torch
from test_ip_adapter import pipe as with_image_encoder  # noqa: F401
from test_loaders import pipe as with_loaders  # noqa: F401
from test_parity import test_pipeline  # noqa: F401

import ms_controlnet_backend

pytestmark = pytest.mark.torch_npu
NPU = "npu:0"
BATCH, TOKENS, MIB = 2, 77, 1 << 20


@pytest.fixture(autouse=True)
def any_head_size(npu):
    """torch_npu gives the attention kernel the tiny models' heads as they are."""
    with npu.set(any_head_size=True):
        yield


@pytest.fixture(autouse=True)
def pipelines_lie_there(monkeypatch):
    for module in (models, models_xl):
        pipeline = module.pipeline
        monkeypatch.setattr(module, "pipeline", lambda *a, _of=pipeline, **k: _of(*a, **k).to(NPU))


def random(*shape, seed=1, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(NPU, dtype)


def inputs(module, dtype=torch.float32) -> tuple:
    """Of a tiny UNet, ControlNet, decoder or encoder."""
    latents, text = random(BATCH, 4, 32, 32, dtype=dtype), random(BATCH, TOKENS, 16, seed=2, dtype=dtype)
    if hasattr(module, "controlnet_cond_embedding"):
        return latents, 5, text, random(BATCH, 3, 64, 64, seed=3, dtype=dtype)
    return {"Decoder": (latents,), "Encoder": (random(BATCH, 3, 64, 64, seed=3, dtype=dtype),)}.get(
        type(module).__name__, (latents, 5, text)
    )


def channels_last(t):
    return t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def tensors(out) -> list[torch.Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]


def call(module, *args) -> list[torch.Tensor]:
    """The tensors of its output, which stay where they are."""
    args = args or inputs(module, module.dtype if hasattr(module, "dtype") else torch.float32)
    options = {"return_dict": False} if len(args) > 1 else {}
    with torch.no_grad():
        return tensors(module(*args, **options))


def copies(found: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t.detach().cpu().float() for t in found]


def apart(got, expected) -> float:
    """The largest difference, of the largest number."""
    pairs = list(zip(copies(got), copies(expected), strict=True))
    assert all(e.abs().max() > 1e-3 for _, e in pairs)
    return max(parity.relative_error(g, e) for g, e in pairs)


COMPONENTS = {"unet": lambda p: p.unet, "controlnet": lambda p: p.controlnet, "decoder": lambda p: p.vae.decoder,
              "encoder": lambda p: p.vae.encoder}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", COMPONENTS)
def test_what_a_component_returns(clean, name, dtype):
    """torch_npu's values, place, dtype and strides, also of tensors that lie in another order."""
    pipe = models.pipeline().to(dtype)
    module = COMPONENTS[name](pipe)
    args = inputs(module, dtype)
    turned = [channels_last(a) if isinstance(a, torch.Tensor) and a.ndim == 4 else a for a in args]
    alone = [call(module, *args), call(module, *turned)]
    clean.enable(pipe, strict=True)
    for expected, given in zip(alone, (args, turned)):
        got = call(module, *given)
        assert apart(got, expected) < (1e-4 if dtype is torch.float32 else 2e-2)
        look = lambda t: (type(t), t.device, t.dtype, t.shape, t.stride(), t.is_contiguous())  # noqa: E731
        assert list(map(look, got)) == list(map(look, expected))
    assert sum(s.calls for s in clean.stats().values()) == 2


@pytest.mark.parametrize("kind", ["txt2img", "inpaint"])
def test_as_torch_on_the_cpu(clean, kind):
    """A reference that no software NPU has anything to do with. There diffusers calls GELU by tanh, too."""
    pipe = models.pipeline(kind)
    kwargs = lambda: models.call_kwargs(kind)  # noqa: E731
    library = torch.library.Library("npu", "IMPL")
    try:
        library.impl("npu_geglu", _geglu, "CPU")
        expected = parity.run(pipe.to("cpu"), "torch", kwargs)
    finally:
        library._destroy()
    got = parity.run(pipe.to(NPU), "mindspore", kwargs)
    parity.assert_close(got[0], expected[0], got[1], expected[1])


def _geglu(x, dim=-1, approximate=1, activate_left=False):
    left, right = x.chunk(2, dim)
    gelu = torch.nn.functional.gelu(right, approximate="tanh")
    return left * gelu, gelu


def test_two_controlnets(make):
    scales = dict(controlnet_conditioning_scale=[0.8, 0.4])
    parity.assert_same(make("inpaint", nets=2), lambda: models.call_kwargs("inpaint", nets=2, **scales))


@pytest.mark.parametrize(
    ("kind", "nets"), [("inpaint", 2), pytest.param("union img2img", 1, marks=pytest.mark.long)]
)
def test_sdxl(clean, kind, nets):
    parity.assert_same(models_xl.pipeline(kind, nets), lambda: models_xl.call_kwargs(kind, nets))


def test_lora(with_loaders, clean, tmp_path):  # noqa: F811
    """Loaded, weighed, fused, unfused and unloaded."""
    test_loaders.test_lora(with_loaders, clean, tmp_path)


@pytest.mark.long
def test_ip_adapter_loaded_scaled_and_unloaded(with_image_encoder):  # noqa: F811
    test_ip_adapter.test_loaded_scaled_and_unloaded(with_image_encoder)


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.long)], ids=str
)
def test_half_precision(clean, dtype):
    """As far from float32 as torch_npu in the same dtype."""
    pipe = models.pipeline("img2img")
    kwargs = lambda: models.call_kwargs("img2img")  # noqa: E731
    reference = parity.run(pipe, "torch", kwargs)[1]
    pipe.to(dtype)
    errors = [float(np.abs(parity.run(pipe, b, kwargs)[1] - reference).mean()) for b in ("torch", "mindspore")]
    assert 0 < errors[1] < 1.5 * errors[0] + 1e-4


def test_autocast(clean):
    """What torch casts is cast; outside of it another graph is used."""
    pipe = models.pipeline()

    def both():
        with torch.autocast("npu", torch.float16):
            inside = call(pipe.unet)
        return inside, call(pipe.unet)

    expected = both()
    assert expected[0][0].dtype == torch.float16 and apart(*expected) > 1e-4
    clean.enable(pipe, strict=True)
    for _ in range(2):
        got = both()
        assert [t.dtype for t in got[0]] == [torch.float16]
        assert apart(got[0], expected[0]) < 5e-3 and apart(got[1], expected[1]) < 1e-4
    assert clean.stats()["unet"].compiles == 2


ATTENTIONS = {
    "AttnProcessorNPU": lambda unet: unet.set_attn_processor(_npu_processor()),
    "npu_flash_attention": lambda unet: unet.enable_npu_flash_attention(),
    "AttnProcessor": lambda unet: unet.set_default_attn_processor(),
}


def _npu_processor():
    from diffusers.models.attention_processor import AttnProcessorNPU

    return AttnProcessorNPU()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(clean, name):
    pipe = models.pipeline().to(torch.float16)
    ATTENTIONS[name](pipe.unet)
    expected = copies(call(pipe.unet))
    clean.enable(pipe, strict=True)
    assert apart(call(pipe.unet), expected) < 2e-2
    assert clean.stats()["unet"].calls == 1


def test_a_generator_of_the_npu(clean):
    """What it draws is torch_npu's, and so is the picture."""
    pipe = models.pipeline()
    kwargs = lambda: models.call_kwargs(generator=torch.Generator(NPU).manual_seed(3))  # noqa: E731
    seen = parity.Seen()
    seen.new(parity.assert_same(pipe, kwargs)[0])
    seen.new(parity.run(pipe, "torch", models.call_kwargs)[1])


# -- what crosses, what waits, what is there twice


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_steady_call_copies_nothing_and_waits_for_nothing(clean, npu, name):
    pipe = models.pipeline().to(torch.float16)
    module = COMPONENTS[name](pipe)
    args = inputs(module, torch.float16)
    clean.enable(pipe, strict=True)
    call(module, *args)
    before = npu.report()
    out = call(module, *args)
    after = npu.report()
    crossed = after.crossed(before)
    assert crossed == dict.fromkeys(crossed, 0)
    assert not any("Copy" in op for op in after.launched(before)), "an output was copied"
    del out
    stats = [s for s in clean.stats().values() if s.calls]
    assert sum(s.to_host for s in stats) == 0 and sum(s.to_device for s in stats) <= 2  # scale and time step, once


def store():
    """The weights of the one engine that compiles."""
    (engine,) = (e for e in ms_controlnet_backend.binding._engines.values() if hasattr(e, "store"))
    return engine.store


def test_weights_are_there_once(clean, npu):
    """Nothing is added by MindSpore but what it computes with; what is rearranged is counted."""
    pipe = models.pipeline(unet=models.unet(block_out_channels=(64, 128), norm_num_groups=4)).to(torch.float16)
    unet = pipe.unet
    args = inputs(unet, torch.float16)
    weights = sum(p.nbytes for p in unet.parameters())
    clean.enable(pipe, strict=True)
    call(unet, *args)
    found = list(store()._weights.values())
    rearranged = sum(w.host.nbytes for w in found if w.host is not None)
    assert all(w.on_npu for w in found) and rearranged < 0.25 * weights
    assert "aclnnGroupedMatmulV4" not in npu.report().launches
    assert sum(w.shared for w in found) > 0.5 * len(found)


def test_empty_cache(clean, npu):
    """Both pools give back what they do not use; what runs then is right, and so is a picture after it."""
    pipe = models.pipeline()
    original = torch.npu.empty_cache
    expected = copies(call(pipe.unet))
    clean.enable(pipe, strict=True)
    with npu.set(defer=True):
        for _ in range(2):
            out = call(pipe.unet)
            torch.npu.empty_cache()
            assert apart(out, expected) < 1e-4
    used = npu.report().used
    call(pipe.unet)
    big = inputs(pipe.unet)
    call(pipe.unet, random(BATCH, 4, 128, 128), *big[1:])
    most = npu.report().used
    torch.npu.empty_cache()
    assert npu.report().used <= used + 32 * MIB < most
    clean.disable()
    assert torch.npu.empty_cache is original


# -- nothing stale


def _in_place(unet):
    with torch.no_grad():
        unet.conv_in.weight.mul_(1.5)
        unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.add_(0.5)


def _by_data(unet):
    unet.conv_in.weight.data.mul_(1.5)


def _data_replaced(unet):
    padded = unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    for layer in (unet.conv_in, padded):
        layer.weight.data = layer.weight.data * 3


def _state_dict(unet):
    unet.load_state_dict({k: v * 1.1 for k, v in unet.state_dict().items()})


def _moved(unet):
    unet.to("cpu")
    gc.collect()
    random(100_000)  # takes the memory that was freed
    unet.to(NPU)


def _moved_and_changed(unet):
    unet.to("cpu")
    with torch.no_grad():
        for p in unet.parameters():
            p.mul_(1.05)
    unet.to(NPU)


def _submodule(unet):
    torch.manual_seed(5)
    unet.conv_out = torch.nn.Conv2d(8, 4, 3, padding=1).to(NPU, torch.float16)


def _moved_and_another_activation(unet):
    _moved(unet)
    unet.conv_act = torch.nn.Tanh()


CHANGES = {"in place": (_in_place, 1), "by .data": (_by_data, 1), ".data replaced": (_data_replaced, 1),
           "load_state_dict": (_state_dict, 1), "to and fro": (_moved, 1),
           "changed on the CPU": (_moved_and_changed, 1), "submodule": (_submodule, 3),
           "moved, and another activation": (_moved_and_another_activation, 3)}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changes(clean, change):
    """Seen at the next call, by the same graph where only weights changed or moved. In half precision some are there in
    another arrangement, too."""
    pipe, twin = (models.pipeline().to(torch.float16) for _ in range(2))
    step, compiles = CHANGES[change]
    clean.enable(pipe, strict=True)
    args = inputs(pipe.unet, torch.float16)
    before = copies(call(pipe.unet, *args))
    for _ in range(2):
        step(pipe.unet), step(twin.unet)
        with ms_controlnet_backend.using("torch"):
            expected = copies(call(twin.unet, *args))
        assert apart(call(pipe.unet, *args), expected) < 1e-2
    assert change == "to and fro" or apart(before, expected) > 3e-2, "the change changes nothing"
    assert clean.stats()["unet"].compiles == compiles


WRITES = {"scaled": lambda w: w.mul_(-4), "rows": lambda w: w.copy_(torch.cat([w[5:], w[:5]]))}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_by_data_to_what_is_rearranged(clean, write):
    """It leaves no version: seen where the run's constants are computed, with another prompt."""
    pipe, twin = (models.pipeline().to(torch.float16) for _ in range(2))
    latents, time, text = inputs(pipe.unet, torch.float16)
    clean.enable(pipe, strict=True)
    before = copies(call(pipe.unet, latents, time, text))
    weight = lambda unet: unet.mid_block.attentions[0].transformer_blocks[0].ff.net[0].proj.weight  # noqa: E731
    assert any(w.host is not None for w in store().known(weight(pipe.unet))), "it is not rearranged"
    for unet in (pipe.unet, twin.unet):
        WRITES[write](weight(unet).data)
    with ms_controlnet_backend.using("torch"):
        expected = copies(call(twin.unet, latents, time, text.clone()))
    assert apart(before, expected) > 3e-2, "the change changes nothing"
    assert apart(call(pipe.unet, latents, time, text.clone()), expected) < 1e-2
    assert apart(call(pipe.unet, latents, time, text), expected) < 1e-2


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading(clean, offload, caplog):
    """Which moves every component to the NPU and away again in every call of the pipeline, or each of its layers."""
    pipe = models.pipeline()
    expected = parity.run(pipe, "torch", models.call_kwargs)
    pipe = models.pipeline().to("cpu")
    getattr(pipe, f"enable_{offload}_cpu_offload")(device=NPU)
    clean.enable(pipe, strict=offload == "model")
    for _ in range(2):
        out = pipe(**models.call_kwargs()).images
        assert np.abs(out - expected[1]).max() < 1e-4
    stats = clean.stats()
    if offload == "model":
        assert {label: s.compiles for label, s in stats.items()} == dict.fromkeys(stats, 1)
        assert {p.device.type for p in pipe.unet.parameters()} == {"cpu"}
        return
    assert {s.compiles for s in stats.values()} == {0} and all(s.fallbacks for s in stats.values())
    assert "text_encoder stays on torch: its weights are brought layer by layer" in caplog.text


# -- order


def steps(pipe) -> list[torch.Tensor]:
    """Latents changed by torch before and after each component, with memory given back and taken in between."""
    found, text, picture = [], random(BATCH, TOKENS, 16, seed=2), random(BATCH, 3, 64, 64, seed=3)
    latents = random(BATCH, 4, 32, 32)
    with torch.no_grad():
        for i in range(3):
            given = latents * 1.5 + i
            down, middle = pipe.controlnet(given, i, text, picture, return_dict=False)
            given.mul_(3)  # after the component has read it
            del given
            down = [d * 0.5 for d in down]
            scratch = random(BATCH, 4, 32, 32, seed=i)
            latents = pipe.unet(latents, i, text, down_block_additional_residuals=down,
                                mid_block_additional_residual=middle)[0] + scratch * 0.1  # fmt: skip
            del down, middle, scratch
            found.append(latents)
    return found


@pytest.mark.parametrize("settings", [{"defer": True}, {"workspace": 1 << 16}], ids=str)
def test_whatever_the_streams_do(clean, npu, settings):
    """With launches deferred until somebody waits, only events keep the two frameworks' streams in order."""
    pipe = models.pipeline()
    expected = copies(steps(pipe))
    clean.enable(pipe, strict=True)
    steps(pipe)
    with npu.set(**settings):
        for _ in range(2):
            assert apart(steps(pipe), expected) < 1e-4


def test_an_output_is_the_callers(clean):
    """The next call does not write to what the last one returned; and it may be written to."""
    pipe = models.pipeline()
    clean.enable(pipe, strict=True)
    first = call(pipe.unet)
    kept = copies(first)
    again = call(pipe.unet, random(BATCH, 4, 32, 32, seed=8), 7, random(BATCH, TOKENS, 16, seed=9))
    assert apart(first, kept) == 0 and apart(again, kept) > 1e-2
    again[0].mul_(2)
    assert apart(call(pipe.unet), kept) < 1e-5


# -- the other road, and the end


def test_a_pipeline_on_the_cpu_beside_it(clean):
    """diffusers calls torch_npu's kernels for tensors of the CPU, too, where torch has none of them."""
    for redirect in (None, True):
        with contextlib.ExitStack() as stack:
            pipe = models.pipeline().to("cpu")
            library = torch.library.Library("npu", "IMPL")
            stack.callback(library._destroy)
            library.impl("npu_geglu", _geglu, "CPU")
            expected = pipe(**models.call_kwargs()).images
        with pytest.raises(NotImplementedError, match="npu_geglu"):
            pipe(**models.call_kwargs())
        clean.enable(pipe, strict=True, redirect=redirect)
        if redirect:
            pipe.to("npu")
        out = pipe(**models.call_kwargs()).images
        assert np.abs(out - expected).max() < 1e-4 and pipe.device.type == "cpu"
        clean.disable()


def test_no_trace(clean):
    pipe = models.pipeline()
    expected = copies(call(pipe.unet))
    places = [p.data_ptr() for p in pipe.unet.parameters()]
    clean.enable(pipe, strict=True)
    call(pipe.unet)
    clean.disable()
    assert [p.data_ptr() for p in pipe.unet.parameters()] == places
    assert apart(call(pipe.unet), expected) == 0
