"""Scaled dot-product attention (Vaswani et al., arXiv 1706.03762), by blocks of queries."""

from __future__ import annotations

import math

import torch

from ..errors import Unsupported
from . import Family
from .builder import broadcast_shape
from .samples import t

aten = torch.ops.aten
family = Family()
lowers = family.lowers

SCORE_BYTES = 16 * 2**20
"""Largest score matrix held at once; more queries are done block after block. Measured for 16 heads of 40 on 4096
positions: 0.52 s where blocks of 64 MiB took 0.96 s."""
QUERIES = 512
"""Fewest queries worth a block of their own: below, the heads of a block are fewer."""

_q, _k = t(2, 3, 5, 4), t(2, 3, 7, 4)


@lowers(
    aten.scaled_dot_product_attention.default,
    samples=[
        (_q, _k, _k),
        (_q, _k, _k, t(5, 7)),
        (_q, _k, _k, t(2, 1, 5, 7, kind="bool")),
        (_q, _q, _q, None, 0.0, True),
        (t(5, 4), t(7, 4), t(7, 4)),
    ],
)
def scaled_dot_product_attention(b, q, k, v, mask, dropout_p, is_causal, scale, enable_gqa):
    """q: (…, L, E), k: (…, S, E), v: (…, S, Ev); mask broadcasts to (…, L, S), boolean: True takes part."""
    if dropout_p:
        raise Unsupported(f"dropout_p={dropout_p}")
    if enable_gqa:
        raise Unsupported("enable_gqa=True")
    queries, keys = q.shape[-2], k.shape[-2]
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    lead = broadcast_shape(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    batch = math.prod(lead)
    q, k, v = (b.reshape(b.broadcast(x, lead + x.shape[-2:]), (batch,) + x.shape[-2:]) for x in (q, k, v))
    if is_causal:
        mask = b.constant(torch.ones(queries, keys, dtype=torch.bool).tril())
    bias = _bias(b, mask, lead, queries, keys, q.dtype)
    if keys == queries:
        q = b.mul(q, scale)
    else:  # those of another sequence, which is the same in all steps of a run
        k = b.mul(k, scale)
    limit = b.score_bytes or SCORE_BYTES
    heads = min(batch, max(1, limit // (min(queries, QUERIES) * keys * 4)))
    step = min(queries, max(1, limit // (heads * keys * 4)))
    last, done = None, []
    for head in range(0, batch, heads):
        until = min(head + heads, batch)
        qh, kh, vh = (b.slice(x, 0, head, until) for x in (b.after(q, last), k, v))
        blocks = []
        for start in range(0, queries, step):
            stop = min(start + step, queries)
            part = b.slice(b.after(qh, last), 1, start, stop)
            scores = b.matmul(part, kh, transpose_y=True)
            if bias is not None:
                scores = b.add(scores, _part(b, _part(b, bias, 0, head, until), 1, start, stop))
            last = b.matmul(b.call("Softmax", scores, axis=-1), vh)
            blocks.append(last)
        done.append(b.concat(blocks, 1))
    return b.reshape(b.concat(done, 0), b.out.shape)


def _part(b, x, axis, start, stop):
    """A slice along an axis that may broadcast."""
    return x if x.shape[axis] == 1 else b.slice(x, axis, start, stop)


def _bias(b, mask, lead, queries, keys, dtype):
    """The mask as an additive (batch or 1, queries or 1, keys) tensor."""
    if mask is None:
        return None
    if mask.dtype == "bool":
        zero, low = b.full(mask.shape, 0, dtype), b.full(mask.shape, float("-inf"), dtype)
        mask = b.call("Select", mask, zero, low, shape=mask.shape, dtype=dtype)
    mask = b.cast(mask, dtype)
    mask = b.reshape(mask, (1,) * (len(lead) + 2 - mask.rank) + mask.shape)
    if math.prod(mask.shape[:-2]) > 1:
        mask = b.broadcast(mask, lead + mask.shape[-2:])
    if mask.shape[-1] != keys:
        mask = b.broadcast(mask, mask.shape[:-1] + (keys,))
    return b.reshape(mask, (math.prod(mask.shape[:-2]),) + mask.shape[-2:])
