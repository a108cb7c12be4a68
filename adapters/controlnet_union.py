"""What is particular to a ControlNet of many control types (diffusers/models/controlnets/controlnet_union.py)."""

from __future__ import annotations

import contextlib
import inspect

from ..compat import forward_scales
from .scales import is_silent, scaled_by_arguments


@contextlib.contextmanager
def one_scale_a_picture(module, args, kwargs):
    """``forward`` begins by making a list of a single scale; done here, so that the numbers can be inputs."""
    forward = type(module).forward
    arguments = inspect.signature(forward).bind(module, *args, **kwargs).arguments
    arguments.pop("self")
    scale = arguments.get("conditioning_scale", 1.0)
    if isinstance(scale, float) and forward_scales.scales_pictures(forward):
        arguments["conditioning_scale"] = [scale] * len(arguments["controlnet_cond"])
    with scaled_by_arguments(module, (), arguments) as remaining:
        yield remaining


def union_is_silent(arguments) -> bool:
    """Of several control types at once the scales weigh the pictures; only that of one scales the residuals. A single
    number scales them always."""
    scales = arguments["conditioning_scale"]
    if not isinstance(scales, list):
        return is_silent(arguments)
    alone = arguments["from_multi"] or len(arguments["control_type_idx"]) == 1
    return alone and scales[0].item() == 0
