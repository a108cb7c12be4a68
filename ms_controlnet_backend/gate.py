"""Any number of threads may be in calls of components, or one of them captures.

While ``torch.export`` traces a module, the module's weights are fake tensors and its containers copies, for whoever
looks at it. So a capture waits until no other thread is inside a call of an intercepted module (whatever answers it:
torch, too, reads those weights), and calls that come meanwhile wait for the capture.

Nobody waits for anything while it is inside: who wants to capture, or waits for another thread to be done with a
component (:meth:`Gate.holding`), is outside until it goes on. That is why nothing can wait in a circle.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator

from .compat import torch_export
from .errors import NotNow

LIMIT = 60
"""Seconds after which a call that is older than ``enable()`` is not waited for any more."""
PAUSE = 0.005
"""Seconds between looks at what other threads do."""


class Gate:
    """All of its blocks are generators that put back what was, so that an exception that comes from outside (a time
    limit's) leaves nobody inside for ever."""

    def __init__(self):
        self._renew()
        os.register_at_fork(after_in_child=self._renew)  # of other threads, which are not there

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside: dict[int, int] = {}  # thread → how deep
        self._capturing: int | None = None
        self._to_capture: set[int] = set()  # threads that wait for it
        self._blocked: set[int] = set()  # threads that wait for anything
        self._seen: weakref.WeakSet = weakref.WeakSet()  # threads that called; a number is given to another one later
        self._asked: dict[int, list] = {}  # thread → of its calls: are they still to be answered here?

    @contextlib.contextmanager
    def call(self, wanted: Callable[[], bool] = lambda: True) -> Iterator[None]:
        """A call, which may be inside another one of this thread, or inside its capture. wanted: is the module that is
        called still intercepted?"""
        me = threading.get_ident()
        before, asked = self._inside.get(me, 0), self._asked.get(me, [])
        try:
            with self._lock:
                if not before:
                    self._wait(lambda: self._capturing == me or self._capturing is None and not self._to_capture)
                self._put(me, before + 1)
                self._seen.add(threading.current_thread())
                self._asked[me] = [*asked, wanted]
            yield
        finally:
            with self._lock:
                self._put(me, before)
                self._asked[me] = asked
                if not asked:
                    del self._asked[me]

    def wanted(self) -> bool:
        """False where another thread has disabled what this one calls: no capture is safe from its calls any more."""
        return all(wanted() for wanted in self._asked.get(threading.get_ident(), ()))

    @contextlib.contextmanager
    def alone(self, modules: Iterable = ()) -> Iterator[None]:
        """For a capture of these modules: no other thread is inside, nor in a call of one of them that began before it
        was intercepted. Raises NotNow where such a call does not end within LIMIT seconds, or where this thread's own
        is of what was disabled meanwhile."""
        me = threading.get_ident()
        if self._capturing == me:
            yield
            return
        before = self._inside.get(me, 0)
        try:
            with self._lock:
                self._put(me, 0)
                self._to_capture.add(me)
                self._wait(lambda: self._capturing is None and not self._inside)
                self._capturing = me
                self._put(me, before)
            if not self.wanted():
                raise NotNow("it was disabled meanwhile")
            self._until_unused(set(map(id, modules)))
            yield
        finally:
            with self._lock:
                self._to_capture.discard(me)
                if self._capturing == me:
                    self._capturing = None
                self._put(me, before)
                self._changed.notify_all()

    def _until_unused(self, modules: set[int]) -> None:
        started = time.monotonic()
        while any(torch_export.is_in_call(frame, modules) for frame in self._running()):
            if time.monotonic() - started > LIMIT:
                raise NotNow(f"another thread has been in a call of it for {LIMIT} s that is older than enable()")
            time.sleep(PAUSE)

    def _running(self) -> list:
        """The innermost frames of the other threads that do not wait here: those do nothing before the capture ends."""
        frames = sys._current_frames()
        with self._lock:
            return [f for thread, f in frames.items() if thread != self._capturing and thread not in self._blocked]

    @contextlib.contextmanager
    def holding(self, lock) -> Iterator[None]:
        """With a reentrant lock; this thread is outside while it waits for it."""
        me = threading.get_ident()
        before = self._inside.get(me, 0)
        try:
            with self._lock:
                self._put(me, 0)
                self._blocked.add(me)
            with lock:
                with self._lock:
                    self._wait(lambda: self._capturing in (None, me))
                    self._put(me, before)
                yield
        finally:
            with self._lock:
                self._blocked.discard(me)
                self._put(me, before)

    def threads(self) -> int:
        """How many of the threads that are there have called a component."""
        with self._lock:
            return sum(t.is_alive() for t in self._seen)

    def _wait(self, may_go_on) -> None:
        me = threading.get_ident()
        self._blocked.add(me)
        try:
            while not may_go_on():
                self._changed.wait()
        finally:
            self._blocked.discard(me)

    def _put(self, me: int, depth: int) -> None:
        """This thread is so deep inside; the lock is held."""
        if depth:
            self._inside[me] = depth
        elif self._inside.pop(me, 0):
            self._changed.notify_all()


gate = Gate()
