"""Where ``torch.export`` (2.6 … 2.13) has to be met half-way."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import warnings

import torch
from torch.export.graph_signature import InputKind, OutputKind

from ..errors import Refused
from . import autocast, fake_strides, module_slices

_lock = threading.Lock()
TABLES = ("_parameters", "_buffers", "_modules")
"""Attributes of a ``torch.nn.Module`` that hold its tensors and children."""
_CALL = torch.nn.Module._call_impl.__code__
TRACES = 3
"""So often a forward is traced before a changed random state is taken for its own doing."""


def version_of(t: torch.Tensor) -> int:
    """torch's in-place counter; inference tensors have none and cannot be changed outside inference mode."""
    return -1 if t.is_inference() else t._version


def busy() -> bool:
    """Is a module being exported, in any thread? Methods of ``torch.nn.Module`` are replaced meanwhile."""
    return _lock.locked()


def example(t: torch.Tensor) -> torch.Tensor:
    """A tensor of this shape, dtype, strides and device that export may wrap: no inference tensor, no subclass, no
    autograd."""
    with torch.inference_mode(False):
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)


def export(module: torch.nn.Module, examples: tuple):
    """``torch.export`` with static shapes, functional.

    Non-strict export leaves ``linear``, ``conv2d``, ``scaled_dot_product_attention`` … whole, and in-place operators as
    they are; only a graph that has such is decomposed (it doubles the time).
    """
    with _lock, _only_this_thread(), warnings.catch_warnings(), _quiet(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        with fake_strides.as_on_the_cpu(), module_slices.allowed():
            exported, draws = _traced(module, examples)
            if generators(exported):
                _check(generators(exported), lambda: torch.export.export(module, examples, strict=False))
        if autocast.active(_devices(exported)):
            autocast.write_out(exported.graph_module)
        if any(_mutates(n) for n in exported.graph.nodes):
            if not _read(exported.graph).issuperset(draws):  # decomposing drops them
                raise Refused("forward draws random numbers that nothing uses")
            exported = exported.run_decompositions({})
    return exported


def _devices(exported) -> set[str]:
    values = (n.meta.get("val") for n in exported.graph.nodes)
    return {v.device.type for v in values if isinstance(v, torch.Tensor)}


class Failed(Exception):  # noqa: N818 - its cause is the error
    """To be raised, from it, in place of an error of what is traced: export prints the graph it hangs on an error."""

    def __setattr__(self, name: str, value) -> None:
        if name != "partial_fx_graph":
            super().__setattr__(name, value)


@contextlib.contextmanager
def _quiet():
    """A module that cannot be exported is no news to the user: torch logs the whole graph as a warning."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    silent = lambda record: False  # noqa: E731
    logger.addFilter(silent)
    try:
        yield
    finally:
        logger.removeFilter(silent)


def generators(exported) -> dict[str, torch.Generator]:
    """Placeholder → generator of random numbers that the forward reached: the very one, in another Python object."""
    specs = [s for s in exported.graph_signature.input_specs if s.kind is InputKind.CUSTOM_OBJ]
    found = {s.arg.name: exported.constants[s.target] for s in specs}
    return {name: o for name, o in found.items() if isinstance(o, torch.Generator)}


def _check(found: dict[str, torch.Generator], trace) -> None:
    """Raises Refused where the forward makes a generator, or seeds one, in every call: it would be done once, while
    tracing. So it is traced again, with the generators in another state."""
    own = [g for g in found.values() if g._cdata != torch.default_generator._cdata]
    states = [g.get_state() for g in own]
    try:
        for g in own:
            g.manual_seed(g.initial_seed() ^ 1)
            torch.rand(1, generator=g)
        others = [g.get_state() for g in own]
        again = generators(trace())
        if [g._cdata for g in again.values()] != [g._cdata for g in found.values()]:
            raise Refused("forward makes a random generator")
        if not all(torch.equal(g.get_state(), s) for g, s in zip(own, others)):
            raise Refused("forward seeds a random generator")
    finally:
        for g, state in zip(own, states):
            g.set_state(state)


def _traced(module, examples: tuple):
    """The exported program and its nodes that draw. Tracing draws nothing itself: where the generator's state changed
    all the same, either the forward set it, which it would do in every call and in no graph, or another thread drew,
    which it seldom does in every trace."""
    for _ in range(TRACES):
        before = torch.get_rng_state()
        exported = torch.export.export(module, examples, strict=False)
        draws = [n for n in exported.graph.nodes if _draws(n)]
        if not draws or torch.equal(torch.get_rng_state(), before):
            return exported, draws
        if threading.active_count() == 1:
            break
    raise Refused("forward sets torch's random seed")


def _draws(node) -> bool:
    """Attention is tagged as if it drew, and does so where it has dropout."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if node.target is torch.ops.aten.scaled_dot_product_attention.default and not _dropout(node):
        return False
    return torch.Tag.nondeterministic_seeded in node.target.tags


def _dropout(node) -> float:
    return node.kwargs.get("dropout_p", node.args[4] if len(node.args) > 4 else 0.0)


def _read(graph) -> set:
    """The nodes on which the outputs depend."""
    read: set = set()
    for node in reversed(graph.nodes):
        written = _mutates(node) and any(user is not node for n in node.all_input_nodes for user in n.users)
        if node.op == "output" or node in read or written:
            read.update({node, *node.all_input_nodes})
    return read


def is_in_call(frame, modules: set[int]) -> bool:
    """Is a call of one of the modules, given by id, on the stack that ends in this frame of another thread?

    Only frames of ``torch.nn.Module``'s own methods are opened: looking at a frame's variables keeps them alive until
    it ends."""
    while frame is not None:
        if frame.f_code is _CALL and id(frame.f_locals.get("self")) in modules:
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def _only_this_thread():
    """torch.fx replaces methods of ``torch.nn.Module`` for the whole process, and a module called by another thread
    meanwhile would end up in the graph. Inside the block other threads get the plain methods."""
    patcher = torch.fx._symbolic_trace._Patcher
    original = patcher.patch_method

    @functools.wraps(original)
    def patch_method(self, cls, name, new_fn, *args, **kwargs):
        if cls is torch.nn.Module:
            new_fn = _in_thread(threading.get_ident(), new_fn, getattr(cls, name))
        return original(self, cls, name, new_fn, *args, **kwargs)

    patcher.patch_method = patch_method
    try:
        yield
    finally:
        patcher.patch_method = original


def _in_thread(tracing: int, traced, plain):
    @functools.wraps(plain)
    def method(self, *args, **kwargs):
        return (traced if threading.get_ident() == tracing else plain)(self, *args, **kwargs)

    return method


def _mutates(node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def signature(exported) -> tuple[list[str], dict[str, tuple], list[str]]:
    """(user inputs, weights, outputs): placeholder names; placeholder → (path, tensor); output node names. The other
    placeholders are ``generators``.

    Raises Refused where the module changes its own buffers or its inputs.
    """
    inputs, weights, objects = [], {}, generators(exported)
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            store = exported.state_dict if spec.target in exported.state_dict else exported.constants
            weights[spec.arg.name] = (spec.target, store[spec.target])
        elif spec.arg.name not in objects:
            raise Refused(f"graph input of kind {spec.kind.name}")
    outputs = []
    for spec in exported.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise Refused(f"the module changes {spec.target!r} while it runs ({spec.kind.name})")
        outputs.append(spec.arg.name)
    return inputs, weights, outputs
