"""Never stale: after any change of a component, the next result equals torch's after the same change."""

import models
import parity
import pytest
import torch
import upstream

import ms_controlnet_backend

LATENTS = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))


def compute(unet, **kwargs):
    with torch.no_grad():
        return unet(LATENTS.to(unet.dtype), 7, TEXT.to(unet.dtype), **kwargs).sample.float()


def in_place(pipe):
    with torch.no_grad():
        pipe.unet.conv_in.weight.mul_(1.5)


def by_data(pipe):
    pipe.unet.conv_in.weight.data.mul_(1.5)


def data_replaced(pipe):
    weight = pipe.unet.conv_in.weight
    weight.data = weight.data * 1.5


def new_parameter(pipe):
    weight = pipe.unet.conv_in.weight
    pipe.unet.conv_in.weight = torch.nn.Parameter(weight.detach() * 1.5)


def load_state_dict(pipe):
    state = {k: v * 1.1 for k, v in pipe.unet.state_dict().items()}
    pipe.unet.load_state_dict(state)


def load_state_dict_by_assignment(pipe):
    state = {k: v * 1.1 for k, v in pipe.unet.state_dict().items()}
    pipe.unet.load_state_dict(state, assign=True)


def lora(pipe, name="first", seed=0):
    from peft import LoraConfig

    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    pipe.unet.add_adapter(config, adapter_name=name)


def two_loras(pipe):
    lora(pipe), lora(pipe, "second", seed=1)
    pipe.unet.set_adapters(["first", "second"], [0.7, 0.4])


def lora_scale(pipe):
    pipe.unet.set_adapters(["first"], [0.3])


def lora_off(pipe):
    pipe.unet.disable_adapters()


def fuse(pipe):
    pipe.unet.fuse_lora(lora_scale=0.8)


def unfuse(pipe):
    pipe.unet.unfuse_lora()


def unload(pipe):
    upstream.needs(hasattr(pipe.unet, "unload_lora"), "diffusers", "unload_lora of a UNet")
    pipe.unet.unload_lora()


def qkv(pipe):
    pipe.unet.fuse_qkv_projections()


def attention_processor(pipe):
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Louder(AttnProcessor2_0):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs) * self.factor

    pipe.unet.set_attn_processor(Louder(1.7))


def scale_inside_a_processor(pipe):
    for processor in pipe.unet.attn_processors.values():
        processor.factor = 0.4


def sliced_attention(pipe):
    pipe.unet.set_attention_slice("max")


def freeu(pipe):
    pipe.unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)


def freeu_off(pipe):
    pipe.unet.disable_freeu()


def submodule_replaced(pipe):
    torch.manual_seed(5)
    pipe.unet.conv_out = torch.nn.Conv2d(8, 4, 3, padding=1)


def activation_replaced(pipe):
    pipe.unet.conv_act = torch.nn.ReLU()


def flag_changed(pipe):
    pipe.unet.mid_block.resnets[0].output_scale_factor = 1.3


CHANGES = {
    "in place": [in_place], "by .data": [by_data], ".data replaced": [data_replaced], "new parameter": [new_parameter],
    "load_state_dict": [load_state_dict], "load_state_dict(assign=True)": [load_state_dict_by_assignment],
    "lora": [lora], "lora scale": [lora, lora_scale], "two loras": [two_loras], "lora disabled": [lora, lora_off],
    "fuse_lora": [lora, fuse], "unfuse_lora": [lora, fuse, unfuse], "unload_lora": [lora, unload],
    "fuse_qkv_projections": [qkv], "set_attn_processor": [attention_processor],
    "scale in a processor": [attention_processor, scale_inside_a_processor],
    "submodule": [submodule_replaced], "activation": [activation_replaced], "flag": [flag_changed],
    "freeu": [freeu], "freeu off": [freeu, freeu_off], "set_attention_slice": [sliced_attention],
}  # fmt: skip


class Holder:
    """What the changes need of a pipeline: its UNet."""

    def __init__(self):
        self.unet = models.unet()


@pytest.mark.parametrize("change", CHANGES)
def test_unet(clean, change):
    ours, reference = Holder(), Holder()
    pipe = models.pipeline(unet=ours.unet)
    clean.enable(pipe, strict=True)
    assert parity.relative_error(compute(ours.unet), compute(reference.unet)) < parity.COMPONENT
    before = compute(reference.unet)
    for step in CHANGES[change]:
        step(ours), step(reference)
        expected = compute(reference.unet)
        got = compute(ours.unet)
        assert parity.relative_error(got, expected) < parity.COMPONENT
    back_to_the_start = {
        "unfuse_lora",
        "unload_lora",
        "lora disabled",
        "freeu off",
        "fuse_qkv_projections",
        "set_attention_slice",
    }
    if change not in back_to_the_start:
        assert parity.relative_error(expected, before) > 1e-3, "the change changes nothing: the test would see nothing"


