"""accelerate's hooks (offload, device maps) replace ``module.forward`` and keep the bound method they found."""

from __future__ import annotations

import types

PLACED = frozenset({"_hf_hook", "_old_forward"})
"""Attributes that its hooks put on a module. diffusers' offloading puts new ones there in every call of a pipeline;
what they do happens around the module's own forward."""


def redirect(module, original, replacement):
    """Make accelerate's wrapper on ``module`` call ``replacement`` where it kept ``original``.

    Returns what undoes it, None where there is nothing to redirect, or False where another wrapper hides the forward.
    """
    if "forward" not in vars(module):
        return None
    kept = vars(module).get("_old_forward")
    if kept is None or getattr(kept, "__func__", None) is not original:
        return False
    module._old_forward = types.MethodType(replacement, module)

    def undo():
        if getattr(vars(module).get("_old_forward"), "__func__", None) is replacement:
            module._old_forward = kept

    return undo
