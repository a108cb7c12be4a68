"""Runs unchanged diffusers ControlNet scripts on MindSpore.

>>> import ms_controlnet_backend; ms_controlnet_backend.enable()  # doctest: +SKIP

Everything is imported on first use; importing this package is fast and silent.
"""

from __future__ import annotations

import importlib
import sys

__version__ = "0.1.0"

_EXPORTS = {
    "enable": "binding",
    "disable": "binding",
    "using": "binding",
    "stats": "binding",
    "compare": "ab.compare",
    "hookimpl": "hookspecs",
    "hookspecs": None,
    "errors": None,
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _EXPORTS[name] and f"{__name__}.{_EXPORTS[name]}" not in sys.modules:  # an older torch fails while importing
        importlib.import_module(".compat.versions", __name__).require("torch")
    module = importlib.import_module(f".{_EXPORTS[name] or name}", __name__)
    return getattr(module, name) if _EXPORTS[name] else module


def __dir__():
    return sorted(set(globals()) | set(__all__))
