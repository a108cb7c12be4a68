"""A stand-in for ``torch_npu``, for scripts that import it on a machine without it: ``torch.npu`` and its modules."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import types

import torch

from . import cuda_calls
from .replacements import Replacement


def installed() -> bool:
    """Is the real torch_npu there?"""
    return importlib.util.find_spec("torch_npu") is not None


def _module(name: str, **members) -> types.ModuleType:
    """A module with a spec: whoever looks for the distribution finds none, whoever imports it asks is_available."""
    module = types.ModuleType(name, __doc__)
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
    module.__path__ = []
    vars(module).update(members)
    return module


def _modules() -> dict[str, types.ModuleType]:
    truth = {name: (lambda answer: lambda *args, **kwargs: answer)(answer) for name, answer in cuda_calls.ASKED.items()}
    calls = {name: cuda_calls.maker(name)(truth.get(name)) for name in cuda_calls.CALLS}
    amp = _module("torch_npu.npu.amp", autocast=functools.partial(torch.autocast, "npu"),
                  GradScaler=functools.partial(torch.amp.GradScaler, "cpu", enabled=False))  # fmt: skip
    npu = _module("torch_npu.npu", amp=amp, config=types.SimpleNamespace(), set_compile_mode=cuda_calls.nothing,
                  set_option=cuda_calls.nothing, **calls)  # fmt: skip
    transfer = _module("torch_npu.contrib.transfer_to_npu")
    contrib = _module("torch_npu.contrib", transfer_to_npu=transfer)
    root = _module("torch_npu", npu=npu, contrib=contrib)
    return {m.__name__: m for m in (root, npu, amp, contrib, transfer)}


def table() -> tuple[Replacement, ...]:
    """The lines of a fresh set of modules; none where the real torch_npu is installed."""
    if installed():
        return ()
    modules = _modules()
    lines = [Replacement("sys.modules", n, lambda _, m=m: m, f"import {n}", added=True) for n, m in modules.items()]
    npu = modules["torch_npu.npu"]
    return (*lines, Replacement("torch", "npu", lambda _: npu, "torch.npu.*, as torch.cuda.*", added=True))
