"""Which versions of the packages this one stands on work, and which were tested."""

from __future__ import annotations

import functools
import logging
from importlib import metadata
from typing import NamedTuple

from ..errors import UnsupportedVersion

logger = logging.getLogger(__name__)


class Range(NamedTuple):
    """first, tested: the oldest and the newest that the tests ran with; others are tried. needs: older ones are known
    not to work, ``""`` if none is known. why: what is known of them. beyond: from here on known not to work, ``""`` if
    no such version is known. way_out: what to do with one from ``beyond`` on."""

    first: str
    tested: str
    needs: str = ""
    why: str = ""
    beyond: str = ""
    way_out: str = ""

    def requirement(self, name: str) -> str:
        return f"{name}>={self.first}" + (f",<{self.beyond}" if self.beyond else "")


RANGES = {
    "mindspore": Range("2.7", "2.10"),
    "torch": Range("2.5", "2.15", needs="2.5", why="its torch.export lacks what is needed: 2.3 and 2.4 were tried"),
    "diffusers": Range("0.23", "0.42"),
    "transformers": Range("4.27", "5.24"),
    "numpy": Range("1.20", "1.26", beyond="2", way_out=(
        "does not work with MindSpore's wheels, which are built against NumPy 1: pip install 'numpy<2' in an "
        "environment of its own, if your project needs NumPy 2 elsewhere")),
}  # fmt: skip
"""By distribution; the requirements in pyproject.toml."""


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def problem(name: str) -> str | None:
    """Why the installed version of ``name`` cannot work, and the nearest that does; None if it can."""
    known, version = RANGES[name], installed(name)
    if version is None:
        return f"{name} is not installed: pip install '{known.requirement(name)}'"
    if known.beyond and numbers(version) >= numbers(known.beyond):
        return f"{name} {version} {known.way_out}"
    if numbers(version) < numbers(known.needs):
        return f"{name} {version} is too old ({known.why}); the nearest that works is {name} {known.first}"
    return None


def untested(name: str) -> str | None:
    """What to say of an installed version that is older or newer than all that were tested; None if it is not."""
    known, version = RANGES[name], installed(name)
    if version is None or problem(name):
        return None
    digits = numbers(known.tested)
    if numbers(version) < numbers(known.first):
        than = "older"
    elif numbers(version)[: len(digits)] > digits:
        than = "newer"
    else:
        return None
    return f"{name} {version} is {than} than what was tested ({name} {known.first} to {known.tested}); going on with it"


def require(*names: str) -> None:
    """Raises UnsupportedVersion if one is missing or known not to work; warns once of one that was not tested."""
    problems = [p for p in map(problem, names) if p]
    if problems:
        raise UnsupportedVersion("; ".join(problems))
    for said in filter(None, map(untested, names)):
        _warn(said)


@functools.cache
def _warn(said: str) -> None:
    logger.warning(said)


def numbers(version: str) -> tuple[int, ...]:
    """``(2, 13, 0)`` of ``"2.13.0+cpu"``."""
    parts = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        parts.append(int(digits))
        if not part.isdigit():
            break
    return tuple(parts)
