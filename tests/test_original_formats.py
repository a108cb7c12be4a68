"""Files in the formats that models are trained and traded in: what upstream's loaders make of them runs as on torch."""

import diffusers
import kohya
import models
import models_xl
import original_format
import parity
import pytest
import torch
from safetensors.torch import save_file


def assert_same_weights(pipe, source, *names):
    for name in names:
        ours, theirs = getattr(pipe, name).state_dict(), getattr(source, name).state_dict()
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_single_files(clean, tmp_path):
    """The ControlNet's file, and UNet and VAE in one."""
    source = models.pipeline()
    source.save_pretrained(tmp_path / "diffusers")
    save_file(original_format.denoiser(source.controlnet, "control_model."), tmp_path / "control.safetensors")
    both = original_format.denoiser(source.unet, "model.diffusion_model.") | original_format.vae(source.vae)
    save_file({k: t.contiguous() for k, t in both.items()}, tmp_path / "sd.safetensors")
    clean.enable(strict=True)
    net = diffusers.ControlNetModel.from_single_file(
        str(tmp_path / "control.safetensors"), config=str(tmp_path / "diffusers" / "controlnet")
    )
    pipe = diffusers.StableDiffusionControlNetPipeline.from_single_file(
        str(tmp_path / "sd.safetensors"), controlnet=net, config=str(tmp_path / "diffusers"), local_files_only=True,
        text_encoder=source.text_encoder, tokenizer=source.tokenizer, scheduler=source.scheduler, safety_checker=None,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    assert_same_weights(pipe, source, "unet", "controlnet", "vae")
    parity.assert_same(pipe, models.call_kwargs)


def test_sdxl_single_file(clean, tmp_path):
    """UNet, VAE and both text encoders in one file. Upstream tells the encoders apart by their widths."""
    width = dict(cross_attention_dim=16 + 24)
    source = models_xl.pipeline(
        unet=models_xl.unet(**width), controlnet=models_xl.controlnet(**width),
        text_encoder_2=models_xl.text_encoder_2(hidden_size=24),
    )  # fmt: skip
    source.save_pretrained(tmp_path / "diffusers")
    parts = (source.unet, source.vae, source.text_encoder, source.text_encoder_2)
    save_file(original_format.xl(*parts), tmp_path / "xl.safetensors")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):  # configurations only: all weights are in the file
        for weights in (tmp_path / "diffusers" / part).glob("*.safetensors"):
            weights.unlink()
    clean.enable(strict=True)
    pipe = diffusers.StableDiffusionXLControlNetPipeline.from_single_file(
        str(tmp_path / "xl.safetensors"), controlnet=source.controlnet, config=str(tmp_path / "diffusers"),
        local_files_only=True, add_watermarker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    assert_same_weights(pipe, source, "unet", "vae", "text_encoder", "text_encoder_2")
    parity.assert_same(pipe, models_xl.call_kwargs)


def sd_lora(pipe):
    return {
        "unet": kohya.lora(pipe.unet, "lora_unet_", 1),
        "text_encoder": kohya.lora(pipe.text_encoder, "lora_te_text_model_", 2, kohya.TEXT_LAYERS),
    }


def xl_lora(pipe):
    """SDXL's have the names of the original UNet."""
    original = lambda path: original_format.denoiser_path(path, pipe.unet)  # noqa: E731
    return {
        "unet": kohya.lora(pipe.unet, "lora_unet_", 3, name=original),
        "text_encoder": kohya.lora(pipe.text_encoder, "lora_te1_text_model_", 4, kohya.TEXT_LAYERS),
        "text_encoder_2": kohya.lora(pipe.text_encoder_2.text_model, "lora_te2_text_model_", 5, kohya.TEXT_LAYERS),
    }


@pytest.mark.parametrize("family, make", [(models, sd_lora), (models_xl, xl_lora)], ids=["sd", "sdxl"])
def test_kohya_lora(clean, tmp_path, family, make):
    """Every part of the file changes the picture, by its own scale."""
    pipe = family.pipeline()
    clean.enable(pipe, strict=True)
    seen = parity.Seen()
    parity.differs(pipe, seen, family.call_kwargs)
    parts = make(pipe)
    save_file({k: t for tensors in parts.values() for k, t in tensors.items()}, tmp_path / "style.safetensors")
    pipe.load_lora_weights(tmp_path, weight_name="style.safetensors", adapter_name="style")
    assert set(pipe.get_list_adapters()) == set(parts)
    for name, tensors in parts.items():  # no layer is left out
        scales = [m.scaling["style"] for m in getattr(pipe, name).modules() if hasattr(m, "scaling")]
        assert scales == [0.5] * (len(tensors) // 3)  # alpha / rank
    for scales in (1.0, *({other: float(other == name) for other in parts} for name in parts)):
        pipe.set_adapters("style", scales)
        parity.differs(pipe, seen, family.call_kwargs)
