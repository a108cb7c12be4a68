"""Components captured with given arguments and lowered for Ascend, without any pipeline around them."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.utils import _pytree as pytree

from ms_controlnet_backend import passes, plugins
from ms_controlnet_backend.capture import capture
from ms_controlnet_backend.lowering.ascend.npu import DEFAULT
from ms_controlnet_backend.lowering.lower import lower, lower_for
from ms_controlnet_backend.lowering.prologue import split_for
from ms_controlnet_backend.lowering.trial import in_float32 as in_float32_alone
from ms_controlnet_backend.lowering.trial import trial
from ms_controlnet_backend.runtime.target import Target
from ms_controlnet_backend.signature import Arguments

TARGET = Target("Ascend")


@dataclass
class Graph:
    """program: everything. step: what is left of it in every step; first: what is computed once a run, or None."""

    program: object
    first: object
    step: object
    tensors: list
    target: Target


def graph(component, args=(), kwargs=None, site=0, without=(), npu=DEFAULT) -> Graph:
    """Of the site'th module that the component's adapter names, called with these arguments."""
    site = plugins.registry().adapter(component).sites(component, type(component).__name__)[site]
    forward, target = site.module.forward, Target("Ascend", frozenset(without), npu=npu)
    structure, tensors = Arguments(forward, site.scalars).split(args, kwargs or {})
    captured = capture(site.label, site.module, forward, structure, tensors)
    registry = plugins.registry()
    passes.run(captured, registry.passes(target.device, target.without))
    program = lower_for(target, captured, registry)
    first, step = split_for(captured, program, site.constant)
    return Graph(program, first, step, [tensors[i] for i in captured.inputs.values()], target)


def in_float32(module, args=(), kwargs=None) -> list:
    """What torch returns for the same weights and arguments in float32: the tensors."""
    wide = lambda x: x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x  # noqa: E731
    args, kwargs = pytree.tree_map(wide, (tuple(args), kwargs or {}))
    with torch.no_grad():
        out = copy.deepcopy(module).float()(*args, **kwargs)
    return [x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]


def lowered(op, args, kwargs, dtype, without=(), npu=DEFAULT):
    """Of one operator: (program, inputs, what torch says in float32 of the same numbers)."""
    captured, tensors, expected = trial(op, args, kwargs, torch.Generator().manual_seed(0), dtype)
    results = in_float32_alone(captured, tensors)
    assert [r.shape for r in results] == [e.shape for e in expected]
    program = lower(captured, plugins.registry(), "Ascend", TARGET.compute_dtype, without, npu=npu)
    return program, tensors, results
