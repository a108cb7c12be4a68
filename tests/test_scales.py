"""LoRA and IP-Adapter scales are inputs of the graph: a new value compiles nothing, and the result is torch's."""

import copy

import models
import parity
import pytest
import torch
import upstream

import ms_controlnet_backend
from ms_controlnet_backend import plugins
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.settings import Settings
from ms_controlnet_backend.signature import Arguments

LATENTS = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
TEXT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))
LINEAR = ["to_q", "to_k", "to_v", "to_out.0"]


def lora(module, name, seed, targets=LINEAR, **options):
    from peft import LoraConfig

    torch.manual_seed(seed)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False, **options)
    module.add_adapter(config, adapter_name=name)


def compiles(label="unet"):
    return ms_controlnet_backend.stats()[label].compiles


class Twins:
    """A UNet that MindSpore runs and its copy that torch runs."""

    def __init__(self, clean, prepare, **kwargs):
        self.ours = models.unet(**kwargs)
        prepare(self.ours)
        self.reference = copy.deepcopy(self.ours)
        self.pipe = models.pipeline(unet=self.ours)
        clean.enable(self.pipe, strict=True)
        self.seen = []

    def agree(self, change=lambda unet: None, **kwargs):
        """After the same change of both; the output is another one than all before."""
        change(self.ours), change(self.reference)
        outputs = []
        for unet in (self.ours, self.reference):
            with torch.no_grad():
                outputs.append(unet(LATENTS, 7, TEXT, **kwargs).sample.clone())
        assert parity.relative_error(*outputs) < parity.COMPONENT
        assert all(parity.relative_error(outputs[1], old) > 1e-4 for old in self.seen), "nothing changed"
        self.seen.append(outputs[1])


def two(unet):
    lora(unet, "first", 0), lora(unet, "second", 1)
    unet.set_adapters(["first", "second"], [0.7, 0.4])


@pytest.mark.parametrize(
    "options", [{}, {"targets": [*LINEAR, "conv1"]}, {"use_dora": True}], ids=["linear", "convolution", "dora"]
)
def test_weights_of_adapters(clean, options):
    upstream.needs(upstream.has("peft.LoraConfig", "use_dora") or "use_dora" not in options, "peft", "DoRA")
    twins = Twins(clean, lambda unet: lora(unet, "first", 0, **options))
    for weight in (1.0, 0.3, 0, -0.5, 1.7):
        twins.agree(lambda unet, weight=weight: unet.set_adapters(["first"], [weight]))
    assert compiles() == 1


def test_two_adapters_and_blocks(clean):
    twins = Twins(clean, two)
    twins.agree()
    for a, b in ((0.1, 0.4), (0.1, 0.0), (-1.0, 2.0)):
        twins.agree(lambda unet, a=a, b=b: unet.set_adapters(["first", "second"], [a, b]))
    if upstream.at_least("diffusers", "0.28"):
        blocks = {"down": 0.5, "mid": 0.1, "up": {"block_0": [0.9, 0.2]}}
        twins.agree(lambda unet: unet.set_adapters(["first", "second"], [blocks, 0.3]))
    assert compiles() == 1
    twins.agree(lambda unet: unet.set_adapters(["second"], [0.9]))  # the others are active adapters: structure
    assert compiles() == 2


def test_one_layer_only(clean):
    from diffusers.utils import scale_lora_layers, unscale_lora_layers

    twins = Twins(clean, two)
    twins.agree()

    def one(unet):
        layer = unet.up_blocks[0].attentions[0].transformer_blocks[0].attn2.to_v
        layer.scaling["second"] = 3.0

    twins.agree(one)
    twins.agree(lambda unet: scale_lora_layers(unet, 0.4))
    twins.agree(lambda unet: unscale_lora_layers(unet, 0.25))
    assert compiles() == 1


