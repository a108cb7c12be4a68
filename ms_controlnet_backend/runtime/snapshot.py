"""Has a module changed since its graph was captured?

A capture bakes in everything about a module but the values of its weights: submodules, flags, scales, attention
processors, LoRA state. A Snapshot remembers all that as it was, and compares it with what is.
"""

from __future__ import annotations

import types

import torch

_LEAVES = (int, float, complex, bool, str, bytes, type(None), type, types.FunctionType, types.MethodType,
           types.BuiltinFunctionType, types.ModuleType, torch.dtype, torch.device)  # fmt: skip
_IGNORED = frozenset({"_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks", "_state_dict_pre_hooks",
                      "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_internal_dict"})  # fmt: skip
_DEPTH = 4


class Snapshot:
    """Everything reachable from a module that a capture may depend on, tensors by identity, the rest by value."""

    def __init__(self, module: torch.nn.Module):
        self._root = module
        self._state = list(_walk(module))
        self._objects = [o for o, _ in self._state]

    def same(self) -> bool:
        """True while nothing but the values of tensors changed."""
        now = _walk(self._root)
        try:
            for (known, before), (current, after) in zip(self._state, now, strict=True):
                if known is not current or before != after:
                    return False
        except ValueError:  # another number of modules
            return False
        except RuntimeError:  # a comparison that came down to tensors: not the same objects
            return False
        return True


def _walk(module: torch.nn.Module):
    """(module, what is in its __dict__) for the module and everything below it, each once."""
    seen = {id(module)}
    stack = [module]
    while stack:
        m = stack.pop()
        yield m, _freeze_dict(m.__dict__, _DEPTH)
        for child in m._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                stack.append(child)


def _freeze_dict(d: dict, depth: int) -> tuple:
    return tuple((k, _freeze(v, depth)) for k, v in d.items() if k not in _IGNORED and v is not None)


class _ById:
    """An object compared by identity, kept alive so that its id is not used again."""

    __slots__ = ("object",)

    def __init__(self, o):
        self.object = o

    def __eq__(self, other):
        return isinstance(other, _ById) and self.object is other.object


def _freeze(v, depth: int):
    if isinstance(v, _LEAVES):
        return v
    if isinstance(v, torch.Tensor):
        return _ById(v), v.dtype, tuple(v.shape), v.data_ptr() if not v.is_meta else 0
    if isinstance(v, torch.nn.Module):
        return _ById(v)
    if not depth:
        return _ById(v)
    if isinstance(v, dict):
        return dict, len(v), _freeze_dict(v, depth - 1)
    if isinstance(v, (list, tuple)):
        return type(v), tuple(_freeze(x, depth - 1) for x in v)
    if isinstance(v, (set, frozenset)):
        return set, frozenset(x if isinstance(x, _LEAVES) else id(x) for x in v)
    state = getattr(v, "__dict__", None)
    return _ById(v), _freeze_dict(state, depth - 1) if state else None
