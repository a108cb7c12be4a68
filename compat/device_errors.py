"""What MindSpore raises where the device is at fault and not the graph: its memory is full, or it reports an error."""

from __future__ import annotations

import re

_MEMORY = re.compile(r"out of (device )?memory|alloc\w* .*fail|memory (is )?not enough|207001", re.IGNORECASE)
_DEVICE = re.compile(r"error from device|\bai ?(core|vec\w*|cpu) (error|exception|timeout)|\b507\d{3}\b"
                     r"|error occurred in the previous step", re.IGNORECASE)  # fmt: skip
"""The words of CANN's runtime, whose error codes are 207001 for memory and 507000 to 507999 for the device
(``acl/error_codes/rt_error_codes.h``), and of MindSpore, which after an error of a launch raises the last."""


def memory_is_full(text: str) -> bool:
    """Does an error's text say so?"""
    return bool(_MEMORY.search(text))


def device_failed(text: str) -> bool:
    """Is it the device, memory included, that an error's text complains of?"""
    return memory_is_full(text) or bool(_DEVICE.search(text))


def message(error: Exception) -> str:
    """What MindSpore says, in one line, without its call stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- ")]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
