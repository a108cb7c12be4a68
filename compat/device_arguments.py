"""``"cuda"`` and ``"npu"`` where torch takes a device: they become the CPU, which is where a pipeline's tensors are.

A device given as a string, a number or a ``torch.device`` is looked at as torch looks at it. Python functions and
methods are wrapped where they are kept, so worker threads and modules imported before are redirected too. Not
redirected: C functions whose name was bound before (``from torch import randn``, ``Generator``).
"""

from __future__ import annotations

import functools

import torch
from torch._C import _len_torch_function_stack
from torch.serialization import default_restore_location
from torch.utils import _pytree as pytree
from torch.utils._device import _device_constructors

from .replacements import Replacement

TYPES = ("cuda", "npu")
_Device = torch.device
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_CONSTRUCTORS = _device_constructors()  # torch keeps this set from its first use: it must hold the originals


def redirected(device) -> bool:
    """Is it one of the devices that become the CPU? A number means an accelerator's index."""
    if isinstance(device, str):
        return device.split(":", 1)[0] in TYPES
    if type(device) is _Device:
        return device.type in TYPES
    return isinstance(device, int) and not isinstance(device, bool)


def here(device):
    """``"cpu"`` for a device that is redirected; whatever else comes in as it is."""
    return "cpu" if redirected(device) else device


