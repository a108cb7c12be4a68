"""accelerate's hooks (offload, device maps) replace ``module.forward`` and keep the bound method they found."""

from __future__ import annotations

import types


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
