"""What SDXL's loaders do differently: LoRA and textual inversion for two text encoders, IP-Adapter beside the added
conditions. After each step the pipeline computes what it computes on torch."""

import diffusers
import models
import models_xl
import numpy as np
import parity
import pytest
import torch
from test_ip_adapter import image_encoder
from test_ip_adapter import load as load_ip_adapter
from test_loaders import TEXT, peft

ENCODERS = ("text_encoder", "text_encoder_2")


@pytest.fixture
def pipe(clean):
    pipe = models_xl.pipeline(image_encoder=image_encoder())
    clean.enable(pipe, strict=True)
    return pipe


def compiles(clean):
    return [clean.stats()[label].compiles for label in ("unet", *ENCODERS)]


def test_lora_of_two_text_encoders(pipe, clean, tmp_path):
    makers = {"unet": models_xl.unet, "text_encoder": models.text_encoder, "text_encoder_2": models_xl.text_encoder_2}
    layers = {}
    for seed, (name, make) in enumerate(makers.items()):
        weights, config = peft(make(), seed, *([TEXT] if name in ENCODERS else []))
        layers |= {f"{name}_lora_layers": weights, f"{name}_lora_adapter_metadata": config.to_dict()}
    diffusers.StableDiffusionXLControlNetPipeline.save_lora_weights(tmp_path, **layers)
    seen = parity.Seen()
    plain = parity.differs(pipe, seen, models_xl.call_kwargs)
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    assert set(pipe.get_list_adapters()) == set(makers)
    parity.differs(pipe, seen, models_xl.call_kwargs)
    before = compiles(clean)
    for weights in ({"unet": 0.5}, {"text_encoder_2": 3.0}, {"unet": 0.3, "text_encoder": 2.0, "text_encoder_2": 0.0}):
        pipe.set_adapters("style", weights)
        parity.differs(pipe, seen, models_xl.call_kwargs)
    assert compiles(clean) == before
    weighted = seen[-1]
    pipe.fuse_lora(components=[*makers])
    assert np.abs(parity.assert_same(pipe, models_xl.call_kwargs)[1] - weighted).max() < parity.PIXELS
    pipe.unfuse_lora(components=[*makers])
    pipe.unload_lora_weights()
    assert np.abs(parity.assert_same(pipe, models_xl.call_kwargs)[1] - plain).max() < parity.PIXELS


def test_ip_adapter(pipe, clean):
    seen = parity.Seen()
    plain = parity.differs(pipe, seen, models_xl.call_kwargs)
    load_ip_adapter(pipe, 60)
    with_image = dict(ip_adapter_image=models.picture(3))
    parity.differs(pipe, seen, models_xl.call_kwargs, **with_image)
    before = compiles(clean)
    for scale in (0.3, {"down": {"block_1": [0.0]}, "up": {"block_0": [1.5, 0.2]}}):
        pipe.set_ip_adapter_scale(scale)
        parity.differs(pipe, seen, models_xl.call_kwargs, **with_image)
    assert compiles(clean) == before
    pipe.unload_ip_adapter()
    assert np.abs(parity.assert_same(pipe, models_xl.call_kwargs)[0] - plain).max() == 0


def test_textual_inversion_of_two_text_encoders(pipe, tmp_path):
    pipe.tokenizer.save_pretrained(tmp_path)  # the tests share theirs
    pipe.tokenizer, pipe.tokenizer_2 = (type(pipe.tokenizer).from_pretrained(tmp_path) for _ in range(2))
    seen = parity.Seen()
    prompt = dict(prompt="a <toy> house", prompt_2="oil on <toy>")
    parity.differs(pipe, seen, models_xl.call_kwargs, **prompt)
    generator = torch.Generator().manual_seed(1)
    for number in ("", "_2"):
        pipe.load_textual_inversion(
            torch.randn(2, 16, generator=generator), token="<toy>", text_encoder=getattr(pipe, f"text_encoder{number}"),
            tokenizer=getattr(pipe, f"tokenizer{number}"),
        )  # fmt: skip
        parity.differs(pipe, seen, models_xl.call_kwargs, **prompt)
