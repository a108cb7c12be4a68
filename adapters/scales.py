"""Where LoRA (peft) and IP-Adapter (diffusers) keep their scales, and what ``cross_attention_kwargs`` does to them."""

from __future__ import annotations

import contextlib

from ..compat import forward_scales
from .matching import named

_lora_layer = named("LoraLayer")
_IP_PROCESSORS = ("IPAdapterAttnProcessor", "IPAdapterAttnProcessor2_0")  # not their subclasses: who knows what they do


def scales(module):
    """The slots of all scales below a module: (container, key)."""
    for m in module.modules():
        if type(m).__name__ in _IP_PROCESSORS:
            yield vars(m), "scale"  # a number before diffusers 0.27, a list since; 0.27 gives all the same new list
        elif _lora_layer(m) and isinstance(m.scaling, dict):
            yield from ((m.scaling, name) for name in m.scaling)


@contextlib.contextmanager
def scaled_by_arguments(module, args, kwargs):
    """What ``forward`` does around its work when ``cross_attention_kwargs`` has a ``scale``, by upstream's functions:
    with a scale of 0 they leave the layers' scales at their initial values. Yields what remains."""
    attention = kwargs.get("cross_attention_kwargs")
    if not isinstance(attention, dict) or "scale" not in attention or not forward_scales.weighs_lora_layers(module):
        yield args, kwargs
        return
    from diffusers.utils import scale_lora_layers, unscale_lora_layers

    rest = {k: v for k, v in attention.items() if k != "scale"}
    scale = attention["scale"]
    scale_lora_layers(module, scale)
    try:
        yield args, {**kwargs, "cross_attention_kwargs": rest or None}
    finally:
        unscale_lora_layers(module, scale)


def is_silent(arguments) -> bool:
    """The last thing ``forward`` does is to scale every residual."""
    scale = arguments["conditioning_scale"]
    return scale.numel() == 1 and scale.item() == 0
