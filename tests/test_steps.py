"""Work done once a run, work not done at all, and what never compiles again."""

import weakref

import models
import numpy as np
import parity
import pytest
import torch

import ms_controlnet_backend


@pytest.fixture
def pipe(clean):
    pipe = models.pipeline()
    clean.enable(pipe, strict=True)
    return pipe


def stats(label):
    return ms_controlnet_backend.stats()[label]


@pytest.mark.parametrize("kind", models.KINDS)
def test_constant_work_is_done_once_a_run(clean, kind):
    pipe = models.pipeline(kind)
    clean.enable(strict=True)
    for runs in (1, 2):
        pipe(**models.call_kwargs(kind, num_inference_steps=5))
        for label in ("unet", "controlnet"):
            assert stats(label).calls == 5 * runs
            assert stats(label).prologue_runs == runs


def test_what_is_constant(pipe):
    """The prologue holds the prompt's keys and values and the control image's embedding, the step does not."""
    pipe(**models.call_kwargs(num_inference_steps=1))
    from ms_controlnet_backend import binding

    (engine,) = binding._engines.values()
    sources = {}
    for label in ("unet", "controlnet"):
        (graph,) = engine._components[getattr(pipe, label)]._now.graphs.values()
        prologue, step = open(graph.event.source).read().split("class Graph(")
        sources[label] = prologue.split("class Prologue(")[1], step
    for prologue, step in sources.values():
        assert "attn2.to_k" in prologue and "attn2.to_v" in prologue and "attn2.to_k" not in step
        assert "attn1" in step and "attn1" not in prologue and "# conv_in" not in prologue
    prologue, step = sources["controlnet"]
    assert "controlnet_cond_embedding.conv_out" in prologue and "controlnet_cond_embedding" not in step


def unet_call(unet, latents, text):
    with torch.no_grad():
        return unet(latents, 3, text).sample.clone()


LATENTS = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def by_numpy(text, weight):
    text.numpy()[:] *= -1


def in_place(text, weight):
    text.mul_(-1)


def by_data(text, weight):
    text.data.mul_(-1)


def weight_in_place(text, weight):
    weight.mul_(-1)


def weight_by_data(text, weight):
    weight.data.mul_(-1)


def weight_rows_swapped(text, weight):
    weight.data.copy_(weight.data.flip(0))


@pytest.mark.parametrize(
    "change",
    [by_numpy, in_place, by_data, weight_in_place, weight_by_data, weight_rows_swapped],
    ids=lambda c: c.__name__,
)
def test_a_changed_buffer_never_hits(pipe, change):
    reference = models.unet()
    text = torch.randn(1, 77, 16)
    weight = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    first = unet_call(pipe.unet, LATENTS, text)
    assert torch.equal(unet_call(pipe.unet, LATENTS, text), first)
    runs = stats("unet").prologue_runs
    with torch.no_grad():
        change(text, pipe.unet.get_parameter(weight))
        if "weight" in change.__name__:
            change(None, reference.get_parameter(weight))
    got = unet_call(pipe.unet, LATENTS, text)
    assert stats("unet").prologue_runs == runs + 1
    assert parity.relative_error(got, unet_call(reference, LATENTS, text)) < parity.COMPONENT
    assert parity.relative_error(got, first) > 1e-3


def test_a_reused_buffer_never_hits(pipe):
    """Memory that is freed and given to the next tensor of the same shape: same address, other contents."""
    reference = models.unet()
    seen = set()
    for seed in range(6):
        text = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(seed))
        seen.add(text.data_ptr())
        got = unet_call(pipe.unet, LATENTS, text)
        assert parity.relative_error(got, unet_call(reference, LATENTS, text)) < parity.COMPONENT
        del text


@pytest.mark.parametrize(("max_graphs", "runs"), [(16, 3), (3, 3), (2, 12)])
def test_runs_that_take_turns(clean, max_graphs, runs):
    """Requests of a server whose steps alternate: each keeps what is constant over it, up to as many as graphs."""
    pipe, reference = models.pipeline(), models.unet()
    clean.enable(pipe, strict=True, max_graphs=max_graphs)
    texts = [torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    for _ in range(4):
        for text in texts:
            got = unet_call(pipe.unet, LATENTS, text)
            assert parity.relative_error(got, unet_call(reference, LATENTS, text)) < parity.COMPONENT
    assert stats("unet").prologue_runs == runs


def test_what_was_constant_over_a_run_goes_with_it(pipe):
    """Its memory, when the second run after it begins: MindSpore's graph holds its inputs until it runs again, and what
    was uploaded last is remembered, hence as many steps."""
    from ms_controlnet_backend import binding
    from ms_controlnet_backend.runtime.transfers import KEPT

    kept = []
    for seed in range(4):
        text = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(seed))
        for step in range(KEPT + 1):
            unet_call(pipe.unet, LATENTS + step, text)
        (graph,) = next(iter(binding._engines.values()))._components[pipe.unet]._now.graphs.values()
        kept.append(weakref.ref(graph.prologue._known[next(reversed(graph.prologue._known))][0]))
        del text, graph
    assert stats("unet").prologue_runs == 4 and kept[-1]() is not None
    assert [r() is not None for r in kept][:2] == [False, False]


def test_equal_views_of_one_tensor_hit(pipe):
    """Guess mode chunks the embeddings anew in every step."""
    both = torch.randn(2, 77, 16)
    for _ in range(3):
        unet_call(pipe.unet, LATENTS, both.chunk(2)[1])
    assert stats("unet").prologue_runs == 1
    unet_call(pipe.unet, LATENTS, both.chunk(2)[0])
    assert stats("unet").prologue_runs == 2


