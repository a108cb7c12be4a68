"""Calls that ask a pipeline, a model or torch for what an accelerator would do: moving, offloading, compiling.

What means something here stays upstream's own (tiling, slicing, FreeU, fused projections). The rest is accepted, and
one line of log says so.
"""

from __future__ import annotations

import functools
import logging

import torch

from .device_arguments import argument, here, redirected
from .replacements import Replacement

logger = logging.getLogger(__name__)
_said: set[str] = set()


def accept(call: str, instead: str) -> None:
    """Log once, until :func:`forget`, that a call has no effect."""
    if call not in _said:
        _said.add(call)
        logger.info("%s: accepted, no effect here: %s", call, instead)


def forget() -> None:
    """Everything accepted is logged again."""
    _said.clear()


def _pipeline_to(function):
    """upstream warns that float16 pipelines do not run on a CPU; they do here."""
    redirect = argument("device", 1)(function)

    @functools.wraps(function)
    def to(self, *args, **kwargs):
        if redirected(kwargs.get("device")) or (args and redirected(args[0])):
            kwargs.setdefault("silence_dtype_warnings", True)
        return redirect(self, *args, **kwargs)

    return to


def _device_map(method: classmethod):
    """``device_map="cuda"``, ``{"": 0}``. Strategies (``"balanced"``, ``"auto"``) are upstream's own, but see no
    accelerators: what does not fit into them would be offloaded to where it lies already."""

    @functools.wraps(method.__func__)
    def from_pretrained(cls, *args, **kwargs):
        where = kwargs.get("device_map")
        if isinstance(where, dict):
            kwargs["device_map"] = {part: here(device) for part, device in where.items()}
        elif where is not None:
            kwargs["device_map"] = here(where)
        if any(redirected(device) for device in kwargs.get("max_memory") or ()):
            del kwargs["max_memory"]
            accept("from_pretrained(max_memory=…)", "the weights lie in the host's memory")
        return method.__func__(cls, *args, **kwargs)

    return classmethod(from_pretrained)


def _offload(function):
    """``enable_model_cpu_offload``, ``enable_sequential_cpu_offload``: only to a device that is not redirected."""

    @functools.wraps(function)
    def enable(self, gpu_id=None, device=None):
        if device is None or redirected(device):
            accept(f"{function.__name__}()", "the weights lie in the host's memory, and no second copy is made")
            return None
        return function(self, gpu_id=gpu_id, device=device)

    return enable


def _group_offload(function):
    """``torch.device("cuda")`` is the CPU by the time it comes here, to which upstream does not offload by streams."""

    @functools.wraps(function)
    def group_offload(module, onload_device, *args, **kwargs):
        if redirected(onload_device) or torch.device(onload_device).type == "cpu":
            accept(f"{function.__name__}()", "the weights lie in the host's memory, and no second copy is made")
            return None
        return function(module, onload_device, *args, **kwargs)

    return group_offload


def _xformers(function):
    """``enable_xformers_memory_efficient_attention`` ends here. Switching it off is upstream's own."""

    @functools.wraps(function)
    def set_use_memory_efficient_attention_xformers(self, valid, attention_op=None):
        if valid:
            accept("enable_xformers_memory_efficient_attention()", "attention never holds the whole score matrix")
            return None
        return function(self, valid, attention_op)

    return set_use_memory_efficient_attention_xformers


def _attention_slice(function):
    """Slices replace the attention processors, and so does None: only without writing each slice into the graph."""

    @functools.wraps(function)
    def set_attention_slice(self, slice_size):
        if slice_size is not None:
            accept("enable_attention_slicing()", "attention never holds the whole score matrix")
        return function(self, None)

    return set_attention_slice


def _attention_backend(function):
    """A backend that is known, but needs a package or a device that is not there (upstream: RuntimeError)."""

    @functools.wraps(function)
    def set_attention_backend(self, backend):
        try:
            return function(self, backend)
        except (RuntimeError, ImportError) as error:
            accept(f"set_attention_backend({backend!r})", str(error))

    return set_attention_backend


def _compile(function):
    """torch.compile's own switch: with ``disable`` it hands back what it was given."""

    @functools.wraps(function)
    def compile(*args, **kwargs):
        accept("torch.compile()", "pipelines' components are compiled by MindSpore")
        return function(*args, **kwargs | {"disable": True})

    return compile


def _module_compile(function):
    @functools.wraps(function)
    def compile(self, *args, **kwargs):
        accept("Module.compile()", "pipelines' components are compiled by MindSpore")

    return compile


def _of_the_vae(name: str):
    """A call that upstream moved from the pipeline to its VAE; older scripts make it."""

    def make(_):
        def method(self):
            getattr(self.vae, name)()

        return method

    return make


_PIPELINE, _MODEL = "diffusers.DiffusionPipeline", "diffusers.ModelMixin"

TABLE = (
    Replacement(_PIPELINE, "to", _pipeline_to, "components stay; their dtype may change"),
    *(Replacement(o, "from_pretrained", _device_map, "loaded to the CPU")
      for o in (_PIPELINE, _MODEL, "transformers.PreTrainedModel")),
    Replacement(_PIPELINE, "enable_model_cpu_offload", _offload, "accepted"),
    Replacement(_PIPELINE, "enable_sequential_cpu_offload", _offload, "accepted"),
    *(Replacement(o, "enable_group_offload", _group_offload, "accepted") for o in (_PIPELINE, _MODEL)),
    Replacement("diffusers.hooks", "apply_group_offloading", _group_offload, "accepted"),
    *(Replacement(o, "set_use_memory_efficient_attention_xformers", _xformers, "accepted")
      for o in (_PIPELINE, _MODEL)),
    Replacement(_PIPELINE, "set_attention_slice", _attention_slice, "accepted: upstream's fused processors"),
    Replacement(_MODEL, "set_attention_backend", _attention_backend, "accepted where its package is missing"),
    *(Replacement(_PIPELINE, f"{verb}_vae_{what}", _of_the_vae(f"{verb}_{what}"), "done by the VAE", added=True)
      for verb in ("enable", "disable") for what in ("slicing", "tiling")),
    Replacement("torch.nn.Module", "compile", _module_compile, "accepted"),
    Replacement("torch", "compile", _compile, "accepted; hands back the module"),
)  # fmt: skip
