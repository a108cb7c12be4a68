"""What the installed release of diffusers does with the scales that are arguments of a forward."""

from __future__ import annotations

import functools
import inspect


def weighs_lora_layers(module) -> bool:
    """Does this forward weigh the LoRA layers below by ``cross_attention_kwargs["scale"]``, and is the number used for
    nothing else? UNets do, by ``scale_lora_layers``, and newer ControlNets (0.38, not 0.35). A class of the user's own
    may not, and without peft (diffusers 0.25) each layer weighs itself."""
    from diffusers.utils import USE_PEFT_BACKEND

    if not USE_PEFT_BACKEND or not _calls(type(module).forward, "scale_lora_layers"):
        return False
    return not _hands_on() or all(map(_ignores, getattr(module, "attn_processors", {}).values()))


def _calls(forward, name: str) -> bool:
    while forward is not None:
        if name in getattr(getattr(forward, "__code__", None), "co_names", ()):
            return True
        forward = getattr(forward, "__wrapped__", None)
    return False


@functools.cache
def _hands_on() -> bool:
    """diffusers 0.25 and 0.26: attention processors get the number too."""
    from diffusers.models.attention_processor import AttnProcessor

    return "scale" in inspect.signature(AttnProcessor.__call__).parameters


def _ignores(processor) -> bool:
    """diffusers' own do with peft, save those that hold LoRA layers."""
    cls = type(processor)
    return cls.__module__.startswith("diffusers.") and not cls.__name__.startswith("LoRA")


def scales_pictures(forward) -> bool:
    """Has a ControlNet of many control types one scale for each picture (diffusers 0.33 on), or one for all residuals
    (0.32)?"""
    return "from_multi" in inspect.signature(forward).parameters
