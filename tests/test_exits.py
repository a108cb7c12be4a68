"""Ways by which a resident tensor's numbers leave: each is right, or an error, never garbage."""

import copy
import io
import json
import multiprocessing.reduction
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import exits
import numpy as np
import pytest
import torch
from ms_controlnet_backend.compat import memory_exits
from test_resident_views import Device, random
from torch.multiprocessing import reductions  # noqa: F401 - it teaches the pickler of other processes tensors

from ms_controlnet_backend.runtime.resident import ResidentTensor


@pytest.fixture(scope="module")
def device():
    return Device()


@pytest.fixture
def enabled():
    memory_exits.open_up()
    yield
    memory_exits.close()


def test_no_function_of_torch_gives_garbage():
    """In processes of their own: a few of torch's functions crash, now and then, on the arguments they are given here
    though these are ordinary tensors. Where one crashes on a resident tensor, it is found."""
    found, compared, start = [], 0, 0
    for _ in range(10):
        command = [sys.executable, exits.__file__, str(start)]
        walk = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=Path(__file__).parent)
        lines = [json.loads(line) for line in walk.stdout.splitlines() if line.startswith("{")]
        compared += sum(line["side"] == "ours" for line in lines)
        found += [line for line in lines if line["side"] == "wrong"]
        if walk.returncode == 0:
            break
        assert walk.returncode < 0, walk.stderr[-2000:]
        if lines[-1]["side"] == "ours":
            found.append(lines[-1] | {"side": "crashes"})
        start = lines[-1]["index"] + 1
    else:
        pytest.fail("it crashes all the time")
    assert not found, found[:3]
    assert compared > 250


def test_a_new_way_would_be_found(device):
    """While nothing is replaced, this one is garbage."""
    assert [line["side"] for line in exits.walk([("_data_address", torch._C._data_address)], device)][-1] == "wrong"


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
            expected = exits.told(WAYS[name](x.clone()))
        except (RuntimeError, TypeError, AssertionError) as error:
            pytest.skip(f"not on an ordinary tensor: {error}")
        with torch.no_grad():
            assert exits.same(exits.told(WAYS[name](device(x))), expected)


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
