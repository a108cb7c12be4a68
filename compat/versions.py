"""Which versions were tested, checked before anything is imported."""

from __future__ import annotations

import os
from importlib import metadata

from ..errors import UnsupportedVersion

TESTED = {
    "mindspore": ("2.7", "2.11"),
    "torch": ("2.6", "2.14"),
    "diffusers": ("0.42", "0.43"),
    "transformers": ("5.0", "6"),
    "numpy": ("1.20", "2"),
}
"""distribution → (first version, first version beyond), as in pyproject.toml."""

ESCAPE = "MS_CONTROLNET_ALLOW_UNTESTED"


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def problem(name: str) -> str | None:
    """What is wrong with the installed version of ``name``, with the command that mends it; None if nothing."""
    low, high = TESTED[name]
    wanted = f"{name}>={low},<{high}"
    version = installed(name)
    if version is None:
        return f"{name} is not installed: pip install '{wanted}'"
    if not _numbers(low) <= _numbers(version) < _numbers(high):
        return f"{name} {version} is outside the tested range: pip install '{wanted}'"
    return None


def require(*names: str) -> None:
    """Raise UnsupportedVersion unless all are in their tested ranges (or $MS_CONTROLNET_ALLOW_UNTESTED is set)."""
    problems = [p for p in map(problem, names) if p]
    if problems and not (os.environ.get(ESCAPE) and all(installed(n) for n in names)):
        raise UnsupportedVersion("; ".join(problems) + f" (to try all the same: export {ESCAPE}=1)")


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
        if not part.isdigit():
            break
    return tuple(parts)
