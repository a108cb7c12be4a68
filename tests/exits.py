"""A walk over torch's functions that no tensor subclass can take over: ``python exits.py START`` compares what each
makes of a resident tensor with what it makes of an ordinary one, and prints lines of JSON on its way."""

from __future__ import annotations

import json
import sys
import types
import warnings

import numpy as np
import torch

SKIPPED = {
    **dict.fromkeys(["_get_value_trace", "_unsafe_reset_storage"], "crashes on an ordinary tensor"),
    **dict.fromkeys(["_compute_linear_combination", "_weight_norm_interface"], "reads memory that nobody wrote"),
    **dict.fromkeys(["_fix_weakref", "_replace_", "_swap_tensor_impl", "_set_data_ptr"], "works on the object itself"),
    **dict.fromkeys(
        ["__dir__", "__hash__", "__getstate__", "__subclasshook__", "__init__", "__get__", "_dispatch_key_set",
         "_dispatch_isTensorSubclassLike", "_has_torch_function", "_has_torch_function_unary",
         "_has_torch_function_variadic", "_storage_address", "_storage_id", "_tensor_impl_raw_handle"],
        "tells of the object, not of its numbers"),
}  # fmt: skip
GLOBAL = ("_cuda", "_accel", "_xpu", "_mps", "_log", "_set_", "set_", "_show", "_jit", "_push", "_pop", "_activate",
          "_demangle", "_dynamo", "_abort", "_rpc", "_parallel", "init_num_threads")  # fmt: skip
"""Beginnings of names of functions that set something for the whole process."""
CALLS = [lambda t: (t,), lambda t: (t, t), lambda t: (t, 0), lambda t: (t, 1, 0), lambda t: ([t],), lambda t: (t, [0])]


def functions():
    """Name → function: those that torch's own list says ask no subclass, and its other C functions that no subclass
    can take over."""
    over = torch.overrides.get_testing_overrides()
    found = {id(f): f for f in torch.overrides.get_ignored_functions()}
    for owner in (torch, torch.Tensor, torch.utils.dlpack, torch._C, torch._C._nn, torch._C._linalg, torch._C._fft,
                  torch._C._special, torch._C._sparse, torch._C._nested, torch._C.TensorBase):  # fmt: skip
        for name in dir(owner):
            f = getattr(owner, name, None)
            if isinstance(f, (types.BuiltinFunctionType, types.MethodDescriptorType)) and f not in over:
                found[id(f)] = f
    named = ((getattr(f, "__name__", str(f)), f) for f in found.values() if not isinstance(f, type))
    return [(n, f) for n, f in named if n not in SKIPPED and not n.startswith(GLOBAL) and "print_options" not in n]


def told(result):
    """A result's numbers."""
    if isinstance(result, torch.Tensor):
        if result.layout is not torch.strided or result.is_nested:
            return str(result.layout)
        return result.detach().to(torch.complex128 if result.is_complex() else torch.float64).numpy().copy()
    if isinstance(result, (tuple, list)):
        return [told(r) for r in result]
    if type(result).__name__ == "PyCapsule":
        return told(torch.utils.dlpack.from_dlpack(result))
    if isinstance(result, bytes):
        return len(result)
    return result if isinstance(result, (int, float, bool, str, type(None))) else type(result).__name__


def same(ours, theirs):
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, np.ndarray):
        return isinstance(ours, np.ndarray) and ours.shape == theirs.shape and np.allclose(
            ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True
        )  # fmt: skip
    return ours == theirs


def outcome(f, call, t):
    """(numbers, the argument's numbers afterwards), or an error."""
    torch.manual_seed(0)
    try:
        numbers = told(f(*call(t)))
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    return [numbers, told(torch.clone(t))]


def reads_what_nobody_wrote(f, call, before) -> bool:
    """Does another call give another result, with other numbers left in the memory that it is given?"""
    for number in (0.0, 1.0, float("nan")):
        left = [torch.full((n,), number) for n in range(1, 65)]
        del left
        if not same(outcome(f, call, random(2, 3) + 3), before):
            return True
    return False


def walk(functions, device, start: int = 0):
    """index, name, and side: "theirs" before an ordinary tensor is given to a function, "ours" before a resident one,
    "wrong" where it gave another result without an error."""
    for index, (name, f) in enumerate(functions[start:], start):
        for call in CALLS:
            yield {"index": index, "name": name, "side": "theirs"}
            theirs = outcome(f, call, random(2, 3) + 3)
            if not isinstance(theirs, Exception):
                break
        else:
            continue
        address = name == "_data_address"
        if not address and reads_what_nobody_wrote(f, call, theirs):
            continue
        yield {"index": index, "name": name, "side": "ours"}
        ours = outcome(f, call, device(random(2, 3) + 3))
        if isinstance(ours, Exception) or (ours[0] not in (0, None) if address else same(ours, theirs)):
            continue
        yield {"index": index, "name": name, "side": "wrong", "ours": str(ours)[:200], "theirs": str(theirs)[:200]}


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


if __name__ == "__main__":
    from ms_controlnet_backend.compat import memory_exits
    from test_resident_views import Device

    warnings.simplefilter("ignore")
    memory_exits.open_up()
    for line in walk(functions(), Device(), int(sys.argv[1])):
        print(json.dumps(line), flush=True)
