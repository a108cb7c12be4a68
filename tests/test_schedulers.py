"""Every scheduler a ControlNet script may take with ``from_config``, against torch, on graphs compiled once."""

import diffusers
import models
import numpy as np
import parity
import pytest
import upstream
from diffusers.schedulers import KarrasDiffusionSchedulers

from ms_controlnet_backend import stats

NAMES = sorted(
    {s.name for s in KarrasDiffusionSchedulers} | {"LCMScheduler", "TCDScheduler", "UniPCMultistepScheduler"}
)
OPTIONS = {
    "DPMSolverSDEScheduler": [dict(noise_sampler_seed=0)],  # its noise is its own: else another one every run
    "DPMSolverMultistepScheduler": [
        {},
        dict(use_karras_sigmas=True),
        dict(algorithm_type="sde-dpmsolver++"),
        dict(prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=True),
    ],
    "EulerDiscreteScheduler": [{}, dict(use_karras_sigmas=True), dict(timestep_spacing="trailing")],
    "DDIMScheduler": [
        {},
        dict(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
    ],
}
CASES = [(name, options) for name in NAMES for options in OPTIONS.get(name, [{}])]


def known(name, options) -> bool:
    """To this release of diffusers."""
    return upstream.has(f"diffusers.{name}") and all(upstream.has(f"diffusers.{name}", option) for option in options)


CALL = dict(num_inference_steps=6, guidance_scale=3.0)
SHARED = ("unet", "controlnet", "vae.decoder", "text_encoder")


@pytest.fixture(scope="module")
def pipe():
    """Its components are compiled already."""
    pipe = models.pipeline()
    parity.run(pipe, "mindspore", lambda: models.call_kwargs(**CALL))
    return pipe


@pytest.mark.filterwarnings("ignore:Should have ta>=t0")  # torchsde, of its own rounding
@pytest.mark.parametrize("name, options", CASES, ids=[" ".join([n, *map(str, o)]) for n, o in CASES])
def test_scheduler(pipe, name, options):
    upstream.needs(known(name, options), "diffusers", " ".join([name, *options]))
    pipe.scheduler = getattr(diffusers, name).from_config(models.scheduler().config, **options)
    before = {label: stats()[label].compiles for label in SHARED}
    parity.assert_same(pipe, lambda: models.call_kwargs(**CALL))
    assert {label: stats()[label].compiles for label in SHARED} == before, "a scheduler is no reason to compile"


@pytest.mark.filterwarnings("ignore:Should have ta>=t0")
def test_the_scheduler_matters(pipe):
    """Otherwise the test above would prove nothing."""
    seen, cases = [], [case for case in CASES if known(*case)]
    for name, options in cases:
        pipe.scheduler = getattr(diffusers, name).from_config(models.scheduler().config, **options)
        picture = parity.run(pipe, "mindspore", lambda: models.call_kwargs(**CALL))[1]
        if all(np.abs(picture - other).max() > parity.PIXELS for other in seen):
            seen.append(picture)
    assert len(seen) >= len(cases) - 5, len(seen)  # some are the same solver in another form
