"""Scaled dot-product attention by a fused kernel (Dao et al., arXiv 2205.14135): ``FlashAttentionScore`` or
``PromptFlashAttention``, whichever the NPU has (:data:`.npu.NPUS`).

Both take float16 and bfloat16, heads of a multiple of 16 and at most 512, and a boolean mask in which True is left
out. They read the heads where a projection wrote them, in layout BSH (batch, positions, heads * size), so that nothing
is transposed. Heads of another size (Stable Diffusion 1.5 has 40) are padded with zeros, in the weights of the
projections where these are linear layers of the module. The softmax is computed in float32. Anything else, float32
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
PROMPT_BATCH, PROMPT_MASKED = 128, 128
"""Of PromptFlashAttention on the 310P: the largest batch, and what the positions are a multiple of under a mask."""
EVERYTHING = 2**31 - 1
"""Positions before and after a query that it attends to."""
HEADS_SECOND = (0, 2, 1, 3)


@lowers(aten.scaled_dot_product_attention.default)
def scaled_dot_product_attention(b, q, k, v, mask, dropout_p, is_causal, scale, enable_gqa):
    """q: (…, N, L, E), k and v: (…, N, S, E); mask broadcasts to (…, N, L, S), boolean: True takes part."""
    kernel = None if "attention" in b.without else b.npu.attention
    if dropout_p or enable_gqa or not (kernel and _fits(q, k, v, mask) and LIMITS[kernel](q, k, mask, is_causal)):
        b.chosen("matrix products", f"{q.dtype}, heads of {q.shape[-1]}")
        return in_blocks(b, q, k, v, mask, dropout_p, is_causal, scale, enable_gqa)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    q, k, v = (_four_axes(b, x) for x in (q, k, v))
    batch, heads, queries, size = q.shape
    width = -(-size // UNIT) * UNIT
    left_out = _left_out(b, mask, is_causal, (batch, heads, queries, k.shape[2]))
    flat = [_by_position(b, x) for x in (q, k, v)]
    padded = [_padded(b, x, heads, width) for x in flat]
    b.chosen(kernel, f"BSH, heads of {size}" + (f" padded to {width}" if width != size else ""))
    y = CALLS[kernel](b, *padded, left_out, heads, float(scale))
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


def _flash_attention_score(b, q, k, v, left_out, heads, scale):
    return b.call(
        "ops.flash_attention_score", q, k, v, heads, None, None, None, left_out, None, None, None,
        1.0, scale, EVERYTHING, EVERYTHING, 0, "BSH", 0,
    )  # fmt: skip


def _prompt_flash_attention(b, q, k, v, left_out, heads, scale):
    return b.call(
        "ops.prompt_flash_attention", q, k, v, left_out, *[None] * 8,
        heads, scale, EVERYTHING, EVERYTHING, "BSH", 0, 0, 0,
    )  # fmt: skip


def _prompt_takes(q, k, mask, is_causal) -> bool:
    """Within the limits of the 310P, which are the narrowest: no mask but for as many queries as keys, none a head."""
    if math.prod(q.shape[:-3]) > PROMPT_BATCH:
        return False
    if mask is None and not is_causal:
        return True
    a_head = mask is not None and mask.rank > 2 and mask.shape[-3] > 1
    return q.shape[-2] == k.shape[-2] and q.shape[-2] % PROMPT_MASKED == 0 and not a_head


CALLS = {"FlashAttentionScore": _flash_attention_score, "PromptFlashAttention": _prompt_flash_attention}
LIMITS = {"FlashAttentionScore": lambda q, k, mask, is_causal: True, "PromptFlashAttention": _prompt_takes}
"""Of a kernel, beyond what both want."""


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
