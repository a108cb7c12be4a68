"""How this thread computes with floating-point numbers, where a library that is loaded would change it.

MindSpore's ``libmindspore_cpu.so`` for aarch64 (2.10): numbers below 1.2e-38 are made 0 from when it is loaded, torch's
and NumPy's as well, and NumPy warns of it. (GCC's ``-ffast-math`` does that to whoever loads what it linked.) The
library for x86-64 changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes

BYTES = 256
"""more than any ``fenv_t`` takes"""


@contextlib.contextmanager
def unchanged():
    """Rounding and what becomes of the smallest numbers are afterwards, in this thread, what they were before."""
    import numpy as np

    for dtype in (np.float16, np.float32, np.float64):
        np.finfo(dtype)  # which looks once and keeps what it found
    environment = ctypes.create_string_buffer(BYTES)
    try:
        library = ctypes.CDLL(None)  # Python's own process has C's <fenv.h>
        known = library.fegetenv(environment) == 0
    except (OSError, TypeError, AttributeError):  # another operating system
        known = False
    try:
        yield
    finally:
        if known:
            library.fesetenv(environment)
