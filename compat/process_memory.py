"""What the operating system tells of this process's memory, and of the machine's. Bytes; None where it does not."""

from __future__ import annotations

import os
import sys

_LINUX = sys.platform.startswith("linux")


def resident() -> int | None:
    """Resident now."""
    if not _LINUX:
        return None
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak() -> int | None:
    """The most that was resident since the process began."""
    return _field("/proc/self/status", "VmHWM:")


def total() -> int | None:
    """Of the machine."""
    return _field("/proc/meminfo", "MemTotal:")


def available() -> int | None:
    """Of the machine, without swapping."""
    return _field("/proc/meminfo", "MemAvailable:")


def _field(path: str, name: str) -> int | None:
    if not _LINUX:
        return None
    with open(path) as f:
        return next((int(line.split()[1]) * 1024 for line in f if line.startswith(name)), None)
