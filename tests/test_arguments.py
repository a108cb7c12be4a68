"""Every call argument of the three pipelines, against torch. A dropped argument shows as a difference."""

import models
import parity
import pytest
import torch


def seeds(*numbers):
    return [torch.Generator().manual_seed(n) for n in numbers]


def embeds(n=1, seed=5):
    return torch.randn(n, 77, 16, generator=torch.Generator().manual_seed(seed))


def shift_latents(pipe, step, timestep, tensors):
    assert set(tensors) == {"latents", "prompt_embeds"}
    return {"latents": tensors["latents"] * 0.98, "prompt_embeds": tensors["prompt_embeds"] * 1.01}


SHARED = {
    "guidance off": dict(guidance_scale=1.0),
    "prompts": dict(prompt=["a cat", "a dog"], negative_prompt=["blurry", "dark"], generator=seeds(1, 2)),
    "images per prompt": dict(num_images_per_prompt=2),
    "embeds": dict(prompt=None, negative_prompt=None, prompt_embeds=embeds(), negative_prompt_embeds=embeds(seed=6)),
    "eta": dict(eta=0.7),
    "generators": dict(num_images_per_prompt=2, generator=seeds(3, 4)),
    "pil": dict(output_type="pil"),
    "pt": dict(output_type="pt"),
    "latent": dict(output_type="latent"),
    "tuple": dict(return_dict=False),
    "guess mode": dict(guess_mode=True, guidance_scale=3.0),
    "scale": dict(controlnet_conditioning_scale=0.3),
    "window": dict(control_guidance_start=0.25, control_guidance_end=0.75),
    "clip skip": dict(clip_skip=1),
    "attention kwargs": dict(cross_attention_kwargs={"scale": 1.0}),
    "callback": dict(callback_on_step_end=shift_latents,
                     callback_on_step_end_tensor_inputs=["latents", "prompt_embeds"]),
}  # fmt: skip
OWN = {
    "txt2img": {
        "latents": dict(latents=torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(9))),
        "size": dict(height=80, width=48, image=models.picture(1, 80).resize((48, 80))),
        "tensor image": dict(image=torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))),
    },
    "img2img": {"strength": dict(strength=0.7, num_inference_steps=6)},
    "inpaint": {
        "strength": dict(strength=0.7, num_inference_steps=6),
        "crop": dict(padding_mask_crop=8, output_type="pil"),
    },
}
CASES = [(kind, name, case) for kind in models.KINDS for name, case in (SHARED | OWN[kind]).items()]


@pytest.mark.parametrize("kind, name, case", CASES, ids=[f"{k}-{n}" for k, n, _ in CASES])
def test_argument(make, kind, name, case, monkeypatch):
    def kwargs():
        fresh = {k: seeds(*(g.initial_seed() for g in v)) if k == "generator" else v for k, v in case.items()}
        return models.call_kwargs(kind, **fresh)

    pipe = make(kind)
    if name == "clip skip" and not hasattr(pipe.text_encoder, "text_model"):
        # diffusers 0.42 reads text_encoder.text_model, which transformers 5.23 no longer has: torch fails as well
        monkeypatch.setitem(vars(pipe.text_encoder), "text_model", pipe.text_encoder)
    parity.assert_same(pipe, kwargs)


def test_sigmas_and_timesteps(make):
    from diffusers import EulerDiscreteScheduler

    pipe = make(scheduler=EulerDiscreteScheduler.from_config(models.scheduler().config))
    parity.assert_same(pipe, lambda: models.call_kwargs(sigmas=[14.0, 6.0, 2.0, 1.0, 0.3], num_inference_steps=None))
    parity.assert_same(pipe, lambda: models.call_kwargs(timesteps=[900, 600, 300, 50], num_inference_steps=None))


def test_every_pipeline_argument_is_covered():
    """The table above names all parameters that the three ``__call__`` have, but for IP-Adapter's (issue 7)."""
    import inspect

    import diffusers

    covered = set(
        "prompt image num_inference_steps guidance_scale negative_prompt output_type generator height width "
        "control_image mask_image strength timesteps sigmas".split()
    )
    for table in (SHARED, *OWN.values()):
        covered |= {name for case in table.values() for name in case}
    later = {"self", "kwargs", "ip_adapter_image", "ip_adapter_image_embeds"}
    for cls in models.KINDS.values():
        parameters = inspect.signature(getattr(diffusers, cls).__call__).parameters
        assert not set(parameters) - covered - later


def schedulers():
    from diffusers.schedulers import KarrasDiffusionSchedulers

    return [s.name for s in KarrasDiffusionSchedulers]


@pytest.mark.parametrize("name", schedulers())
def test_scheduler(make, name):
    import diffusers

    import ms_controlnet_backend

    cls = getattr(diffusers, name)
    own = {"noise_sampler_seed": 0} if name == "DPMSolverSDEScheduler" else {}  # it ignores the pipeline's generator
    pipe = make(scheduler=cls.from_config(models.scheduler().config, **own))
    parity.assert_same(pipe, lambda: models.call_kwargs(num_inference_steps=5))
    before = ms_controlnet_backend.stats()["unet"].compiles
    parity.run(pipe, "mindspore", lambda: models.call_kwargs(num_inference_steps=7, guidance_scale=3.0))
    assert ms_controlnet_backend.stats()["unet"].compiles == before  # other timesteps and scales: nothing new


def test_autocast(clean):
    """What torch casts by itself is another graph; without it the first one answers again."""
    import models
    import parity

    pipe, reference = models.pipeline(), models.pipeline()
    clean.enable(pipe, strict=True)
    x, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 16)
    for enabled in (False, True, False, True):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            got, expected = pipe.unet(x, 5, text).sample, reference.unet(x, 5, text).sample
        assert got.dtype is expected.dtype is (torch.bfloat16 if enabled else torch.float32)
        assert parity.relative_error(got, expected) < (0.05 if enabled else parity.COMPONENT)
    assert clean.stats()["unet"].compiles == 2
