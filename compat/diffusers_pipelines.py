"""What has to be known of diffusers' pipelines to notice every component that enters one."""

from __future__ import annotations

import gc

from . import versions


def pipeline_class() -> type:
    """``DiffusionPipeline``. Constructor, ``from_pretrained``, ``from_single_file``, ``from_pipe``, assignment and
    ``register_modules`` all reach its ``__setattr__``."""
    versions.require("diffusers", "transformers")
    from diffusers import DiffusionPipeline

    return DiffusionPipeline


def pipelines() -> list:
    """Every pipeline alive."""
    cls = pipeline_class()
    return [o for o in gc.get_objects() if issubclass(type(o), cls)]


def components(pipeline) -> dict:
    """name → module of a pipeline's components."""
    import torch

    return {name: c for name, c in vars(pipeline).items() if isinstance(c, torch.nn.Module)}


def is_pipeline(o) -> bool:
    return issubclass(type(o), pipeline_class())


def load(folder: str, controlnet: str | None = None, dtype: str = "float32"):
    """The pipeline saved in a folder, on the CPU; controlnet: folder of a ControlNet to give to one that has none.
    dtype: torch's name of what its weights are loaded as."""
    pipeline_class()
    import torch
    from diffusers import AutoPipelineForText2Image, ControlNetModel, DiffusionPipeline
    from diffusers.utils import deprecation_utils

    # diffusers before 0.41 ignores ``dtype``, later ones warn of ``torch_dtype``
    name = "dtype" if hasattr(deprecation_utils, "_resolve_dtype") else "torch_dtype"
    loaded = {name: getattr(torch, dtype)}
    pipe = DiffusionPipeline.from_pretrained(folder, **loaded)
    if controlnet is not None:
        net = ControlNetModel.from_pretrained(controlnet, **loaded)
        pipe = AutoPipelineForText2Image.from_pipe(pipe, controlnet=net).to(loaded[name])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def watching_hooks(module) -> list[str]:
    """Submodules with hooks that must see every call."""
    return [n for n, m in module.named_modules() if n and has_hooks(m)]


def has_hooks(m) -> bool:
    """Has a module hooks that must see every call: torch's forward hooks (feature extractors, offloading), or
    diffusers' own, which replace the module's forward (layerwise casting, group offloading, caches that leave out work
    by a counter of their own)? transformers' output recorders, which stay installed once used, are no such hooks: they
    are silent unless asked for outputs."""

    def foreign(hooks) -> bool:
        return any(not getattr(h, "__module__", "").startswith("transformers.") for h in hooks.values())

    registry = getattr(m, "_diffusers_hook", None)
    return foreign(m._forward_hooks) or foreign(m._forward_pre_hooks) or bool(registry and registry.hooks)
