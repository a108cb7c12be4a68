"""``torch.cuda``'s streams and events where work is done when a call returns."""

from __future__ import annotations

import contextlib
import time

import torch


def nothing(*args, **kwargs) -> None:
    """There is nothing to do."""


class Stream:
    """Every stream is the same one, and always idle."""

    def __init__(self, *args, **kwargs):
        self.device = torch.device("cpu")

    synchronize = wait_stream = wait_event = nothing

    def query(self) -> bool:
        return True

    def record_event(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class Event:
    """A moment, by the clock."""

    def __init__(self, enable_timing=False, blocking=False, interprocess=False, external=False):
        self._at: float | None = None

    synchronize = wait = nothing

    def record(self, stream=None) -> None:
        self._at = time.perf_counter()

    def query(self) -> bool:
        return True

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds. Raises RuntimeError unless both were recorded."""
        if self._at is None or end_event._at is None:
            raise RuntimeError("both events must be recorded before calculating elapsed time")
        return (end_event._at - self._at) * 1000


def current_stream(device=None) -> Stream:
    return Stream()


@contextlib.contextmanager
def stream(stream):
    """``with torch.cuda.stream(s)``."""
    yield


@contextlib.contextmanager
def device(device):
    """``with torch.cuda.device(0)``."""
    yield
