"""What is known of diffusers' components: one file a kind, each with an ``ADAPTER``."""

from __future__ import annotations

import importlib

from ..hookspecs import hookimpl

KINDS = ("unet", "controlnet", "t2i_adapter", "autoencoder", "text_encoder", "image_encoder", "safety_checker")


@hookimpl
def register_adapters():
    return [importlib.import_module(f"{__name__}.{kind}").ADAPTER for kind in KINDS]
