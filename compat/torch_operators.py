"""What torch (2.6 … 2.13) makes of an operator on its way to ``__torch_dispatch__``.

Composite operators (``linear``, ``conv2d``, ``scaled_dot_product_attention``) are taken apart by the dispatcher before
a tensor subclass sees them, and what they are made of has no lowering, or takes a view of a weight for one. So they are
met whole in ``__torch_function__`` (:func:`whole`). Inside torch's own Python functions (``F.group_norm``,
``F.multi_head_attention_forward``) nothing is met there: the parts are put together again (:func:`recomposed`).
"""

from __future__ import annotations

import contextlib
import functools
import types

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from . import fake_strides

_aten = torch.ops.aten
_BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType)


def whole(function, args: tuple, kwargs: dict):
    """(ATen overload, its args, its kwargs) of a composite operator that changes and aliases nothing, called as this
    function of torch; None for everything else, and where somebody wants to see the parts."""
    overloads = _composite(function)
    if not overloads or torch.is_autocast_enabled("cpu") or torch._C._len_torch_dispatch_stack():
        return None
    name, op = next(iter(overloads.items()))
    if len(overloads) > 1:
        try:
            listed = map(_as_list, op._schema.arguments, args)
            name = torch._C._jit_resolve_packet(op._schema.name, *listed, **kwargs)
        except RuntimeError:  # called wrongly: torch says how
            return None
    op = overloads.get(name)
    names = {} if op is None else {a.name for a in op._schema.arguments}
    if len(args) > len(names) or not kwargs.keys() <= names:
        return None
    return op, tuple(map(_as_list, op._schema.arguments, args)), kwargs


@functools.cache
def _composite(function) -> dict:
    """Overload name → overload, where the dispatcher takes every overload apart."""
    if not isinstance(function, _BUILT_IN):
        return {}
    packet = getattr(_aten, function.__name__, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):  # of ``__eq__`` the namespace has its own
        return {}
    overloads = {name: getattr(packet, name) for name in packet.overloads()}
    overloads = {name: op for name, op in overloads.items() if not any(a.is_out for a in op._schema.arguments)}
    return overloads if all(map(_is_whole, overloads.values())) else {}


@functools.cache
def is_composite(op) -> bool:
    """Does the dispatcher take it apart, before anybody computes anything?"""
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "CompositeImplicitAutograd")


def _is_whole(op) -> bool:
    arguments, returns = op._schema.arguments, op._schema.returns
    if any(a.alias_info for a in (*arguments, *returns)) or any(str(r.type) != "Tensor" for r in returns):
        return False
    return is_composite(op)


def _as_list(argument, value):
    """``stride=1`` as the list that the schema has."""
    single = isinstance(value, int) and not isinstance(value, bool)
    return [value] * argument.N if single and argument.N and str(argument.type) == "List[int]" else value


@contextlib.contextmanager
def examples(fake: bool = True):
    """Tensors made inside say what torch's kernels for the CPU return (a meta tensor would choose other kernels), and
    hold nothing where they are fake."""
    with contextlib.ExitStack() as stack:
        for context in (torch.inference_mode(False), torch.no_grad()):
            stack.enter_context(context)
        if fake:
            stack.enter_context(fake_strides.as_on_the_cpu())
            stack.enter_context(FakeTensorMode())
        yield


def structure(spec):
    """A pytree's structure as part of a key: with a dictionary in it torch 2.6's has no hash (2.13's has)."""
    try:
        hash(spec)
    except TypeError:
        return repr(spec)
    return spec


def in_backward() -> bool:
    """Does this thread compute gradients?"""
    return torch._C._current_graph_task_id() != -1


def recomposed(op, args: tuple, kwargs: dict):
    """(overload, args, kwargs) of the operator whose part this call is, and whose result is the first of the part's;
    None for what is no part, or cannot be put together."""
    make = _PARTS.get(op)
    if make is None:
        return None
    names = [a.name for a in op._schema.arguments]
    defaults = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
    return make(**defaults | dict(zip(names, args)) | kwargs)


def _group_norm(input, weight, bias, N, C, HxW, group, eps):  # noqa: N803 - the schema's names
    return _aten.group_norm.default, (input, group, weight, bias, eps), {}


def _layer_norm(input, normalized_shape, weight, bias, eps):
    return _aten.layer_norm.default, (input, normalized_shape, weight, bias, eps), {}


def _attention(query, key, value, dropout_p, is_causal, attn_mask, scale):
    return (
        _aten.scaled_dot_product_attention.default,
        (query, key, value, attn_mask, dropout_p, is_causal),
        dict(scale=scale),
    )


def _convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups):
    if transposed or input.ndim not in (3, 4):
        return None
    op = _aten.conv1d.default if input.ndim == 3 else _aten.conv2d.default
    return op, (input, weight, bias, stride, padding, dilation, groups), {}


_PARTS = {
    _aten.native_group_norm.default: _group_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten._scaled_dot_product_flash_attention_for_cpu.default: _attention,
    _aten.convolution.default: _convolution,
}
"""Parts that have no lowering → the whole. Their further results serve gradients."""
