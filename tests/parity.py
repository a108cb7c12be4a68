"""Running one call on torch and on MindSpore, and what "the same" means."""

from __future__ import annotations

import numpy as np
import torch

from ms_controlnet_backend import passes, plugins, stats, using
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.signature import Arguments

LATENTS = 1e-3  # of max|latents|
PIXELS = 1 / 255  # on 99.9 % of pixels
COMPONENT = 1e-4  # relative


def run(pipe, backend, make_kwargs, **options):
    """(final latents or None, first field of the output as an array). make_kwargs: fresh arguments (generators!).
    options: MindSpore's."""
    kwargs = make_kwargs()
    seen = {}
    users = kwargs.get("callback_on_step_end")

    def keep(pipeline, step, timestep, tensors):
        tensors = users(pipeline, step, timestep, tensors) if users else tensors
        seen["latents"], seen["steps"] = tensors["latents"].clone().cpu(), step + 1
        return tensors

    kwargs["callback_on_step_end"] = keep
    options = {"strict": True} | options if backend == "mindspore" else {}
    with using(backend, **options):
        output = pipe(**kwargs)
    assert seen["steps"] >= 4
    images = output[0] if isinstance(output, tuple) else output.images
    return seen["latents"], as_array(images), output


def as_array(images) -> np.ndarray:
    if isinstance(images, torch.Tensor):
        return images.float().numpy()
    if isinstance(images, list):
        return np.stack([np.asarray(i, np.float32) / 255 for i in images])
    return images


def assert_same(pipe, make_kwargs, **options):
    """The call on both backends: latents and pictures agree, and every component really ran on MindSpore."""
    reference_latents, reference, reference_output = run(pipe, "torch", make_kwargs)
    before = stats()
    latents, images, output = run(pipe, "mindspore", make_kwargs, **options)
    after = stats()
    for label in ("unet", "controlnet.nets.0" if hasattr(pipe.controlnet, "nets") else "controlnet"):
        assert after[label].calls > (before[label].calls if label in before else 0), label
    assert type(output) is type(reference_output)
    assert_close(latents, reference_latents, images, reference)
    return reference, images


def assert_close(latents, reference_latents, images, reference):
    assert torch.isfinite(reference_latents).all() and reference_latents.abs().max() > 0.1
    assert (latents - reference_latents).abs().max() <= LATENTS * reference_latents.abs().max()
    assert images.shape == reference.shape and reference.std() > 0.01
    limit = PIXELS if reference.min() >= 0 else LATENTS * np.abs(reference).max()
    assert (np.abs(images - reference) <= limit + 1e-6).mean() >= 0.999


class Seen(list):
    """The pictures of a pipeline, after one change of it after the other."""

    def new(self, images):
        assert all(np.abs(images - old).max() > 2 / 255 for old in self), "the change changes nothing"
        self.append(images)


def differs(pipe, seen: Seen, make_kwargs, **overrides) -> np.ndarray:
    """The call agrees with torch's, and gives another picture than all before."""
    images, _ = assert_same(pipe, lambda: make_kwargs(**overrides))
    seen.new(images)
    return images


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


def optimised(module, *args):
    """The module's graph after the passes, and its targets."""
    structure, tensors = Arguments(module.forward, ()).split(args, {})
    captured = capture("module", module, module.forward, structure, tensors)
    passes.run(captured, plugins.registry().passes("CPU"))
    return captured, tensors, [n.target for n in captured.graph.nodes if n.op == "call_function"]


def computed(captured, tensors):
    """What torch makes of that graph."""
    values = {n: tensors[i] for n, i in captured.inputs.items()}
    values |= {n: w.tensor for n, w in captured.weights.items()}
    captured.graph_module.recompile()
    with torch.no_grad():
        return captured.graph_module(*(values[n] for n in captured.graph.nodes if n.op == "placeholder"))[0]
