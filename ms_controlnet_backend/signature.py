"""A call's arguments → the tensors in them, and a hashable key of everything else.

Two calls with equal keys run the same compiled graph, so every argument takes part: a tensor by shape, dtype, device
and strides (on which those of the results depend), anything else by value. An argument that can be neither is refused,
never dropped.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .errors import Refused

_PLAIN = (int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device)
_T = object()  # marks the place of a tensor in a template


@dataclass(frozen=True)
class Structure:
    """Where the tensors of a call sit. key: hashable. names: one a tensor, e.g. ``added_cond_kwargs_time_ids``.
    owners: the argument each tensor came in."""

    key: tuple
    names: tuple[str, ...]
    template: Any
    owners: tuple[str, ...] = ()

    def rebuild(self, tensors: Sequence) -> tuple[tuple, dict[str, Any]]:
        """The (args, kwargs) with these tensors in their places."""
        return _fill(self.template, iter(tensors))


class Arguments:
    """Splits the calls of one forward function.

    scalars: arguments whose Python and NumPy numbers and 0-d tensors, also in a list, are fed as 0-d float32 tensors.
    """

    def __init__(self, forward: Callable, scalars: Sequence[str] = ()):
        self._signature = inspect.signature(forward)
        self._scalars = scalars
        kinds = {p.kind: p.name for p in self._signature.parameters.values()}
        self._more_positional = kinds.get(inspect.Parameter.VAR_POSITIONAL)
        self._more_keywords = kinds.get(inspect.Parameter.VAR_KEYWORD)

    def split(self, args: tuple, kwargs: dict) -> tuple[Structure, list[torch.Tensor]]:
        """(structure, tensors in its order). Raises TypeError as the function itself would, Refused for an argument
        that is neither tensor nor plain value."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        for name in self._scalars:
            for holder in (arguments, arguments.get(self._more_keywords, {})):
                if name in holder:
                    holder[name] = _as_scalar(holder[name])
        if self._more_positional is None:  # by name, however they were given
            args, kwargs = (), dict(arguments)
            kwargs.update(kwargs.pop(self._more_keywords, {}))
        else:
            args, kwargs = bound.args, bound.kwargs
        names: list[str] = []
        tensors: list[torch.Tensor] = []
        parts = [_flatten(f"argument_{i}", value, names, tensors) for i, value in enumerate(args)]
        owners = [""] * len(names)
        named = {}
        for name, value in kwargs.items():
            named[name] = _flatten(name, value, names, tensors)
            owners += [name] * (len(names) - len(owners))
        key = tuple(k for k, _ in parts) + tuple((name, k) for name, (k, _) in named.items())
        template = (tuple(t for _, t in parts), {name: t for name, (_, t) in named.items()})
        return Structure(key, tuple(names), template, tuple(owners)), tensors


def without_strides(key):
    """Equal for the keys of two calls whose tensors differ in how they lie in memory alone."""
    if not isinstance(key, tuple):
        return key
    return key[:-1] if key[:1] == ("tensor",) else tuple(map(without_strides, key))


def _as_scalar(value):
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float32)
    if isinstance(value, torch.Tensor) and value.ndim == 0 and value.dtype is not torch.float32:
        return value.to(torch.float32)
    if type(value) in (list, tuple):
        return type(value)(_as_scalar(v) for v in value)
    return value


def _flatten(path: str, value, names: list, tensors: list):
    """(key, template) of one value; its tensors are appended."""
    if isinstance(value, torch.Tensor):
        names.append(path)
        tensors.append(value)
        return ("tensor", value.dtype, tuple(value.shape), value.device, value.stride()), _T
    if isinstance(value, _PLAIN):
        return (type(value), repr(value) if isinstance(value, float) else value), value
    if isinstance(value, np.generic) and isinstance(value.item(), _PLAIN):
        return (type(value), repr(value.item())), value
    if type(value) in (list, tuple):
        parts = [_flatten(f"{path}_{i}", v, names, tensors) for i, v in enumerate(value)]
        return (type(value), *(k for k, _ in parts)), type(value)(t for _, t in parts)
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        parts = {k: _flatten(f"{path}_{k}", v, names, tensors) for k, v in value.items()}
        return (dict, *((k, p[0]) for k, p in parts.items())), {k: p[1] for k, p in parts.items()}
    raise Refused(f"argument {path!r} of type {type(value).__name__} is neither tensor nor plain value")


def _fill(template, it):
    if template is _T:
        return next(it)
    if type(template) in (list, tuple):
        return type(template)(_fill(t, it) for t in template)
    if isinstance(template, dict):
        return {k: _fill(t, it) for k, t in template.items()}
    return template
