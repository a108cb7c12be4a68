"""Peak memory of a stretch of code: the process's resident set, sampled (the kernel's own peak can only be read after
resetting it for the whole process, which is not ours to do), and what the frameworks count on a device."""

from __future__ import annotations

import threading

from ..compat import accelerators
from ..compat.process_memory import resident

MEANING = (
    "resident memory of the whole process (both frameworks loaded), sampled every 10 ms (what is held for less may be "
    "missed); growth: peak over start; on the device: what torch's and MindSpore's tensors held at most, by their own "
    "count"
)
PERIOD = 0.01


class Peak:
    """A context manager. peak, growth: bytes; None where the system does not tell (no /proc). device: bytes on an
    accelerator; None where there is none."""

    def __enter__(self):
        self.device = None
        accelerators.forget_peaks()
        self.peak = self.growth = None
        self._start = resident()
        if self._start is not None:
            self.peak = self._start
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_):
        self.device = accelerators.peak()
        if self._start is not None:
            self._stop.set()
            self._thread.join()
            self.peak = max(self.peak, resident() or 0)
            self.growth = self.peak - self._start

    def _sample(self) -> None:
        while not self._stop.wait(PERIOD):
            self.peak = max(self.peak, resident() or 0)
