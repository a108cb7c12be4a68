"""``torch.autocast`` in a captured graph. ``torch.export`` (2.6 … 2.13) records an operator as it was called, before
autocast casts what goes into it, but with the dtype of what comes out; the casts between are written into the graph
here."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch.fx import map_arg

_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA", "xpu": "AutocastXPU", "mps": "AutocastMPS"}


def active(devices: Iterable[str]) -> tuple | None:
    """What torch casts by itself on devices of these types, which is traced: another graph. None: nothing."""
    found = sorted(d for d in set(devices) if torch.amp.is_autocast_available(d) and torch.is_autocast_enabled(d))
    if not found:
        return None
    return "autocast", torch.is_autocast_cache_enabled(), *((d, torch.get_autocast_dtype(d)) for d in found)


def write_out(graph_module) -> None:
    """Every operator that autocast casts the arguments of gets them cast: to the dtype of its result, as the policies
    of ATen/autocast_mode.h have it."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        dtype = _dtype(node)
        if dtype is None:
            continue

        def cast(x, node=node, dtype=dtype):
            value = x.meta.get("val")
            if not _is_cast(value) or value.dtype is dtype:
                return x
            with graph.inserting_before(node):
                new = graph.call_function(torch.ops.aten.to.dtype, (x, dtype))
            new.meta = dict(x.meta) | {"val": value.to(dtype)}
            return new

        node.args, node.kwargs = map_arg((node.args, node.kwargs), cast)


def _is_cast(value) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype is not torch.float64


def _dtype(node) -> torch.dtype | None:
    """Of the arguments, where autocast has a rule for the operator on this device."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    if not isinstance(node.target, torch._ops.OpOverload) or not _is_cast(value):
        return None
    key = _KEYS.get(value.device.type, "AutocastPrivateUse1")
    return value.dtype if _has_rule(node.target.name(), key) and torch.is_autocast_enabled(value.device.type) else None


@functools.cache
def _has_rule(op: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(op, key)
