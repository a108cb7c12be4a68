"""Scaled dot-product attention by ``FlashAttentionScore`` (Dao et al., arXiv 2205.14135).

The kernel takes float16 and bfloat16, heads of a multiple of 16 and at most 512, and a boolean mask in which True is
left out. It reads the heads where a projection wrote them, in layout BSH (batch, positions, heads * size), so that
nothing is transposed. Heads of another size (Stable Diffusion 1.5 has 40) are padded with zeros, in the weights of the
projections where these are linear layers of the module. Its softmax is computed in float32. Anything else, float32
among it, is done by blocks of matrix products as on every target.
"""

from __future__ import annotations

import functools
import math

import torch

from .. import Family
from ..attention import scaled_dot_product_attention as in_blocks
from .prepare import PadHeads

aten = torch.ops.aten
family = Family()
lowers = functools.partial(family.lowers, target="Ascend")

UNIT, LARGEST = 16, 512
"""What the size of a head is a multiple of, and its limit."""
EVERYTHING = 2**31 - 1
"""Positions before and after a query that it attends to."""
HEADS_SECOND = (0, 2, 1, 3)


@lowers(aten.scaled_dot_product_attention.default)
def scaled_dot_product_attention(b, q, k, v, mask, dropout_p, is_causal, scale, enable_gqa):
    """q: (…, N, L, E), k and v: (…, N, S, E); mask broadcasts to (…, N, L, S), boolean: True takes part."""
    if "attention" in b.without or dropout_p or enable_gqa or not _fits(q, k, v, mask):
        b.chosen("matrix products", f"{q.dtype}, heads of {q.shape[-1]}")
        return in_blocks(b, q, k, v, mask, dropout_p, is_causal, scale, enable_gqa)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k, v = (_four_axes(b, x) for x in (q, k, v))
    batch, heads, queries, size = q.shape
    width = -(-size // UNIT) * UNIT
    left_out = _left_out(b, mask, is_causal, (batch, heads, queries, k.shape[2]))
    flat = [_by_position(b, x) for x in (q, k, v)]
    padded = [_padded(b, x, heads, width) for x in flat]
    b.chosen("FlashAttentionScore", f"BSH, heads of {size}" + (f" padded to {width}" if width != size else ""))
    y = b.call(
        "ops.flash_attention_score", *padded, heads, None, None, None, left_out, None, None, None,
        1.0, float(scale), EVERYTHING, EVERYTHING, 0, "BSH", 0,
    )  # fmt: skip
    if width != size:
        whole, y = y, b.slice(b.reshape(y, (batch, queries, heads, width)), 3, 0, size)
        b.remember_padded(y, whole, heads, width)
    y = b.transpose(b.reshape(y, (batch, queries, heads, size)), HEADS_SECOND)
    return b.reshape(y, b.out.shape)


def _fits(q, k, v, mask) -> bool:
    """Is it within what the kernel takes?"""
    if q.dtype not in ("float16", "bfloat16") or not q.shape[-1] == k.shape[-1] == v.shape[-1] <= LARGEST:
        return False
    if q.shape[:-2] != k.shape[:-2] or q.shape[:-2] != v.shape[:-2] or q.rank < 2:
        return False
    return mask is None or mask.dtype == "bool"


def _four_axes(b, x):
    lead = x.shape[:-2]
    heads = lead[-1] if len(lead) > 1 else 1
    return b.reshape(x, (math.prod(lead) // heads, heads) + x.shape[-2:])


def _by_position(b, x):
    """(B, N, S, D) → (B, S, N * D): as the projection wrote it, if ``x`` is but that transposed."""
    batch, heads, positions, size = x.shape
    return b.reshape(b.transpose(x, HEADS_SECOND), (batch, positions, heads * size))


def _padded(b, x, heads, width):
    """(B, S, N * D) → (B, S, N * width), by the projection that made it or by a kernel."""
    batch, positions, channels = x.shape
    size = channels // heads
    if size == width:
        return x
    made = None if "padded_projections" in b.without else b.projection(x)
    if made is not None:
        source, weight, bias = made
        prepare, rows = PadHeads(heads, width), heads * width
        weight = b.prepared(weight, prepare, (rows,) + weight.shape[1:])
        bias = None if bias is None else b.prepared(bias, prepare, (rows,))
        y = b.call("mint.nn.functional.linear", source, weight, bias, shape=source.shape[:-1] + (rows,))
        return b.reshape(y, (batch, positions, rows))
    split = b.reshape(x, (batch, positions, heads, size))
    shape = (batch, positions, heads, width)
    y = b.call("mint.nn.functional.pad", split, (0, width - size), "constant", 0.0, shape=shape)
    return b.reshape(y, (batch, positions, heads * width))


def _left_out(b, mask, is_causal, shape):
    """The kernel's mask: None, or booleans (L, S), (B, 1, L, S) or (B, N, L, S), True where nothing is read."""
    queries, keys = shape[-2:]
    if is_causal:
        return b.constant(torch.ones(queries, keys, dtype=torch.bool).triu(1))
    if mask is None:
        return None
    inverted = _inverted(b, mask)
    full = (1,) * (4 - mask.rank) + mask.shape
    if full[:2] == (1, 1):
        return b.broadcast(b.reshape(inverted, full[2:]), (queries, keys))
    wanted = (shape[0], shape[1] if full[1] > 1 else 1, queries, keys)
    return b.broadcast(b.reshape(inverted, full), wanted)


def _inverted(b, mask):
    if mask in b.program.constants:
        return b.constant(~b.program.weights[mask].reshape(mask.shape))
    return b.call("LogicalNot", mask)
