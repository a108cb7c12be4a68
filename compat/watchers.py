"""Who watches torch's modules and operators: torch's own switches (2.6 … 2.13), read before every call of a component.

A compiled graph calls neither, so whoever watches would see nothing, and whoever transforms what is computed
(functorch, a tracer) would transform nothing. What watches only what autograd records (backward hooks, saved-tensor
hooks, anomaly mode) is none of these: where gradients are wanted, torch computes anyway, and elsewhere it sees nothing
on torch either.
"""

from __future__ import annotations

import contextlib

import torch
import torch.fx
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling  # noqa: F401 - dynamo takes it for True where it traces
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

from . import torch_export

_Module = torch.nn.Module
_CALL, _CALL_IMPL = _Module.__call__, _Module._call_impl
_hooks = vars(torch.nn.modules.module)
_tracer = vars(torch.fx._symbolic_trace)
_dual = vars(forward_ad)
_INNOCENT = (DeviceContext, torch.overrides.BaseTorchFunctionMode)
"""Function modes that look at nothing: the default device, and the base class that hands everything on."""
_TRACING = ("torch._subclasses.", "torch._functorch.", "torch.fx.")
"""Where the tensor types live that only stand for tensors."""
_nothing = contextlib.nullcontext()


def _known(owner, name: str, otherwise):
    """A function of torch's that has no public name; ``otherwise`` where a later torch has none of this name."""
    return getattr(owner, name, lambda: otherwise)


_dispatch_modes = _known(torch._C, "_len_torch_dispatch_stack", 0)
_function_modes = _known(torch._C, "_len_torch_function_stack", 0)
_interpreter = _known(torch._C._functorch, "peek_interpreter_stack", None)
_jit_tracing = _known(torch._C, "_is_tracing", False)
_profiling = _known(torch.autograd, "_profiler_enabled", False)


def watcher() -> str | None:
    """Who watches or transforms this thread's calls of modules and operators; None: nobody."""
    if (
        _dispatch_modes()
        or _function_modes()
        or _interpreter() is not None
        or _jit_tracing()
        or _hooks["_global_forward_hooks"]
        or _hooks["_global_forward_pre_hooks"]
        or _dual.get("_current_level", -1) >= 0
        or _tracer.get("_is_fx_tracing_flag")
        or _Module.__call__ is not _CALL
        or _Module._call_impl is not _CALL_IMPL
    ):
        return _name()
    return None


def _name() -> str | None:
    if n := _dispatch_modes():
        return f"the dispatch mode {type(torch._C._get_dispatch_stack_at(n - 1)).__name__}"
    for i in range(_function_modes()):
        mode = type(torch._C._get_function_stack_at(i))
        if mode not in _INNOCENT:
            return f"the function mode {mode.__name__}"
    if _interpreter() is not None:
        return f"the transform {_interpreter().key().name} of torch.func"
    if _jit_tracing():
        return "torch.jit.trace"
    if _hooks["_global_forward_hooks"] or _hooks["_global_forward_pre_hooks"]:
        return "a hook on all modules"
    if _dual.get("_current_level", -1) >= 0:
        return "forward-mode differentiation"
    if torch_export.busy():  # another thread captures a component: what is below is of the whole process
        return None
    if _tracer.get("_is_fx_tracing_flag"):
        return "torch.fx"
    if _Module.__call__ is not _CALL or _Module._call_impl is not _CALL_IMPL:
        return "a replacement of torch.nn.Module.__call__"
    return None


def recording() -> bool:
    """Does a tracer write down this thread's operators? It knows tensors by what they are, and none in their place."""
    return _jit_tracing() or get_proxy_mode() is not None


def stand_in(t: torch.Tensor) -> str | None:
    """What an input is that has no numbers: torch traces, or only asks for shapes. None: it has numbers."""
    if type(t).__module__.startswith(_TRACING):
        return f"an input of type {type(t).__name__}"
    return "an input on the meta device" if t.is_meta else None


def unseen(inference: bool):
    """Inside the block no mode sees what this package does for itself, and tensors are made as inference tensors or
    not, whatever the script's own mode is."""
    return _nothing_seen(inference) if _dispatch_modes() or _function_modes() else torch.inference_mode(inference)


@contextlib.contextmanager
def _nothing_seen(inference: bool):
    with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.inference_mode(inference):
        yield


def profiled(label: str):
    """A range of this name for torch's profiler, where it is on."""
    return torch.profiler.record_function(f"ms_controlnet_backend: {label}") if _profiling() else _nothing
