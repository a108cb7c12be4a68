"""Exceptions that a script raises into whatever its process is at: in a signal handler (a time limit, a cancelled
request) or in another thread (``PyThreadState_SetAsyncExc``). They are the script's wherever they fall, also where what
ran was tracing or compiling, whose own errors are answered by torch.
"""

from __future__ import annotations

import dis
import inspect
import types
from collections.abc import Iterator

from .compat import libraries

_RAISING = ("RAISE_VARARGS", "RERAISE")


def raise_if_scripts(error: BaseException) -> None:
    """Raise what the script raised into the code that ended with this error, if it did."""
    for e in _chain(error):
        frames = list(_frames(e))
        if _in_a_handler(frames) or _from_outside(e, frames):
            raise e


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        e = waiting.pop()
        if e is not None and id(e) not in seen:
            seen.add(id(e))
            yield e
            waiting += [e.__context__, e.__cause__]


def _frames(error: BaseException) -> Iterator[tuple[types.FrameType, int]]:
    """The frames it passed through, the innermost last, and the instruction of each."""
    tb = error.__traceback__
    while tb is not None:
        yield tb.tb_frame, tb.tb_lasti
        tb = tb.tb_next


def _in_a_handler(frames: list) -> bool:
    """Python calls a signal handler with a number and the frame that it interrupts."""
    for (caller, _), (called, _) in zip(frames, frames[1:]):
        code, values = called.f_code, called.f_locals
        given = [values.get(n) for n in code.co_varnames[: code.co_argcount]]
        if code.co_flags & inspect.CO_VARARGS:
            given += values.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount], ())
        if any(isinstance(a, int) and b is caller for a, b in zip(given, given[1:])):
            return True
    return False


def _from_outside(error: BaseException, frames: list) -> bool:
    """Is its type one that only Python code raises, and none of the frames raised it?"""
    cls = type(error)
    package = cls.__module__.partition(".")[0]
    if not frames or (package in libraries.LIBRARIES and cls is not TimeoutError):
        return False
    frame, at = frames[-1]
    return _operation(frame.f_code, at) not in _RAISING


def _operation(code: types.CodeType, at: int) -> str:
    return next((i.opname for i in dis.get_instructions(code) if i.offset == at), "")
