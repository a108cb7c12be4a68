"""Plain torch on a machine without CUDA, made to run scripts that ask for it: "cuda" means CPU.

The reference side of the script tests. It is the tests' own, so that it cannot share a mistake with the package.
"""

from __future__ import annotations

import contextlib
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode


def _here(value):
    """The CPU for CUDA devices, whatever they are written as; everything else as it is."""
    if isinstance(value, torch.device):
        return torch.device("cpu") if value.type == "cuda" else value
    return "cpu" if isinstance(value, str) and value.split(":")[0] == "cuda" else value


class _OnCPU(TorchFunctionMode):
    """Tensor methods and factory functions; ``Module.to`` comes down to them as well."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.cuda:
            return args[0]
        return function(*map(_here, args), **{k: _here(v) for k, v in (kwargs or {}).items()})


class _Generator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls, device=_here(device))


def _nothing(*args, **kwargs):
    """Offloading moves weights and xformers computes the same in another order: neither changes a picture."""


def _without_device_map(owner):
    """Weights are loaded to the CPU anyway."""
    method = owner.from_pretrained.__func__

    def from_pretrained(cls, *args, device_map=None, **kwargs):
        return method(cls, *args, **kwargs)

    return classmethod(from_pretrained)


@contextlib.contextmanager
def cuda_means_cpu():
    """Inside the block; of torch and diffusers, everything is put back at its end."""
    import diffusers
    from diffusers.models.modeling_utils import ModelMixin

    with contextlib.ExitStack() as stack:
        for owner, name, replacement in (
            (torch, "Generator", _Generator),
            (torch, "compile", lambda model, **options: model),
            (torch.cuda, "synchronize", _nothing),
            (torch.cuda, "get_device_name", lambda device=None: "CPU"),
            (diffusers.DiffusionPipeline, "enable_model_cpu_offload", _nothing),
            (diffusers.DiffusionPipeline, "enable_sequential_cpu_offload", _nothing),
            (diffusers.DiffusionPipeline, "enable_xformers_memory_efficient_attention", _nothing),
            (ModelMixin, "enable_xformers_memory_efficient_attention", _nothing),
            (ModelMixin, "enable_group_offload", _nothing),
            (getattr(diffusers, "hooks", None), "apply_group_offloading", _nothing),
            (diffusers.DiffusionPipeline, "from_pretrained", _without_device_map(diffusers.DiffusionPipeline)),
            (ModelMixin, "from_pretrained", _without_device_map(ModelMixin)),
        ):
            if hasattr(owner, name):  # not every release has all
                stack.enter_context(mock.patch.object(owner, name, replacement))
        stack.enter_context(_OnCPU())
        yield
