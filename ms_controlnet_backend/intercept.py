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
from .compat.replacements import original_of, stands_for

logger = logging.getLogger(__name__)


def is_own(instance, method, name: str = "forward") -> bool:
    """Is a bound method that of the instance's class, and not one that was put on the instance?"""
    if getattr(method, "__self__", None) is not instance:
        return False
    return original_of(getattr(method, "__func__", None)) is original_of(getattr(type(instance), name))


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
            self._handlers[instance] = (handler, self._uncover(instance, patched))

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

    def has(self, instance) -> bool:
        return instance in self._handlers

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

    def reaches(self, instance) -> bool:
        """Is the handler of an attached instance asked when the instance's method is called?"""
        with self._lock:
            handler, undo = self._handlers[instance]
            patched = self._classes.get(type(instance))
            if patched is None or not _is_hidden(instance, self._attribute, patched):
                return True
            undo = self._uncover(instance, patched)
            self._handlers[instance] = (handler, undo)
            return undo is not None

    def _uncover(self, instance, patched: _Patched):
        """Where a wrapper on the instance, or the instance itself, keeps the class's own method, it gets the
        dispatcher. Returns what undoes it, or None."""
        if self._attribute != "forward":
            return None
        kept = vars(instance).get("forward")
        if isinstance(kept, types.MethodType) and kept.__self__ is instance and kept.__func__ is patched.original:
            instance.forward = types.MethodType(patched.dispatcher, instance)
            own = weakref.ref(instance)  # whoever drops the instance wants its memory back

            def undo():
                if (m := own()) is not None and getattr(vars(m).get("forward"), "__func__", None) is patched.dispatcher:
                    m.forward = types.MethodType(patched.original, m)

            return undo
        return accelerate_hooks.redirect(instance, patched.original, patched.dispatcher) or None

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

        stands_for(dispatcher, original)
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


def _is_hidden(instance, attribute: str, patched: _Patched) -> bool:
    """Does an attribute of the instance take the place of the class's method?"""
    own = vars(instance).get(attribute)
    if own is None or getattr(own, "__func__", None) is patched.dispatcher:
        return False
    kept = vars(instance).get("_old_forward")  # accelerate's
    return getattr(kept, "__func__", None) is not patched.dispatcher
