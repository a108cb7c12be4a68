"""The three pipelines and their components against torch: same weights, same seed."""

import models
import numpy as np
import parity
import pytest
import torch

import ms_controlnet_backend
from ms_controlnet_backend.runtime import executable

KINDS = list(models.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline(make, kind):
    reference, _ = parity.assert_same(make(kind), lambda: models.call_kwargs(kind))
    assert reference.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_two_controlnets(make, kind):
    parity.assert_same(
        make(kind, nets=2),
        lambda: models.call_kwargs(kind, nets=2, controlnet_conditioning_scale=[0.8, 0.4],
                                   control_guidance_start=[0.0, 0.5], control_guidance_end=[0.5, 1.0]),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_safety_checker(make, kind):
    pipe = make(kind, checker=True)
    parity.assert_same(pipe, lambda: models.call_kwargs(kind))
    with ms_controlnet_backend.using("mindspore", strict=True):
        out = pipe(**models.call_kwargs(kind))
    assert out.nsfw_content_detected == [False]
    assert "safety_checker.vision_model" in ms_controlnet_backend.stats()


def test_the_control_picture_and_prompt_matter(make):
    """Otherwise parity would prove nothing about ControlNet or text."""
    pipe = make()
    with ms_controlnet_backend.using("mindspore", strict=True):
        base = pipe(**models.call_kwargs()).images
        other_control = pipe(**models.call_kwargs(image=models.picture(5))).images
        other_prompt = pipe(**models.call_kwargs(prompt="a dog")).images
    assert np.abs(base - other_control).max() > 5 / 255
    assert np.abs(base - other_prompt).max() > 5 / 255


LABELS = ("unet", "controlnet", "vae.decoder", "text_encoder")


@pytest.mark.parametrize("label", LABELS)
def test_two_percent_off_is_seen(make, monkeypatch, label):
    """Mutation check: the tolerances catch any component whose output is scaled by 1.02."""
    pipe = make()
    latents, images, _ = parity.run(pipe, "torch", models.call_kwargs)
    original = executable.Executable.__call__

    def scaled(self, tensors, count):
        out = original(self, tensors, count)
        if self.event.label != label:
            return out
        return torch.utils._pytree.tree_map(lambda t: t * 1.02 if isinstance(t, torch.Tensor) else t, out)

    monkeypatch.setattr(executable.Executable, "__call__", scaled)
    wrong_latents, wrong_images, _ = parity.run(pipe, "mindspore", models.call_kwargs)
    with pytest.raises(AssertionError):
        parity.assert_close(wrong_latents, latents, wrong_images, images)


def test_two_percent_off_is_seen_in_the_encoder(make, monkeypatch):
    pipe = make("img2img")
    kwargs = lambda: models.call_kwargs("img2img", strength=0.3, num_inference_steps=14)  # noqa: E731
    latents, images, _ = parity.run(pipe, "torch", kwargs)
    original = executable.Executable.__call__
    monkeypatch.setattr(
        executable.Executable,
        "__call__",
        lambda self, t, n: original(self, t, n) * 1.02 if self.event.label == "vae.encoder" else original(self, t, n),
    )
    wrong_latents, wrong_images, _ = parity.run(pipe, "mindspore", kwargs)
    with pytest.raises(AssertionError):
        parity.assert_close(wrong_latents, latents, wrong_images, images)


def component_calls(parts):
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(2, 4, 32, 32, generator=generator)
    text = torch.randn(2, 77, 16, generator=generator)
    control = torch.rand(2, 3, 64, 64, generator=generator)
    ids = torch.randint(0, 500, (2, 77), generator=generator)
    checker = parts["checker"].vision_model
    return {
        "unet": (parts["unet"], (latents, torch.tensor(501), text), {}),
        "controlnet": (parts["nets"][0], (latents, torch.tensor(501), text, control, 0.7), {}),
        "guess": (parts["nets"][0], (latents, 501, text, control), {"guess_mode": True, "return_dict": False}),
        "encoder": (parts["vae"].encoder, (control * 2 - 1,), {}),
        "decoder": (parts["vae"].decoder, (latents,), {}),
        "text": (parts["text_encoder"], (ids,), {"output_hidden_states": True}),
        "text mask": (parts["text_encoder"], (ids,), {"attention_mask": (ids > 40).long()}),
        "vision": (checker, (torch.randn(1, 3, 32, 32, generator=generator),), {}),
    }


@pytest.mark.parametrize("name", ["unet", "controlnet", "guess", "encoder", "decoder", "text", "text mask", "vision"])
def test_component(parts, make, name):
    """Each component alone, every tensor it returns: within 1e-4 relative, in upstream's own structure."""
    module, args, kwargs = component_calls(parts)[name]
    pipe = make(checker=True)  # noqa: F841 - components are bound through a pipeline
    with torch.no_grad():
        expected = module(*args, **kwargs)
        with ms_controlnet_backend.using("mindspore", strict=True):
            got = module(*args, **kwargs)
    assert type(got) is type(expected)
    got, expected = (torch.utils._pytree.tree_leaves(x) for x in (got, expected))
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert g.dtype == e.dtype and g.shape == e.shape
        assert e.abs().max() > 1e-3, "an output of zeros proves nothing"
        assert parity.relative_error(g, e) < parity.COMPONENT


def test_half_precision_scripts_keep_their_dtype(clean):
    """A float16 script: outputs stay float16, and equal torch's float32 ones within float16's precision."""
    unet = models.unet()
    latents, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 16)
    with torch.no_grad():
        expected = unet(latents, 10, text).sample
        pipe = models.pipeline(unet=unet.half())
        clean.enable(pipe, strict=True)
        got = unet(latents.half(), 10, text.half()).sample
    assert got.dtype is torch.float16
    assert parity.relative_error(got.float(), expected) < 5e-3
