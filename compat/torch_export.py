"""Where ``torch.export`` (2.6 … 2.13) has to be met half-way."""

from __future__ import annotations

import collections
import contextlib
import functools
import threading
import warnings

import torch
from torch.export.graph_signature import InputKind, OutputKind

from ..errors import Refused
from . import fake_strides

_lock = threading.Lock()
TABLES = ("_parameters", "_buffers", "_modules")
"""Attributes of a ``torch.nn.Module`` that hold its tensors and children."""
_METHODS = {name: getattr(torch.nn.Module, name) for name in ("__call__", "__getattr__")}


def example(t: torch.Tensor) -> torch.Tensor:
    """A tensor of this shape, dtype and strides that export may wrap: no inference tensor, no subclass, no autograd."""
    with torch.inference_mode(False):
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype)


def export(module: torch.nn.Module, examples: tuple):
    """``torch.export`` with static shapes, functional.

    Non-strict export leaves ``linear``, ``conv2d``, ``scaled_dot_product_attention`` … whole, and in-place operators as
    they are; only a graph that has such is decomposed (it doubles the time).
    """
    with _lock, warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        with _attributes_kept(module), fake_strides.as_on_the_cpu():
            exported = torch.export.export(module, examples, strict=False)
        if any(_mutates(n) for n in exported.graph.nodes):
            exported = exported.run_decompositions({})
    return exported


@contextlib.contextmanager
def _attributes_kept(module: torch.nn.Module):
    """Export leaves copies in place of every dictionary and list that a submodule has as an attribute; whoever holds
    the original (a user, another module) would change it without effect. And it leaves attributes that the forward
    made: transformers would believe that the hooks are installed which recorded hidden states while it traced."""
    seen: dict = {}
    before = [(m, {k: _record(v, seen) for k, v in vars(m).items() if k not in TABLES}) for m in module.modules()]
    try:
        yield
    finally:
        for m, attributes in before:
            for name in vars(m).keys() - attributes.keys() - set(TABLES):
                del vars(m)[name]
            for name, record in attributes.items():
                if record[1] is not None and name in vars(m):
                    vars(m)[name] = record[0]
        for container, children in seen.values():
            _restore(container, children)


def _record(o, seen: dict) -> tuple:
    """(object, its children or None), every container below it in seen."""
    if type(o) not in (dict, list, tuple, collections.OrderedDict, collections.defaultdict):
        return o, None
    if id(o) not in seen:
        seen[id(o)] = o, dict(o) if isinstance(o, dict) else list(o)
        for child in o.values() if isinstance(o, dict) else o:
            _record(child, seen)
    return seen[id(o)]


def _restore(container, children) -> None:
    """What it contained before, by identity."""
    if isinstance(container, dict):
        if len(container) != len(children) or any(container.get(k, container) is not v for k, v in children.items()):
            container.clear()
            container.update(children)
    elif isinstance(container, list):
        if len(container) != len(children) or any(a is not b for a, b in zip(container, children)):
            container[:] = children


@contextlib.contextmanager
def only_this_thread():
    """To be entered while tracing: export replaces these methods of ``torch.nn.Module`` for the whole process, and a
    module called by another thread meanwhile would end up in the graph. Other threads get the plain methods."""
    tracing = threading.get_ident()
    patched = {name: getattr(torch.nn.Module, name) for name in _METHODS}

    def choose(traced, plain):
        @functools.wraps(plain)
        def method(self, *args, **kwargs):
            return (traced if threading.get_ident() == tracing else plain)(self, *args, **kwargs)

        return method

    for name, plain in _METHODS.items():
        setattr(torch.nn.Module, name, choose(patched[name], plain))
    try:
        yield
    finally:
        for name, method in patched.items():
            setattr(torch.nn.Module, name, method)


def _mutates(node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def signature(exported) -> tuple[list[str], dict[str, tuple], list[str]]:
    """(user inputs, weights, outputs): placeholder names; placeholder → (path, tensor); output node names.

    Raises Refused where the module changes its own buffers or its inputs.
    """
    inputs, weights = [], {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(spec.arg.name)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            store = exported.state_dict if spec.target in exported.state_dict else exported.constants
            weights[spec.arg.name] = (spec.target, store[spec.target])
        else:
            raise Refused(f"graph input of kind {spec.kind.name}")
    outputs = []
    for spec in exported.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise Refused(f"the module changes {spec.target!r} while it runs ({spec.kind.name})")
        outputs.append(spec.arg.name)
    return inputs, weights, outputs