def test_scale_in_the_call(clean):
    """Upstream scales by it before the forward and unscales after; with 0 it forgets the adapters' weights."""
    twins = Twins(clean, two)
    for scale in (0.7, 1.0, 0.2, 0.0):
        twins.agree(cross_attention_kwargs={"scale": scale})
    twins.agree()
    twins.agree(cross_attention_kwargs={"scale": 0.9})
    assert compiles() == 1
    layers = [(m.scaling, n.scaling) for m, n in zip(twins.ours.modules(), twins.reference.modules())
              if hasattr(m, "scaling")]  # fmt: skip
    assert layers and all(ours == pytest.approx(reference) for ours, reference in layers)


def test_scale_that_a_processor_takes(clean):
    """diffusers 0.25 and 0.26 hand the scale on to the attention processors; later ones keep it from them."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    class Weighing(AttnProcessor2_0):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, scale=1.0):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb) * (2 * scale)

    def prepare(unet):
        two(unet), unet.set_attn_processor(Weighing())

    twins = Twins(clean, prepare)
    for scale in (0.7, 0.2):
        twins.agree(cross_attention_kwargs={"scale": scale})


def test_scale_that_a_forward_of_ones_own_takes(clean):
    """It may mean anything there."""
    from diffusers import UNet2DConditionModel

    class Own(UNet2DConditionModel):
        def forward(self, sample, timestep, encoder_hidden_states, cross_attention_kwargs):
            return super().forward(sample * cross_attention_kwargs["scale"], timestep, encoder_hidden_states)

    twins = Twins(clean, lambda unet: (two(unet), setattr(unet, "__class__", Own)))
    for scale in (0.7, 0.2):
        twins.agree(cross_attention_kwargs={"scale": scale})


def test_scale_in_the_call_of_a_controlnet(clean):
    """Newer releases weigh its LoRA layers by it, older ones do not."""
    from peft import LoraConfig, inject_adapter_in_model

    ours = models.controlnet(10)
    torch.manual_seed(0)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=LINEAR, init_lora_weights=False), ours, "first")
    reference = copy.deepcopy(ours)
    pipe = models.pipeline(controlnet=ours)
    clean.enable(pipe, strict=True)
    control = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    for scale in (0.7, 0.2):
        call = dict(cross_attention_kwargs={"scale": scale}, return_dict=False)
        with torch.no_grad():
            outputs = [net(LATENTS, 7, TEXT, control, **call)[0] for net in (ours, reference)]
        for a, b in zip(*outputs):
            assert b.abs().max() > 1e-3 and parity.relative_error(a, b) < parity.COMPONENT
    assert compiles("controlnet") > 0


def test_changes_of_kind_are_captured_again(clean):
    upstream.needs(upstream.at_least("diffusers", "0.28"), "diffusers", "scales that are tensors (divided in place)")
    twins = Twins(clean, two)
    twins.agree()
    layer = "up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v"
    twins.agree(lambda unet: unet.get_submodule(layer).scaling.update(first=torch.tensor(2.5)))
    assert compiles() == 2
    twins.agree(lambda unet: unet.get_submodule(layer).scaling.update(first=-1.0))
    assert compiles() == 2  # a number again
    twins.agree(lambda unet: setattr(unet.get_submodule(layer), "scaling", {"first": 4.0, "second": 2.0}))
    assert compiles() == 3
    twins.agree(lambda unet: unet.get_submodule(layer).scaling.update(first=0.5))
    assert compiles() == 3


def test_in_the_middle_of_a_run(clean):
    """Of a whole pipeline, with a LoRA on the text encoder too."""
    upstream.needs_lora_in_text_encoders()

    def make():
        pipe = models.pipeline()
        two(pipe.unet)
        lora(pipe.text_encoder, "first", 3, ["q_proj", "k_proj", "v_proj", "out_proj"])

        def change(p, step, timestep, tensors):
            p.unet.set_adapters(["first", "second"], [0.9 / (step + 1), step * 0.5])
            p._cross_attention_kwargs = {"scale": 1.0 / (step + 1)}
            return tensors

        return pipe, dict(callback_on_step_end=change, output_type="latent")

    ours, kwargs = make()
    reference, other = make()
    clean.enable(ours, strict=True)
    seen = []
    for scale in (0.5, 0.8, 1.0):
        arguments = dict(cross_attention_kwargs={"scale": scale})
        expected = reference(**models.call_kwargs(**other, **arguments)).images
        got = ours(**models.call_kwargs(**kwargs, **arguments)).images
        assert parity.relative_error(got, expected) < parity.LATENTS
        assert all(parity.relative_error(expected, old) > 1e-3 for old in seen)
        seen.append(expected)
    assert {label: s.compiles for label, s in ms_controlnet_backend.stats().items()} == {
        "unet": 1, "controlnet": 1, "text_encoder": 1,
    }  # fmt: skip


def test_the_prologue_follows_the_scale(clean):
    """Keys and values of the prompt are scaled by LoRA: computed once a scale, not once a step."""
    twins = Twins(clean, two)
    for scale, runs in ((1.0, 1), (1.0, 1), (0.5, 2), (0.5, 2)):
        twins.seen = []
        twins.agree(lambda unet, scale=scale: unet.set_adapters(["first", "second"], [scale, scale]))
        assert ms_controlnet_backend.stats()["unet"].prologue_runs == runs


class Scaled(torch.nn.Module):
    """use: what it does with its scale."""

    def __init__(self, use):
        super().__init__()
        self.use = use
        self.scaling = {"a": 0.5, "b": 2.0}

    def forward(self, x):
        return self.use(x, self.scaling["a"], self.scaling)


def by_branch(x, scale, scaling):
    return x if scale > 1 else x * 2


def by_truth(x, scale, scaling):
    return x * 3 if scale else x


def by_float(x, scale, scaling):
    return x * float(scale)


def by_equality(x, scale, scaling):
    return x * 5 if scale == 0.5 else x


def by_alpha(x, scale, scaling):
    return torch.add(x, x, alpha=scale)


def by_writing(x, scale, scaling):
    scaling["a"] = scale * 0.5
    return x * scale


def test_arithmetic_is_traced():
    def use(x, scale, scaling):
        y = (2 * scale + 1 - scaling["b"] / 4) * x + x * -scale
        return torch.mul(x, scale) + (3 - scale) * y / scaling["b"] if scale != 0 else x

    settings, x = _settings(use), torch.ones(2)
    structure, tensors = Arguments(settings.module.forward).split((x,), {})
    captured = capture("scaled", settings.module, settings.module.forward, structure, tensors, settings)
    (got,) = captured.graph_module(x, torch.tensor([0.25, 8.0]))
    assert settings.module.scaling == {"a": 0.5, "b": 2.0}
    settings.module.scaling.update(a=0.25, b=8.0)
    assert torch.allclose(got, settings.module(x))


def by_scaling_by_one(x, scale, scaling):
    """So does diffusers before 0.28 around every forward."""
    scaling["a"] *= 1.0
    y = x * scaling["a"]
    scaling["a"] /= 1.0
    return y


def test_scaling_by_one_is_no_change(clean):
    settings, x = _settings(by_scaling_by_one), torch.ones(2)
    structure, tensors = Arguments(settings.module.forward).split((x,), {})
    captured = capture("scaled", settings.module, settings.module.forward, structure, tensors, settings)
    (got,) = captured.graph_module(x, torch.tensor([0.25, 8.0]))
    assert torch.equal(got, x * 0.25) and settings.module.scaling == {"a": 0.5, "b": 2.0}


def _settings(use):
    module = Scaled(use).eval()
    settings = Settings([(module.scaling, k) for k in module.scaling])
    settings.module = module
    return settings


@pytest.mark.parametrize("use", [by_branch, by_truth, by_float, by_equality, by_writing])
def test_what_cannot_be_traced_is_refused(use):
    settings = _settings(use)
    structure, tensors = Arguments(settings.module.forward).split((torch.ones(2),), {})
    with pytest.raises(Refused):
        capture("scaled", settings.module, settings.module.forward, structure, tensors, settings)
    assert settings.module.scaling == {"a": 0.5, "b": 2.0}


@pytest.mark.parametrize("use", [by_branch, by_truth, by_float, by_equality, by_alpha])
def test_what_cannot_be_traced_is_captured_again(clean, use):
    """… by value, and never answered with the old one."""
    from ms_controlnet_backend.hookspecs import Options, Site

    module = Scaled(use).eval()
    engine = plugins.registry().backend("mindspore").build(Options(strict=True))
    site = Site("scaled", module, settings=lambda m: [(m.scaling, k) for k in m.scaling])
    x = torch.tensor([1.0, -2.0])
    for value in (0.5, 0.5, 1.5, 0.0, 0.5):
        module.scaling["a"] = value
        with torch.no_grad():
            got = engine.component(site)(module.forward, (x,), {})
            torch.testing.assert_close(got, module(x))
    assert engine.stats()["scaled"].compiles == 4


class Branches(torch.nn.Module):
    """Two processors with lists of scales."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Identity(), torch.nn.Identity()
        self.a.scale = self.b.scale = [0.5, 2.0]  # as diffusers 0.27 does, one list for all

    def forward(self, x):
        for n, m in enumerate((self.a, self.b)):
            for i, scale in enumerate(m.scale):
                x = x + (x + 10 * n + i) * scale
        return x