def strange_attention(pipe):
    """A processor with an operator that nobody lowers."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Strange(AttnProcessor2_0):
        def __call__(self, *args, **kwargs):
            return torch.special.bessel_j0(super().__call__(*args, **kwargs))

    pipe.unet.set_attn_processor(Strange())


def usual_attention(pipe):
    from diffusers.models.attention_processor import AttnProcessor2_0

    pipe.unet.set_attn_processor(AttnProcessor2_0())


def test_cut_and_whole_again(clean, caplog):
    """An operator without lowering: torch computes it, which is said once, and MindSpore takes over again after."""
    ours, reference = Holder(), Holder()
    pipe = models.pipeline(unet=ours.unet)
    clean.enable(pipe)
    for step in (strange_attention, usual_attention):
        step(ours), step(reference)
        for _ in range(2):
            assert parity.relative_error(compute(ours.unet), compute(reference.unet)) < parity.COMPONENT
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1 and "no lowering for aten.special_bessel_j0.default" in warnings[0]
    stats = ms_controlnet_backend.stats()["unet"]
    assert (stats.compiles, stats.fallbacks, stats.calls) == (2, 0, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_module_to_dtype(clean, dtype):
    ours = Holder()
    pipe = models.pipeline(unet=ours.unet)
    clean.enable(pipe, strict=True)
    expected = compute(ours.unet)
    ours.unet.to(dtype)
    got = compute(ours.unet)
    assert parity.relative_error(got, expected) < (5e-3 if dtype is torch.float16 else 5e-2)
    assert (got != expected).any()


@pytest.mark.parametrize("change", [in_place, by_data, load_state_dict, data_replaced, lora])
def test_converted_weights(clean, change):
    """float16 weights are converted, not shared: a change must reach the converted copy."""
    ours, reference = Holder(), Holder()
    pipe = models.pipeline(unet=ours.unet.half())
    reference.unet.half().float()  # the same rounding
    clean.enable(pipe, strict=True)
    assert parity.relative_error(compute(ours.unet), compute(reference.unet)) < 5e-3
    before = compute(ours.unet)
    reference.unet.half(), change(ours), change(reference), reference.unet.float()
    got = compute(ours.unet)
    assert parity.relative_error(got, compute(reference.unet)) < 5e-3
    assert parity.relative_error(got, before) > 1e-2


@pytest.mark.parametrize("change", [in_place, new_parameter])
def test_converted_weights_reach_a_new_size(clean, change):
    """Changed after one size was compiled, first used by another size: the copy they share must be the new one."""
    unet, reference = models.unet().half(), models.unet().half()
    pipe = models.pipeline(unet=unet)
    clean.enable(pipe, strict=True)
    with torch.no_grad():
        unet(LATENTS.half(), 7, TEXT.half())
        change(pipe)
        holder = Holder()
        holder.unet = reference
        change(holder)
        x = LATENTS[..., :16, :16]
        expected = reference.float()(x, 7, TEXT).sample
        assert parity.relative_error(unet(x.half(), 7, TEXT.half()).sample.float(), expected) < 5e-3


def test_converted_weights_by_data_in_the_middle_of_a_run(clean):
    """Nothing else changes, and the version does not: found by the sample of every call."""
    unet, reference = models.unet().half(), models.unet().half().float()
    pipe = models.pipeline(unet=unet)
    clean.enable(pipe, strict=True)
    text = TEXT.half()
    with torch.no_grad():
        before = unet(LATENTS.half(), 7, text).sample.float()
        for net in (unet, reference):  # no weight of the prologue: those are compared whole
            for name, p in net.named_parameters():
                p.data.mul_(1.25 if "conv" in name else 1.0)
        got, expected = unet(LATENTS.half(), 7, text).sample.float(), reference(LATENTS, 7, TEXT).sample
    assert parity.relative_error(got, expected) < 1e-2
    assert parity.relative_error(got, before) > 5e-2


def test_one_converted_element_by_data(clean):
    """A write that the sample looked at in every call may miss: seen with the next prompt, the next run."""
    unet, reference = models.unet().half(), models.unet().half().float()
    pipe = models.pipeline(unet=unet)
    clean.enable(pipe, strict=True)
    with torch.no_grad():
        before = unet(LATENTS.half(), 7, TEXT.half()).sample.float()
        unet.conv_in.weight.data[3, 2, 1, 0], reference.conv_in.weight.data[3, 2, 1, 0] = 9.0, 9.0
        text = TEXT.flip(1).half()
        got, expected = unet(LATENTS.half(), 7, text).sample.float(), reference(LATENTS, 7, text.float()).sample
    assert parity.relative_error(got, expected) < 5e-3
    assert parity.relative_error(got, before) > 5e-2


@pytest.mark.parametrize("with_lora", [False, True])
def test_one_converted_row_by_data(clean, with_lora):
    """… in a component that runs once a run: seen at once."""
    if with_lora:
        upstream.needs_lora_in_text_encoders()
    encoders = models.text_encoder().half(), models.text_encoder().half()
    pipe = models.pipeline(text_encoder=encoders[0])
    clean.enable(pipe, strict=True)
    ids = torch.arange(77)[None]
    outputs = []
    for encoder in encoders:
        if with_lora:
            from peft import LoraConfig

            torch.manual_seed(0)
            encoder.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
            encoder.half()
    with torch.no_grad():
        before = encoders[0](ids)[0].float()
        for encoder in encoders:
            encoder.get_input_embeddings().weight.data[5] = torch.linspace(-1, 1, 16).half()
        outputs = encoders[0](ids)[0].float(), encoders[1].float()(ids)[0]
    assert parity.relative_error(*outputs) < 5e-3
    assert parity.relative_error(outputs[0], before) > 5e-2


def test_textual_inversion_resizes_the_embedding(clean):
    ours, reference = models.text_encoder(), models.text_encoder()
    pipe = models.pipeline(text_encoder=ours)
    clean.enable(pipe, strict=True)
    ids = torch.arange(77)[None]
    with torch.no_grad():
        ours(ids)
        for encoder in (ours, reference):
            size = encoder.config.vocab_size
            encoder.resize_token_embeddings(size + 1)
            encoder.get_input_embeddings().weight.data[size] = torch.linspace(-1, 1, 16)
        ids[0, 3] = size
        got, expected = ours(ids)[0], reference(ids)[0]
    assert parity.relative_error(got, expected) < parity.COMPONENT


def test_another_controlnet(clean):
    pipe = models.pipeline()
    other = models.controlnet(70)
    clean.enable(strict=True)
    first = pipe(**models.call_kwargs()).images
    pipe.controlnet = other
    parity.assert_same(pipe, models.call_kwargs)
    assert abs(pipe(**models.call_kwargs()).images - first).max() > 1 / 255


def test_change_in_the_middle_of_a_run(clean):
    """callback_on_step_end may change anything, weights included."""

    def make():
        pipe = models.pipeline()

        def change(p, step, timestep, tensors):
            if step == 1:
                with torch.no_grad():
                    pipe.unet.conv_out.weight.mul_(1.2)
            if step == 2:
                lora(pipe)
            return tensors

        return pipe, dict(callback_on_step_end=change, output_type="latent")

    pipe, kwargs = make()
    expected = pipe(**models.call_kwargs(**kwargs)).images
    pipe, kwargs = make()
    clean.enable(strict=True)
    got = pipe(**models.call_kwargs(**kwargs)).images
    assert parity.relative_error(got, expected) < parity.LATENTS


class Stop(BaseException):
    """Like KeyboardInterrupt."""


@pytest.mark.parametrize("where", ["callback", "inside a graph", "between prologue and step", "while compiling"])
def test_a_run_that_is_broken_off_leaves_the_next_one_right(clean, where, monkeypatch):
    from ms_controlnet_backend.compat import mindspore_runtime

    from ms_controlnet_backend import capture

    pipe = models.pipeline()
    expected = pipe(**models.call_kwargs(output_type="latent")).images
    clean.enable(pipe, strict=True)
    kwargs = {}
    if where != "while compiling":
        pipe(**models.call_kwargs(num_inference_steps=1))
    calls = []
    run = mindspore_runtime.Graph.__call__

    def broken(graph, *tensors):
        calls.append(graph)
        name = type(graph._cell).__name__
        if where == "inside a graph" and len(calls) == 5:
            run(graph, *tensors)
            raise Stop
        if where == "between prologue and step" and name == "Graph" and len(calls) > 1:
            raise Stop
        return run(graph, *tensors)

    def stop(*args):
        raise Stop

    with monkeypatch.context() as patch:
        if where == "callback":
            kwargs["callback_on_step_end"] = stop
        elif where == "while compiling":
            patch.setattr(capture.torch_export, "export", stop)
        else:
            patch.setattr(mindspore_runtime.Graph, "__call__", broken)
        with pytest.raises(Stop):
            pipe(**models.call_kwargs(**kwargs) | {"prompt": "another picture", "image": models.picture(5)})
    got = pipe(**models.call_kwargs(output_type="latent")).images
    assert parity.relative_error(got, expected) < parity.LATENTS
