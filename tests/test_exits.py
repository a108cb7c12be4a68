"""Ways by which a resident tensor's numbers leave: each is right, or an error, never garbage."""

import copy
import io
import multiprocessing.reduction
import pickle
import types
import warnings

import numpy as np
import pytest
import torch
from ms_controlnet_backend.compat import memory_exits
from torch.multiprocessing import reductions  # noqa: F401 - it teaches the pickler of other processes tensors

from ms_controlnet_backend.runtime.resident import ResidentTensor
from tests.test_resident_views import Device, random

SKIPPED = {
    **dict.fromkeys(["_get_value_trace", "_unsafe_reset_storage"], "crashes on an ordinary tensor"),
    "_compute_linear_combination": "reads memory that nobody wrote",
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


@pytest.fixture(scope="module")
def device():
    return Device()


@pytest.fixture
def enabled():
    memory_exits.open_up()
    yield
    memory_exits.close()


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


def wrong(functions, device):
    """Functions that give another result for a resident tensor than for an ordinary one, without an error."""
    found, compared = [], 0
    for name, f in functions:
        for call in CALLS:
            ordinary = random(2, 3) + 3
            theirs = outcome(f, call, ordinary)
            if not isinstance(theirs, Exception):
                break
        else:
            continue
        address = name == "_data_address"
        if not address and not same(outcome(f, call, random(2, 3) + 3), theirs):  # it reads memory as it was
            continue
        compared += 1
        ours = outcome(f, call, device(random(2, 3) + 3))
        if isinstance(ours, Exception) or (ours[0] not in (0, None) if address else same(ours, theirs)):
            continue
        found.append((name, ours, theirs))
    return found, compared


def test_no_function_of_torch_gives_garbage(device, enabled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, compared = wrong(functions(), device)
    assert not found, found[:3]
    assert compared > 250


def test_a_new_way_would_be_found(device):
    """While nothing is replaced, this one is garbage."""
    assert wrong([("_data_address", torch._C._data_address)], device)[0]


class Module(torch.nn.Module):
    def __init__(self, t):
        super().__init__()
        self.register_buffer("t", t)

    def forward(self, x):
        return x + self.t


def written(save):
    buffer = io.BytesIO()
    save(buffer)
    buffer.seek(0)
    return buffer


WAYS = {
    "to_dlpack": lambda t: torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(t)),
    "torch.to_dlpack": lambda t: torch.from_dlpack(torch.to_dlpack(t)),
    "__dlpack__": lambda t: torch.from_dlpack(t.__dlpack__()), "from_dlpack": lambda t: torch.from_dlpack(t),
    "numpy.from_dlpack": lambda t: torch.from_numpy(np.from_dlpack(t)), "numpy": lambda t: torch.from_numpy(t.numpy()),
    "asarray": lambda t: torch.from_numpy(np.asarray(t)), "tensor": lambda t: torch.tensor(t), "tensor of a list":
    lambda t: torch.tensor([t, t]) if t.ndim == 0 else torch.stack([t, t]), "as_tensor": lambda t: torch.as_tensor(t),
    "torch.asarray": lambda t: torch.asarray(t), "a copy": lambda t: torch.asarray(t, copy=True), "Tensor": lambda t:
    torch.Tensor(t), "new_tensor": lambda t: t.new_tensor(t), "legacy": lambda t: torch.FloatTensor(t), "ctypes": lambda
    t: torch.frombuffer(bytearray(by_address(t)), dtype=torch.float32).reshape(t.shape), "storage": lambda t:
    torch.tensor(t.untyped_storage().tolist()), "typed storage": lambda t: torch.tensor(t.storage().tolist()),
    "set_": lambda t: torch.empty(0).set_(t), "save": lambda t: torch.load(written(lambda b: torch.save(t, b))),
    "forking": lambda t: pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(t)), "deepcopy": copy.deepcopy,
    "share": lambda t: t.share_memory_(), "traced": lambda t: torch.jit.trace(lambda x: x * 2, t)(t), "scripted":
    lambda t: torch.jit.script(Module(random(2, 3)))(t), "kept by a script": lambda t:
    torch.jit.script(Module(t))(random(2, 3)), "saved script": lambda t: torch.jit.load(
    written(lambda b: torch.jit.save(torch.jit.script(Module(t)), b))).t, "state_dict": lambda t:
    Module(t).state_dict()["t"], "safetensors": lambda t: safetensors(t), "bytes": lambda t: torch.tensor(
    list(t.numpy().tobytes())), "frozen": lambda t: torch.jit.freeze(torch.jit.script(Module(t)).eval())(random(2, 3)),
    "vmap": lambda t: torch.vmap(lambda r: r * 2)(t),
}  # fmt: skip


def by_address(t):
    import ctypes

    return ctypes.string_at(t.data_ptr(), t.nbytes)


def safetensors(t):
    import safetensors.torch

    return safetensors.torch.load(safetensors.torch.save({"t": t}))["t"]


@pytest.mark.parametrize("name", WAYS)
def test_ways_out(device, enabled, name):
    x = random(2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = told(WAYS[name](x.clone()))
        except (RuntimeError, TypeError, AssertionError) as error:
            pytest.skip(f"not on an ordinary tensor: {error}")
        with torch.no_grad():
            assert same(told(WAYS[name](device(x))), expected)


def test_a_function_imported_before_is_an_error(device):
    """And so is any other C function that asks for memory."""
    t = device(random(2, 3))
    with pytest.raises(RuntimeError, match="data pointer"):
        torch._C._to_dlpack(t)


def test_disable_leaves_no_trace(clean):
    before = {(line.owner, line.name): line for line in memory_exits.TABLE}
    kept = [torch.utils.dlpack.to_dlpack, torch.to_dlpack, torch._C._to_dlpack]
    clean.enable()
    assert torch.to_dlpack is not kept[1] and len(before) == len(memory_exits.TABLE)
    clean.disable()
    assert [torch.utils.dlpack.to_dlpack, torch.to_dlpack, torch._C._to_dlpack] == kept


def test_a_view_leaves_as_its_base_does(device, enabled):
    """What is written through the memory that left is seen by all who share it."""
    base = device(random(2, 3))
    view = base.t()[1]
    assert type(view) is ResidentTensor
    outside = torch.utils.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(view))
    outside.fill_(7)
    assert torch.equal(base[:, 1], torch.full((2,), 7.0)) and torch.equal(view, base[:, 1])
