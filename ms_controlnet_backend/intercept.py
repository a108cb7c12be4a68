"""Takes over the ``forward`` of single modules, without touching the modules.

The class's ``forward`` is replaced by a dispatcher while at least one of its instances is intercepted; the dispatcher
sends an intercepted instance to its handler and every other one on as before. So instances stay as they are (copies,
pickles and ``state_dict`` know nothing of it), and taking the last one off restores the class's own function.
"""

from __future__ import annotations

import functools
import logging
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass

from .compat import accelerate_hooks, watchers

logger = logging.getLogger(__name__)


@dataclass
class _Patched:
    """original: what ``cls.forward`` was. own: did the class define it itself?"""

    original: Callable
    dispatcher: Callable
    own: bool


class Interceptor:
    """attribute: the method taken over."""

    def __init__(self, attribute: str = "forward"):
        self._attribute = attribute
        self._handlers: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._classes: dict[type, _Patched] = {}
        self._lock = threading.RLock()

    def attach(self, instance, handler: Callable) -> None:
        """From now on ``instance.forward(*args, **kwargs)`` is ``handler(original, args, kwargs)``."""
        with self._lock:
            if instance in self._handlers:
                self._handlers[instance] = (handler, self._handlers[instance][1])
                return
            cls = type(instance)
            if cls not in self._classes:
                self._patch(cls)
            patched = self._classes[cls]
            undo = accelerate_hooks.redirect(instance, patched.original, patched.dispatcher)
            if undo is False:
                logger.warning("%s.forward was replaced on the instance; it stays as it is", cls.__name__)
            self._handlers[instance] = (handler, undo or None)

    def detach(self, instance) -> None:
        with self._lock:
            entry = self._handlers.pop(instance, None)
            if entry is None:
                return
            if entry[1]:
                entry[1]()
            cls = type(instance)
            if not any(type(other) is cls for other in self._handlers):
                self._restore(cls)

    def attached(self) -> list:
        """The instances."""
        with self._lock:
            return list(self._handlers)

    def detach_all(self) -> None:
        with self._lock:
            for instance in self.attached():
                self.detach(instance)
            for cls in list(self._classes):  # instances may have died unseen
                self._restore(cls)

    def _patch(self, cls: type) -> None:
        original = getattr(cls, self._attribute)
        handlers = self._handlers

        @functools.wraps(original)
        def dispatcher(self, *args, **kwargs):
            if watchers.is_dynamo_compiling():  # constant where dynamo traces: it sees upstream's forward alone
                return original(self, *args, **kwargs)
            # a subclass that calls super().forward() must not be caught a second time
            entry = handlers.get(self) if type(self) is cls else None
            if entry is None:
                return original(self, *args, **kwargs)
            return entry[0](types.MethodType(original, self), args, kwargs)

        self._classes[cls] = _Patched(original, dispatcher, self._attribute in vars(cls))
        setattr(cls, self._attribute, dispatcher)

    def _restore(self, cls: type) -> None:
        patched = self._classes.pop(cls, None)
        if patched is None:
            return
        if vars(cls).get(self._attribute) is not patched.dispatcher:
            logger.warning("%s.%s was replaced by somebody else meanwhile and is left", cls.__name__, self._attribute)
        elif patched.own:
            setattr(cls, self._attribute, patched.original)
        else:
            delattr(cls, self._attribute)
