"""What ``speed.py`` measures, and the process that computes it: ``python cases.py BACKEND DTYPE CASE``.

Standard input: ``run``, ``save FILE`` (the outputs of the last run, .npz), ``end``; each is answered by a line of JSON.
"""

import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

TESTS = Path(__file__).parent.parent


@dataclass(frozen=True)
class Case:
    """parts: names of the pipeline's components that are built. call: (pipeline, dtype) → a function that computes and
    returns tensors. exact: is it to be held against float64?"""

    parts: tuple[str, ...]
    call: Callable
    exact: bool = True


def step(size: int):
    """ControlNet and UNet as a pipeline calls them in one step: batch 2 for classifier-free guidance."""

    def make(pipe, dtype):
        import test_full_size as full

        latents, text, picture = (
            full.random(*shape, seed=i).to(dtype)
            for i, shape in enumerate([(2, 4, size // 8, size // 8), (2, 77, 768), (2, 3, size, size)])
        )

        def call():
            down, mid = pipe.controlnet(latents, 500, text, picture, 0.8, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            return [pipe.unet(latents, 500, text, return_dict=False, **residuals)[0], mid, *down]

        return call

    return Case(("unet", "controlnet"), make)


def vae(size: int):
    def make(pipe, dtype):
        import test_full_size as full

        latents = full.random(1, 4, size // 8, size // 8).to(dtype)
        return lambda: [pipe.vae.decode(latents, return_dict=False)[0]]

    return Case(("vae",), make)


def text_encoder():
    def make(pipe, dtype):
        import torch

        ids = torch.randint(0, 49000, (1, 77), generator=torch.Generator().manual_seed(3))
        return lambda: [pipe.text_encoder(ids)[0]]

    return Case(("text_encoder",), make)


def txt2img(size: int, steps: int):
    def make(pipe, dtype):
        import models
        import torch

        kwargs = dict(image=models.picture(1, size), height=size, width=size, num_inference_steps=steps)
        pipe.set_progress_bar_config(disable=True)
        return lambda: [
            torch.from_numpy(
                pipe("a house", generator=torch.Generator().manual_seed(0), output_type="np", **kwargs).images
            )
        ]

    return Case(("unet", "controlnet", "vae", "text_encoder"), make, exact=False)


CASES = {
    "text_encoder": text_encoder(),
    "step_256": step(256),
    "step_512": step(512),
    "vae_512": vae(512),
    "txt2img_512": txt2img(512, 4),
}


def pipeline(parts: tuple[str, ...], dtype):
    """A ControlNet pipeline with these components at full size, the others of the tests' tiny kind."""
    import models
    import test_full_size as full
    import torch

    torch.manual_seed(0)
    built = {name: getattr(full, f"sd15_{name}")().to(dtype) for name in parts}
    return models.pipeline(**built)


def serve(backend: str, dtype: str, name: str) -> None:
    sys.path.insert(0, str(TESTS))
    import numpy as np
    import torch

    import ms_controlnet_backend

    case = CASES[name]
    dtype = getattr(torch, dtype)
    pipe = pipeline(case.parts, dtype)
    if backend == "torch.compile":
        for part in case.parts:
            module = getattr(pipe, part)
            (module.decoder if part == "vae" else module).compile()
    elif backend != "torch":
        ms_controlnet_backend.enable(pipe, backend=backend, strict=True)
    call = case.call(pipe, dtype)
    gc.collect()
    versions = {p: metadata.version(p) for p in ("torch", "diffusers", "transformers", "mindspore")}
    answer({"versions": versions, "threads": torch.get_num_threads()})
    outputs = []
    for line in sys.stdin:
        what, _, path = line.strip().partition(" ")
        if what == "run":
            started = time.perf_counter()
            with torch.no_grad():
                outputs = call()
            answer({"seconds": time.perf_counter() - started})
        elif what == "save":
            np.savez(path, *(t.to(torch.promote_types(t.dtype, torch.float32)).numpy() for t in outputs))
            answer({"saved": path})
        else:
            answer({"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20})
            return


def answer(what: dict) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