def test_lists_of_numbers(clean):
    """… are inputs, replaced as a whole, changed in place or shared; another length is another graph."""
    from ms_controlnet_backend.hookspecs import Options, Site

    module, x = Branches().eval(), torch.tensor([1.0, -2.0])
    engine = plugins.registry().backend("mindspore").build(Options(strict=True))
    site = Site("branches", module, settings=lambda m: [(vars(m.a), "scale"), (vars(m.b), "scale")])

    def agree():
        with torch.no_grad():
            torch.testing.assert_close(engine.component(site)(module.forward, (x,), {}), module(x))
        return engine.stats()["branches"].compiles

    assert agree() == 1
    module.a.scale = module.b.scale = [0.1, 3.0]
    assert agree() == 1
    module.a.scale = [0.7, 0.2]
    assert agree() == 1
    module.b.scale[1] = -1.0
    assert agree() == 1
    module.a.scale = [0.7]
    assert agree() == 2
    module.a.scale = [0.9]
    assert agree() == 2
    module.a.scale = [[0.5]]  # of lists: baked in
    module.forward = lambda x: x * module.a.scale[0][0]
    assert agree() == 3
    module.a.scale = [[0.25]]
    assert agree() == 4


def test_writing_to_a_list_is_refused(clean):
    module = Branches().eval()

    def forward(x):
        module.a.scale[0] = module.a.scale[1] * 2
        return x

    settings = Settings([(vars(module.a), "scale"), (vars(module.b), "scale")])
    structure, tensors = Arguments(forward).split((torch.ones(2),), {})
    with pytest.raises(Refused, match="writes to its own settings"):
        capture("branches", module, forward, structure, tensors, settings)
    assert module.a.scale is module.b.scale and module.a.scale == [0.5, 2.0]


def test_other_threads_see_the_numbers(clean):
    """… of a module that is being traced."""
    import threading

    seen = []
    settings = _settings(torch.mul)

    def read():
        scale = settings.module.scaling["a"]
        seen.append((torch.ones(1) * scale, 2 * scale, scale == 0.5, bool(scale)))

    with settings.traced(torch.tensor([0.25, 8.0])):
        thread = threading.Thread(target=read)
        thread.start(), thread.join()
        assert (settings.module.scaling["a"] * 1.0).now() == 0.25
    assert seen == [(torch.tensor([0.5]), 1.0, True, True)]
