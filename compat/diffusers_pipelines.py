"""What has to be known of diffusers' pipelines to notice every component that enters one."""

from __future__ import annotations

import gc

from . import versions


def pipeline_class() -> type:
    """``DiffusionPipeline``. Constructor, ``from_pretrained``, ``from_single_file``, ``from_pipe``, ``register_modules``
    and plain assignment all reach its ``__setattr__``."""
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
