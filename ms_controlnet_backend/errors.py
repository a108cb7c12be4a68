"""Errors raised by the backend; each message says what to do."""

from .interruptions import raise_if_scripts


class BackendError(RuntimeError):
    """Base class of every error this package raises on purpose."""


class UnknownBackend(BackendError, ValueError):
    """A backend name that no plugin registered."""


class UnknownDevice(BackendError, ValueError):
    """A device name the backend does not know."""


class UnknownRewrite(BackendError, ValueError):
    """A graph pass or rewrite that is to be left out and does not exist."""


class DeviceUnavailable(BackendError):
    """A known device that this machine (or this MindSpore build) does not have."""


class UnsupportedVersion(BackendError):
    """A dependency outside the tested range."""


class RegistrationError(BackendError):
    """Two plugins register the same thing, or a registration that can never be found."""


class Refused(BackendError):
    """A component cannot be compiled; it stays on torch, or with ``strict=True`` this is raised."""


class Forked(BackendError):
    """The process was forked from one in which MindSpore computes: it cannot here."""


class NotNow(Refused):
    """A single call cannot be answered by a graph."""


class DeviceFailed(Refused):
    """The device is at fault and not the graph: its memory is full, or it reports an error. To compile it otherwise, or
    in parts, does not help."""


class NotLowered(Refused):
    """An operator cannot be compiled; the graph could be cut there."""


class Unsupported(Refused):
    """A lowering met arguments it does not implement."""


class ExtraMissing(BackendError):
    """Something asked for needs an optional extra that is not installed."""


def first_line(error: Exception) -> str:
    """Of its message."""
    return (str(error).strip().splitlines() or [""])[0]


def without_frames(error: Exception) -> Exception:
    """What is kept of an error must not keep the modules alive that it passed through."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    return error


def naming(reason: Refused, label: str) -> Refused:
    """The same error, whose message names the component."""
    if label not in str(reason):
        reason.args = (f"{label}: {reason}",)
    return reason


def refusal(error: Exception) -> Refused:
    """The error itself, or a Refused that names it: what cannot be compiled, for whatever reason, stays on torch.
    Raises what is the script's own."""
    raise_if_scripts(error)
    if isinstance(error, Refused):
        return error
    return Refused(f"unexpected {type(error).__name__}: {first_line(error)}")
