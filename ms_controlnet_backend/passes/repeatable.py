"""Which nodes give the same result whenever they are evaluated."""

from __future__ import annotations

import torch


def is_repeatable(node) -> bool:
    """False for an overload that draws random numbers or writes to its arguments. One that is not torch's own may draw
    without saying so."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload):
        return True
    own = op.namespace in ("aten", "prim", "prims")
    return own and torch.Tag.nondeterministic_seeded not in op.tags and not op._schema.is_mutable