def test_controlnet_outside_its_window_is_not_run(clean):
    """Upstream scales by 0 there; the result is the same, without the work and without another compile."""
    kwargs = lambda: models.call_kwargs(  # noqa: E731
        num_inference_steps=8, control_guidance_start=0.25, control_guidance_end=0.5
    )
    pipe = models.pipeline()
    clean.enable(pipe, strict=True)
    pipe(**models.call_kwargs(num_inference_steps=1))
    parity.assert_same(pipe, kwargs)
    s = stats("controlnet")
    assert (s.calls, s.skipped, s.compiles) == (9, 6, 1)


def test_two_controlnets_with_windows(clean):
    pipe = models.pipeline(nets=2)
    kwargs = lambda: models.call_kwargs(  # noqa: E731
        nets=2, num_inference_steps=8, control_guidance_start=[0.0, 0.5], control_guidance_end=[0.5, 1.0],
        controlnet_conditioning_scale=[0.9, 0.5], guess_mode=True, guidance_scale=3.0,
    )  # fmt: skip
    clean.enable(pipe, strict=True)
    parity.assert_same(pipe, kwargs)
    for i in range(2):
        s = stats(f"controlnet.nets.{i}")
        assert s.calls == 8 and s.compiles == 1 and s.skipped >= 3


def test_zeros_may_be_written_to(pipe):
    """A user's own loop may add to the residuals in place; the next zeros must be zero again."""
    net = pipe.controlnet
    args = (LATENTS, 3, torch.randn(1, 77, 16), torch.rand(1, 3, 64, 64))
    with torch.no_grad():
        assert net(*args, 1.0).mid_block_res_sample.any()
        net(*args, 0.0).mid_block_res_sample.add_(1)
        out = net(*args, 0.0)
    assert type(out).__name__ == "ControlNetOutput"
    assert not out.mid_block_res_sample.any() and not any(d.any() for d in out.down_block_res_samples)


def test_scalars_compile_nothing(pipe):
    for guidance, scale, seed in ((5.0, 0.9, 0), (2.0, 0.1, 1), (9.0, 1.7, 2)):
        pipe(**models.call_kwargs(guidance_scale=guidance, controlnet_conditioning_scale=scale,
                                  generator=torch.Generator().manual_seed(seed)))  # fmt: skip
    assert {label: s.compiles for label, s in ms_controlnet_backend.stats().items()} == {
        "unet": 1, "controlnet": 1, "text_encoder": 1, "vae.decoder": 1,
    }  # fmt: skip


def test_sizes_compile_once_each(pipe):
    sizes = [(64, 64), (48, 64), (64, 64), (48, 64), (64, 64)]
    for h, w in sizes:
        pipe(**models.call_kwargs(height=h, width=w, image=models.picture(1).resize((w, h)), num_inference_steps=1))
    for label in ("unet", "controlnet", "vae.decoder"):
        assert stats(label).compiles == 2


def test_the_cache_is_bounded(clean):
    pipe = models.pipeline()
    clean.enable(pipe, strict=True, max_graphs=2)
    text = torch.randn(1, 77, 16)
    reference = models.unet()
    for size in (8, 16, 8, 24, 8, 16):  # 24 drops 16, which was not used for longest; 16 then drops 24
        x = torch.randn(1, 4, size, size)
        assert parity.relative_error(unet_call(pipe.unet, x, text), unet_call(reference, x, text)) < parity.COMPONENT
    assert (stats("unet").compiles, stats("unet").evicted) == (4, 2)


TIMES = {
    "NumPy": [np.int64(3), np.int32(3), np.uint8(3), np.float64(3), np.array(3)[()]],
    "Python": [3, 3.0, True + 2, 3 + 2**40 - 2**40],
    "0-d": [torch.tensor(3, dtype=t) for t in (torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64)],
}
SMALL = (np.uint8, torch.uint8)  # which 403 does not fit


@pytest.mark.parametrize("numbers", TIMES)
def test_a_time_step_of_any_kind(pipe, numbers):
    """One graph for all of them."""
    reference = models.unet()
    text = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for time in (*TIMES[numbers], *(t + 400 for t in TIMES[numbers] if getattr(t, "dtype", None) not in SMALL)):
            got, expected = (unet(LATENTS, time, text).sample for unet in (pipe.unet, reference))
            assert parity.relative_error(got, expected) < parity.COMPONENT, repr(time)
    assert stats("unet").compiles == 1


@pytest.mark.parametrize("time", [torch.tensor([7]), torch.tensor([7, 8]), torch.tensor([7.5, 8.5])], ids=repr)
def test_time_steps_of_each_picture(pipe, time):
    reference = models.unet()
    text = torch.randn(2, 77, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        got, expected = (unet(torch.cat([LATENTS, -LATENTS]), time, text).sample for unet in (pipe.unet, reference))
    assert parity.relative_error(got, expected) < parity.COMPONENT
    assert stats("unet").compiles == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16, float, torch.tensor])
def test_a_scale_of_any_kind(pipe, kind):
    """Negative ones, too: a residual that is taken away is none that is left out."""
    reference = models.controlnet(10)
    call = dict(sample=LATENTS, timestep=3, encoder_hidden_states=torch.randn(1, 77, 16), return_dict=False,
                controlnet_cond=torch.rand(1, 3, 64, 64))  # fmt: skip
    with torch.no_grad():
        for scale in (0.5, -0.75, 1.5):
            got, expected = (net(conditioning_scale=kind(scale), **call) for net in (pipe.controlnet, reference))
            for ours, theirs in zip([*got[0], got[1]], [*expected[0], expected[1]]):
                assert parity.relative_error(ours, theirs) < parity.COMPONENT
    assert stats("controlnet").compiles == 1
