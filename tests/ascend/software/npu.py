"""The software NPU of this process: what it counted, and settings that make it go wrong."""

from __future__ import annotations

import contextlib
import ctypes
import json
import types


class Report(types.SimpleNamespace):
    """Counts since the last reset."""

    def crossed(self, before: Report) -> dict[str, int]:
        """Copies and waits since an earlier report."""
        counted = ("up", "down", "within", "stream_waits", "device_waits", "event_waits")
        return {name: getattr(self, name) - getattr(before, name) for name in counted}

    def launched(self, before: Report) -> dict[str, int]:
        """Launches since an earlier report, by operator."""
        more = {op: n - before.launches.get(op, 0) for op, n in self.launches.items()}
        return {op: n for op, n in more.items() if n}


class SoftwareNPU:
    """Settings (``set``): defer, workspace (bytes every operator asks for), skip (all but the arithmetic), skip_from
    (the same of operators with a tensor of so many elements), hf32, exact_float32 (refuse HF32), any_head_size,
    allow_legacy (launch deprecated operators, which compute nothing), fail_allocation (the first that fails), hang,
    crash, error and wrong (an operator's name), log (a file), trace (who copies and waits, in the log).
    Before the start: soc, devices, memory_gb.
    """

    def __init__(self):
        self._library = ctypes.CDLL("libascendcl.so")
        self._library.software_npu_report.restype = ctypes.c_char_p
        self.expected = False
        """Whether the test wants errors."""
        self.elsewhere = False
        """Whether what the test is about happens in other processes."""

    def report(self) -> Report:
        """Since the last reset. launches, legacy, untaught: number by name. devices: launches by the device's number.
        errors: texts. up, down, within (copies), up_bytes …; stream_waits, device_waits, event_waits; used, peak,
        workspace: bytes."""
        return Report(**json.loads(self._library.software_npu_report()))

    def reset(self) -> None:
        self._library.software_npu_reset()

    @contextlib.contextmanager
    def set(self, **settings):
        for key, value in settings.items():
            self._set(key, str(int(value) if isinstance(value, bool) else value))
        try:
            yield self
        finally:
            for key in settings:
                self._set(key, "")

    def _set(self, key: str, value: str) -> None:
        self._library.software_npu_set(key.encode(), value.encode())
