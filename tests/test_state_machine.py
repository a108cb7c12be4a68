"""Random sequences of changes to a UNet that MindSpore runs and to its twin on torch: after each, the same output.

The same sequences every time. ``STEPS=40 EXAMPLES=50 pytest tests/test_state_machine.py`` looks for longer ones, new
ones every time.
"""

import copy
import os

import models
import parity
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

import ms_controlnet_backend

TEXT = torch.randn(1, 77, 16, generator=torch.Generator().manual_seed(2))
LATENTS = {n: torch.randn(1, 4, n, n, generator=torch.Generator().manual_seed(n)) for n in (8, 16)}
FACTORS = st.sampled_from([0.8, 1.25, -1.0])
SCALES = st.sampled_from([0.0, 0.3, 1.0, 1.5])
INDEX = st.integers(0, 1000)


def small_unet():
    return models.unet(block_out_channels=(8,), down_block_types=("CrossAttnDownBlock2D",),
                       up_block_types=("CrossAttnUpBlock2D",), sample_size=8)  # fmt: skip


def parameter(unet, index):
    parameters = list(unet.parameters())
    return parameters[index % len(parameters)]


def adapters(unet):
    return list(getattr(unet, "peft_config", {}))


def has_lora(machine):
    return bool(adapters(machine.ours))


class Changes(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        ms_controlnet_backend.disable()
        self.ours = small_unet()
        self.reference = copy.deepcopy(self.ours)
        self.size, self.kwargs = 8, {}
        self.pipe = models.pipeline(unet=self.ours)
        ms_controlnet_backend.enable(self.pipe, strict=True)
        self.compare()

    def teardown(self):
        ms_controlnet_backend.disable()

    def both(self, change):
        """Make the change to both, or neither can be made to upstream's modules; then compare."""
        assert attempt(change, self.ours) == attempt(change, self.reference)
        self.compare()

    def compare(self):
        with torch.no_grad():  # the same text again and again, so that what depends on it is computed once
            got, expected = (
                unet(LATENTS[self.size], 7, TEXT, **self.kwargs).sample for unet in (self.ours, self.reference)
            )
        assert torch.isfinite(expected).all()
        assert parity.relative_error(got, expected) < 5 * parity.COMPONENT

    @rule(index=INDEX, factor=FACTORS)
    def in_place(self, index, factor):
        def change(unet):
            with torch.no_grad():
                parameter(unet, index).mul_(factor)

        self.both(change)

    @rule(index=INDEX, factor=FACTORS)
    def by_data(self, index, factor):
        self.both(lambda unet: parameter(unet, index).data.mul_(factor))

    @rule(assign=st.booleans())
    def load_state_dict(self, assign):
        self.both(lambda u: u.load_state_dict({k: v * 1.05 for k, v in u.state_dict().items()}, assign=assign))

    @rule(name=st.sampled_from(["first", "second"]), keys=st.booleans())
    def add_lora(self, name, keys):
        from peft import LoraConfig

        def change(unet):
            torch.manual_seed(len(name))
            targets = ["to_q", "to_k", "to_v"] if keys else ["to_out.0", "conv1"]
            unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), adapter_name=name)

        self.both(change)

    @precondition(has_lora)
    @rule(a=SCALES, b=SCALES)
    def scale_loras(self, a, b):
        self.both(lambda unet: unet.set_adapters(adapters(unet), [a, b][: len(adapters(unet))]))

    @precondition(has_lora)
    @rule(scale=SCALES)
    def scale_in_the_call(self, scale):
        self.kwargs = {"cross_attention_kwargs": {"scale": scale}}
        self.compare()

    @precondition(has_lora)
    @rule()
    def disable_loras(self):
        self.both(lambda unet: unet.disable_adapters())

    @precondition(has_lora)
    @rule()
    def enable_loras(self):
        self.both(lambda unet: unet.enable_adapters())

    @precondition(has_lora)
    @rule(scale=SCALES)
    def fuse(self, scale):
        self.both(lambda unet: unet.fuse_lora(lora_scale=scale or 1.0))

    @precondition(has_lora)
    @rule()
    def unfuse(self):
        self.both(lambda unet: unet.unfuse_lora())

    @precondition(has_lora)
    @rule()
    def unload(self):
        self.both(lambda unet: unet.unload_lora())

    @rule(factor=FACTORS)
    def attention_processor(self, factor):
        from diffusers.models.attention_processor import AttnProcessor2_0

        class Louder(AttnProcessor2_0):
            def __call__(self, *args, **kwargs):
                return super().__call__(*args, **kwargs) * factor

        self.both(lambda unet: unet.set_attn_processor(Louder()))

    @rule()
    def fuse_qkv(self):
        self.both(lambda unet: unet.fuse_qkv_projections())

    @rule(on=st.booleans())
    def freeu(self, on):
        self.both(lambda unet: unet.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4) if on else unet.disable_freeu())

    @rule(seed=st.integers(0, 3))
    def replace_a_module(self, seed):
        def change(unet):
            torch.manual_seed(seed)
            unet.conv_out = torch.nn.Conv2d(8, 4, 3, padding=1)

        self.both(change)

    @rule()
    def resize(self):
        self.size = 24 - self.size
        self.compare()


def attempt(change, unet):
    """None, or the kind of error upstream raises for it."""
    try:
        change(unet)
    except Exception as error:  # noqa: BLE001 - many changes exclude each other, in upstream's way
        return type(error)


def test_random_changes():
    longer = "STEPS" in os.environ or "EXAMPLES" in os.environ
    run_state_machine_as_test(
        Changes,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", 4)),
            stateful_step_count=int(os.environ.get("STEPS", 8)),
            derandomize=not longer,
            database=None,
            deadline=None,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
