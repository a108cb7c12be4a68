"""Tensors that stay on the device: a ``torch.Tensor`` that holds a MindSpore tensor.

What one compiled component returns and another takes never visits the host. The operators that upstream applies on
the way run on the device, through the same lowerings; anything else gets an ordinary tensor: slower, never wrong.

A view of such a tensor is computed there too, as a value of its own; nobody can tell as long as nobody writes. As soon
as somebody does, or takes memory, everything that shares the memory becomes ordinary: the base goes to the host, and
each view is what its operators make of the base there.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable

import torch
from torch.utils import _pytree as pytree

from ..compat import memory_exits, torch_operators
from ..layout import Layout, is_dense, laid_out

_aten = torch.ops.aten
_SAME = {_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default}


class Memory:
    """What a base and its views share.

    fetch: copies the base to the host. strides: of the base; None: as fetch has them. host: the base there. given: may
    it have been written to? It is the truth then, and nobody has a value on the device. inference: are these inference
    tensors, as those made now are? members: every Held, for as long as a tensor has it.
    """

    def __init__(self, fetch: Callable[[], torch.Tensor], host, strides, inference: bool | None = None):
        self.fetch, self.strides, self.host = fetch, strides, host
        self.given = False
        self.inference = torch.is_inference_mode_enabled() if inference is None else inference
        self.members: weakref.WeakSet[Held] = weakref.WeakSet()

    def read(self) -> torch.Tensor:
        if self.host is None:
            with torch.inference_mode(self.inference):
                host = self.fetch()
                self.host = host if self.strides is None else laid_out(host, self.strides)
        return self.host

    def give(self) -> None:
        self.read()
        if not self.given:
            self.given = True
            for held in list(self.members):
                held.forget()
                held.read()  # now: the base may be transposed in place


class Held:
    """What all aliases (``detach``) of one resident tensor share.

    value: the MindSpore tensor; None once the host's memory was given away, which is the truth from then on.
    fetch: copies it to the host. run: an overload on the device, or NotImplemented; None where the value is in no form
    that operators take. strides: of the tensor on the host. steps: from the base to this view of it, as
    functions of the host's tensors.
    """

    def __init__(self, value, fetch: Callable[[], torch.Tensor] | None, run: Callable | None, host=None, strides=None):
        self.value, self.fetch, self.run, self.strides = value, fetch, run, strides
        self.steps: tuple[Callable, ...] = ()
        self._copy: torch.Tensor | None = None  # of a view, before anything was given
        self._view: torch.Tensor | None = None
        self._join(Memory(fetch, host, strides))

    def _join(self, memory: Memory) -> None:
        self.memory = memory
        memory.members.add(self)

    def become_view(self, base: Held, step: Callable) -> None:
        """This value is what ``step`` makes of ``base``."""
        self.steps = (*base.steps, step)
        self._join(base.memory)

    def forget(self) -> None:
        """There is no value on the device any more."""
        self.value = self._copy = None

    @property
    def host(self) -> torch.Tensor | None:
        """The ordinary tensor, where there is one."""
        if not self.steps or self.memory.host is None:
            return self.memory.host if not self.steps else self._copy
        if self._view is None:
            with torch.inference_mode(self.memory.inference), torch.no_grad():
                view = self.memory.host
                for step in self.steps:
                    view = step(view)
            self._view = view
        return self._view

    @host.setter
    def host(self, t: torch.Tensor) -> None:
        self.memory.host = t

    def read(self) -> torch.Tensor:
        """An ordinary tensor, only to be read."""
        if not self.steps:
            return self.memory.read()
        if self.host is None:
            with torch.inference_mode(self.memory.inference):
                self._copy = laid_out(self.fetch(), self.strides)
        return self.host

    def give(self) -> torch.Tensor:
        """An ordinary tensor that may be written to, or kept as a view."""
        self.memory.give()
        return self.host

    def alone(self) -> bool:
        """Does nobody else share the memory?"""
        return len(self.memory.members) == 1

    def replace(self, other: Held, strides: tuple[int, ...]) -> None:
        """From now on the value of all aliases is another; of one that is alone."""
        self.memory.members.discard(self)
        self.value, self.fetch, self.strides = other.value, other.fetch, strides
        self.steps, self._copy, self._view = (), None, None
        self._join(Memory(other.fetch, None, strides, self.memory.inference))


class ResidentTensor(torch.Tensor):
    """Shape, dtype and strides as torch would have them; the device is the CPU, as for every tensor of the pipeline."""

    held: Held

    @staticmethod
    def __new__(cls, held: Held, layout: Layout):
        self = torch.Tensor._make_wrapper_subclass(
            cls, layout.shape, strides=layout.strides, storage_offset=layout.offset, dtype=layout.dtype, device="cpu"
        )
        self.held = held
        memory_exits.bar(self)
        return self

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _HOST:
            return func(*_each(args, give), **_each(kwargs, give))
        composite = torch_operators.whole(func, args, kwargs)
        if composite is not None and not _wants_gradients(args, kwargs):
            out = _on_device(*composite)
            if out is not NotImplemented:
                return out
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        first = args[0] if args else None
        if func in _SAME and isinstance(first, cls):
            return cls(first.held, Layout.of(first))
        aliased = _aliased(func)
        if not aliased:
            out = _on_device(func, args, kwargs)
            if out is not NotImplemented:
                return out
        if torch_operators.is_composite(func):  # so it comes in inference mode: ``reshape`` is a view or a copy
            return func.decompose(*args, **kwargs)
        if not aliased:
            return func(*_each(args, plain), **_each(kwargs, plain))
        if device_value(first) is not None:
            out = _in_place(func, args, kwargs) if func._schema.is_mutable else _view(func, args, kwargs)
            if out is not NotImplemented:
                return out
        return _by_host(func, aliased, args, kwargs)


@functools.cache
def _aliased(func) -> frozenset[str]:
    """The arguments that an overload writes to or returns views of. (``set_`` takes its source's memory as well.)"""
    arguments = func._schema.arguments
    all_of_them = func._schema.name == "aten::set_"
    return frozenset(a.name for a in arguments if a.alias_info is not None or all_of_them)


def _on_device(func, args, kwargs):
    """The result of an overload that changes nothing, computed on the device, or NotImplemented."""
    tensors = pytree.tree_leaves((args, kwargs))
    run = next((t.held.run for t in tensors if device_value(t) is not None), None)
    return NotImplemented if run is None else run(func, args, kwargs)


def _view(func, args, kwargs):
    """Views on the device, or NotImplemented."""
    first, *rest = args
    if any(isinstance(t, torch.Tensor) for t in pytree.tree_leaves((rest, kwargs))):
        return NotImplemented
    out = _on_device(func, args, kwargs)
    if out is NotImplemented:
        return out
    step = lambda host: func(host, *rest, **kwargs)  # noqa: E731
    if isinstance(out, torch.Tensor):
        return _linked(out, first, step)
    return type(out)(_linked(t, first, lambda host, i=i: step(host)[i]) for i, t in enumerate(out))


def _linked(t, base, step):
    """What was computed, as a view of the base."""
    t.held.become_view(base.held, step)
    layout = Layout.of(t)
    with torch.inference_mode(base.is_inference()):  # as torch's: a view is of its base's kind
        return ResidentTensor(t.held, layout._replace(offset=layout.offset + base.storage_offset()))


def _in_place(func, args, kwargs):
    """``residual += other``: the first argument gets a new value, where nobody shares its memory. Or NotImplemented."""
    first, functional = args[0], _functional(func)
    if functional is None or first.held.steps or not first.held.alone() or not is_dense(first.shape, first.stride()):
        return NotImplemented
    out = _on_device(functional, args, kwargs)
    if out is NotImplemented or (out.shape, out.dtype) != (first.shape, first.dtype):
        return NotImplemented
    first.held.replace(out.held, first.stride())
    return first


@functools.cache
def _functional(func):
    """``aten.add_.Tensor`` → ``aten.add.Tensor``; None where there is no such overload."""
    name = func._schema.name.removeprefix("aten::")
    packet = getattr(_aten, name[:-1], None) if name.endswith("_") else None
    return getattr(packet, func._overloadname, None)


def _by_host(func, aliased: frozenset[str], args, kwargs):
    """What writes, or returns a view, done with ordinary tensors; what was written to is returned as it came in."""
    lent: dict[int, tuple[ResidentTensor, torch.Tensor]] = {}

    def lend(t):
        if isinstance(t, ResidentTensor):
            host = _aten.alias.default(t.held.give())  # which may be transposed in place, or given other memory
            lent[id(host)] = t, host
            return host
        return t

    names = [a.name for a in func._schema.arguments]
    args = [_each(a, lend if name in aliased else plain) for name, a in zip(names, args)]
    kwargs = {name: _each(a, lend if name in aliased else plain) for name, a in kwargs.items()}
    out = func(*args, **kwargs)
    if not func._schema.is_mutable:
        return out
    for t, host in lent.values():
        _follow(t, host)
        # of these torch counts versions in the kernel, and not above it
        if func._schema.name.startswith("aten::_foreach_") and not t.is_inference():
            torch.autograd.graph.increment_version(t)
    return _each(out, lambda t: lent.get(id(t), (t,))[0])


def _follow(t: ResidentTensor, host: torch.Tensor) -> None:
    """After ``transpose_``, ``resize_`` and the like the tensor says what its ordinary one says."""
    layout = Layout.of(host)
    if layout != Layout.of(t) or host.untyped_storage().data_ptr() != t.held.host.untyped_storage().data_ptr():
        t.held = Held(None, None, None, host)
        with torch._C.DisableTorchFunctionSubclass():
            torch.Tensor.data.__set__(t, type(t)(t.held, layout))


def _wants_gradients(args, kwargs) -> bool:
    if not torch.is_grad_enabled():
        return False
    return any(isinstance(t, torch.Tensor) and t.requires_grad for t in pytree.tree_leaves((args, kwargs)))


class Uploaded:
    """An ordinary tensor's value on the device, in its place among the tensors of a call."""

    def __init__(self, value):
        self.value = value


def device_value(t):
    """The MindSpore tensor of ``t`` for an operator on the device, or None."""
    if isinstance(t, ResidentTensor):
        return t.held.value if t.held.run is not None else None
    return t.value if isinstance(t, Uploaded) else None


def plain(t):
    """An ordinary tensor for reading, whatever comes in."""
    return t.held.read() if isinstance(t, ResidentTensor) else t


def on_host(t):
    """The ordinary tensor that tells the truth of ``t``; None while the device has it alone."""
    if isinstance(t, ResidentTensor):
        return t.held.host if t.held.value is None else None
    return t


def give(t):
    """An ordinary tensor to do anything with."""
    return t.held.give() if isinstance(t, ResidentTensor) else t


def _each(tree, function):
    return pytree.tree_map(function, tree)


def _host_functions() -> set:
    """Methods that look at memory or at the object itself, and so never reach the dispatcher."""
    names = """numpy tolist __array__ __array_wrap__ data_ptr storage untyped_storage _typed_storage storage_type
    __reduce_ex__ __deepcopy__ __repr__ __format__ __dlpack__ __dlpack_device__ share_memory_ is_shared pin_memory
    is_pinned set_ map_ map2_ apply_""".split()
    found = {getattr(torch.Tensor, name) for name in names if hasattr(torch.Tensor, name)}
    return found | {torch.Tensor.data.__get__, torch.utils.dlpack.to_dlpack}


_HOST = _host_functions()
