"""Operators of torch_npu (2.1 … 2.13) that diffusers and transformers call wherever torch_npu can be imported, also on
tensors of the CPU, for which it has no kernels: what they compute, in ATen. After the descriptions in torch_npu's own
``_op_plugin_docs.py``."""

from __future__ import annotations

from collections.abc import Callable

import torch

aten = torch.ops.aten
_LAYOUTS = {"BSH", "SBH", "BSND", "BNSD"}
_EVERY, _ALL, _UPPER_LEFT, _LOWER_RIGHT = range(4)  # sparse_mode


def _geglu(call, input, dim=-1, approximate=1, activate_left=False):
    """GELU by tanh if approximate is 1, as diffusers asks for, else the exact one."""
    halves = call(aten.chunk.default, input, 2, dim)
    left, right = halves if not activate_left else reversed(halves)
    gelu = call(aten.gelu.default, right, **({"approximate": "tanh"} if approximate else {}))
    return call(aten.mul.Tensor, left, gelu), gelu


def _rms_norm(call, input, gamma, epsilon=1e-6):
    dims = list(range(-gamma.meta["val"].ndim, 0))
    dtype = input.meta["val"].dtype
    x = call(aten.to.dtype, input, torch.float32)
    mean = call(aten.mean.dim, call(aten.mul.Tensor, x, x), dims, True)
    rstd = call(aten.rsqrt.default, call(aten.add.Tensor, mean, epsilon))
    normed = call(aten.mul.Tensor, call(aten.mul.Tensor, x, rstd), call(aten.to.dtype, gamma, torch.float32))
    return call(aten.to.dtype, normed, dtype), rstd


def _rotary_mul(call, input, r1, r2, rotary_mode="half", rotate=None):
    if rotate is not None or rotary_mode not in ("half", "interleave"):
        return None
    if rotary_mode == "half":
        first, second = call(aten.chunk.default, input, 2, -1)
        turned = call(aten.cat.default, [call(aten.neg.default, second), first], -1)
    else:
        first, second = (call(aten.slice.Tensor, input, -1, start, 2**63 - 1, 2) for start in (0, 1))
        turned = call(aten.stack.default, [call(aten.neg.default, second), first], -1)
        turned = call(aten.reshape.default, turned, list(input.meta["val"].shape))
    return call(aten.add.Tensor, call(aten.mul.Tensor, input, r1), call(aten.mul.Tensor, turned, r2))


def _fusion_attention(call, query, key, value, head_num, input_layout, pse=None, padding_mask=None, atten_mask=None,
                      scale=1.0, keep_prob=1.0, pre_tockens=2**31 - 1, next_tockens=2**31 - 1, inner_precise=0,
                      prefix=None, actual_seq_qlen=None, actual_seq_kvlen=None, sparse_mode=0, **rest):  # fmt: skip
    """A mask says what is left out. Of the further results (for gradients) there is none."""
    options = pse, padding_mask, prefix, actual_seq_qlen, actual_seq_kvlen, *map(rest.get, _OTHERS)
    if any(o is not None for o in options) or keep_prob != 1 or input_layout not in _LAYOUTS:
        return None
    heads = [_heads(call, x, head_num, input_layout) for x in (query, key, value)]
    (_, n, rows, _), (_, keys, columns, _) = (x.meta["val"].shape for x in heads[:2])
    causal = sparse_mode == _UPPER_LEFT or (sparse_mode == _LOWER_RIGHT and rows == columns)
    before, after = rest.get("pre_tokens", pre_tockens), rest.get("next_tokens", next_tockens)
    banded = sparse_mode == _EVERY and atten_mask is not None and (before < rows or after < columns)
    if n != keys or banded or not (causal or sparse_mode in (_EVERY, _ALL)):
        return None
    mask = None
    if atten_mask is not None and not causal:
        kept = call(aten.to.dtype, atten_mask, torch.bool)
        mask = call(aten.logical_not.default, kept)
    attention = aten.scaled_dot_product_attention.default
    out = call(attention, *heads, mask, 0.0, causal, scale=float(scale))
    if input_layout == "BNSD":
        return (out,)
    out = call(aten.transpose.int, out, 1, 2)
    if input_layout == "SBH":
        out = call(aten.transpose.int, out, 0, 1)
    shape = [*query.meta["val"].shape[:-1], value.meta["val"].shape[-1]]
    return (call(aten.reshape.default, out, shape),)


_OTHERS = ("query_rope", "key_rope", "q_start_idx", "kv_start_idx", "sink", "dropout_mask")


def _heads(call, x, head_num: int, layout: str):
    """[batch, heads, sequence, head size]"""
    if layout == "BNSD":
        return x
    if layout == "SBH":
        x = call(aten.transpose.int, x, 0, 1)
    if layout != "BSND":
        batch, length, width = x.meta["val"].shape
        x = call(aten.reshape.default, x, [batch, length, head_num, width // head_num])
    return call(aten.transpose.int, x, 1, 2)


TABLE: dict[str, Callable] = {
    "npu::npu_geglu": _geglu,
    "npu::npu_rms_norm": _rms_norm,
    "npu::npu_rotary_mul": _rotary_mul,
    "npu::npu_fusion_attention": _fusion_attention,
    "npu::npu_fusion_attention_v2": _fusion_attention,
    "npu::npu_fusion_attention_v3": _fusion_attention,
}
"""Name of an operator → from what makes a node of the graph (overload, then its arguments) and the operator's arguments
by name, the node or nodes of its results, as many as it gives; None where it does not know that use of it."""