def argument(name: str, position: int | None = None):
    """What makes a wrapper of a function that takes a device by this name, or at this position."""

    def make(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            if name in kwargs:
                kwargs[name] = here(kwargs[name])
            elif position is not None and len(args) > position and redirected(args[position]):
                args = (*args[:position], "cpu", *args[position + 1 :])
            return function(*args, **kwargs)

        return wrapper

    return make


class _StandIn(type):
    """The type of a class that stands for a C type: calling it is redirected, everything else is the original's."""

    def __call__(cls, *args, **kwargs):
        return cls.create(*args, **kwargs)

    def __instancecheck__(cls, o):
        return isinstance(o, cls.original)

    def __subclasscheck__(cls, other):
        return issubclass(other, cls.original) if other is not cls else True

    def __getattr__(cls, name):
        return getattr(cls.original, name)

    def __eq__(cls, other):  # sets and dictionaries of types find either
        return other is cls or other is cls.original

    def __hash__(cls):
        return hash(cls.original)


def stand_in(create):
    """What makes the stand-in of a C type. create: the original, then the call's arguments → an original object."""

    def make(original):
        members = {"__module__": "torch", "__doc__": original.__doc__, "__slots__": (), "original": original}
        return _StandIn(original.__name__, (), members | {"create": functools.partial(create, original)})

    return make


def _device(original, *args, **kwargs):
    kind = args[0] if args else kwargs.get("type", kwargs.get("device"))
    return original("cpu") if redirected(kind) else original(*args, **kwargs)


def _generator(original, device="cpu"):
    return original(here(device))


def _device_module(function):
    """``torch.cuda`` for "cuda", as its name says: torch.random.fork_rng looks for it so."""

    @functools.wraps(function)
    def get_device_module(device=None):
        if not redirected(device):
            return function(device)
        kind = "cuda" if isinstance(device, int) else device if isinstance(device, str) else device.type
        return getattr(torch, kind.split(":")[0])

    return get_device_module


def _moved(_):
    def method(self, device=None, *args, **kwargs):
        return self.to("cpu")

    return method


def _autocast(init):
    """Autocast of a device that is redirected changes nothing, as on a torch that lacks that device, but silently."""

    @functools.wraps(init)
    def __init__(self, device_type, dtype=None, enabled=True, cache_enabled=None):
        if redirected(device_type):
            device_type, dtype = "cpu", torch.get_autocast_dtype("cpu")
            enabled = torch.is_autocast_enabled("cpu")
        init(self, device_type, dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)

    return __init__


def _load(function):
    """Also without ``map_location``: a file that was saved on CUDA names CUDA as the place of its tensors."""

    def location(where):
        if where is not None and not isinstance(where, dict):
            return here(where)
        known = where or {}
        return lambda storage, name: default_restore_location(storage, here(known.get(name, name)))

    @functools.wraps(function)
    def load(f, map_location=None, *args, **kwargs):
        return function(f, location(map_location), *args, **kwargs)

    return load


def _tensor(function):
    """``torch.export`` knows torch.tensor by identity, to give symbolic sizes to its Python version: done here."""
    redirect = argument("device")(function)

    @functools.wraps(function)
    def tensor(data, **kwargs):
        if _len_torch_function_stack() and any(isinstance(x, _SYMBOLS) for x in pytree.tree_leaves(data)):
            return torch._refs.tensor(data, **kwargs)
        return redirect(data, **kwargs)

    return tensor


def _tensor_type(function):
    """``"torch.cuda.FloatTensor"`` → ``"torch.FloatTensor"``."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        args = [a.replace(".cuda.", ".").replace(".npu.", ".") if isinstance(a, str) else a for a in args]
        return function(*args, **kwargs)

    return wrapper


def _factories() -> dict[str, str]:
    """Name → owner of every function of torch that makes a tensor on a device: torch's own list of them."""
    owners = {"torch": torch, "torch.fft": torch.fft}
    found = {n: path for path, owner in owners.items() for n, f in vars(owner).items() if _is_constructor(f)}
    return {n: path for n, path in found.items() if n != "tensor"}


def _is_constructor(o) -> bool:
    return callable(o) and not isinstance(o, type) and getattr(o, "__hash__", None) and o in _CONSTRUCTORS


LIKE = "empty_like full_like ones_like rand_like randint_like randn_like zeros_like".split()
NEW = "new_empty new_empty_strided new_full new_ones new_tensor new_zeros".split()

TABLE = (
    Replacement("torch", "device", stand_in(_device), 'torch.device("cuda"), which torch.device("npu") is an error'),
    Replacement("torch", "Generator", stand_in(_generator), "a generator of the CPU: the numbers of its seed there"),
    *(Replacement(o, n, argument("device"), "the tensor is made on the CPU") for n, o in _factories().items()),
    Replacement("torch", "get_device_module", _device_module, "torch.cuda, torch.npu"),
    Replacement("torch", "tensor", _tensor, "the tensor is made on the CPU"),
    *(Replacement("torch", n, argument("device"), "the tensor is made on the CPU") for n in LIKE),
    *(Replacement("torch.Tensor", n, argument("device"), "the tensor is made on the CPU") for n in NEW),
    Replacement("torch.Tensor", "to", argument("device", 1), "the tensor stays; its dtype may change"),
    Replacement("torch.Tensor", "cuda", _moved, "the tensor stays"),
    Replacement("torch.Tensor", "npu", _moved, "the tensor stays", added=True),
    Replacement("torch.Tensor", "pin_memory", lambda _: lambda self, device=None: self, "no memory to copy it to"),
    Replacement("torch.Tensor", "type", _tensor_type, "torch.cuda.FloatTensor becomes torch.FloatTensor"),
    Replacement("torch", "set_default_tensor_type", _tensor_type, "torch.cuda.FloatTensor becomes torch.FloatTensor"),
    Replacement("torch.UntypedStorage", "cuda", lambda _: lambda self, *_, **__: self, "map_location functions use it"),
    Replacement("torch.nn.Module", "to", argument("device", 1), "the module stays; its dtype may change"),
    Replacement("torch.nn.Module", "npu", _moved, "the module stays", added=True),
    Replacement("torch.utils._device.DeviceContext", "__init__", argument("device", 1),
                "with torch.device(…), torch.set_default_device"),
    Replacement("torch.autocast", "__init__", _autocast, "computes in the dtype of the weights"),
    Replacement("torch", "load", _load, "tensors come to the CPU, whatever the file or map_location says"),
    Replacement("safetensors", "safe_open", argument("device", 2), "tensors come to the CPU"),
    Replacement("safetensors.torch", "safe_open", argument("device", 2), "safetensors.torch.load_file"),
)  # fmt: skip
