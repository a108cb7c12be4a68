"""What was found: findings in stages, their texts, and what is not to be told."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from ..compat import versions

FORMAT = 2
"""Of the report."""


@dataclass
class Finding:
    """One thing that was verified. error: relative root mean square of the difference from torch; limit: what it may
    be. seconds: of an operator with its compilation, of a component's call without. problem: what was raised, or what
    else is wrong. lost: whether the process came to its end, or to no end, by it."""

    name: str
    dtype: str
    ok: bool
    error: float | None = None
    limit: float | None = None
    seconds: float = 0.0
    problem: str = ""
    lost: bool = False

    def line(self) -> str:
        known = self.error is not None
        figures = f" error {self.error:.1e} (limit {self.limit:.0e}), {self.seconds:.3g} s" if known else ""
        problem = f" {self.problem}" if self.problem else ""
        return f"  {' ' if self.ok else '!'} {self.name} {self.dtype}{figures}{problem}"


@dataclass
class Report:
    """device: in one line. machine: what ``doctor`` says of it, problems: what it finds wrong. opened: whether the
    device computes at all. untried: what there was no time for. advice: at most three lines, what is wrong and what to
    do."""

    device: str
    machine: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    opened: list[Finding] = field(default_factory=list)
    operators: list[Finding] = field(default_factory=list)
    components: list[Finding] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def findings(self) -> list[Finding]:
        return self.opened + self.operators + self.components

    @property
    def ok(self) -> bool:
        return bool(self.operators or self.components) and all(f.ok for f in self.findings) and not self.untried

    def to_dict(self) -> dict:
        """Without the paths of this machine."""
        installed = {name: versions.installed(name) for name in versions.RANGES}
        machine = [line for line in self.machine if not line.startswith("cache ")]
        told = {"format": FORMAT, "ok": self.ok, "versions": installed, **asdict(self), "machine": machine}
        return _without_paths(told)

    def lines(self) -> list[str]:
        """The whole as text."""
        text = [f"device        {self.device}", *self.machine, *(f"problem       {p}" for p in self.problems), ""]
        text += [f.line() for f in self.opened if not f.ok]
        for title, findings in (("operators", self.operators), ("components", self.components)):
            if not findings:
                continue
            wrong = [f for f in findings if not f.ok]
            text += [f"{title}: {len(findings) - len(wrong)} of {len(findings)} as torch's"]
            text += [f.line() for f in (wrong if title == "operators" else findings)]
        text += [f"not tried: {', '.join(self.untried)}"] if self.untried else []
        verdict = "VERIFIED" if self.ok else "NOT VERIFIED: what is marked with ! differs, fails, or was not tried"
        return [*text, "", verdict, *self.advice]


def _without_paths(value):
    if isinstance(value, dict):
        return {key: _without_paths(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_without_paths(v) for v in value]
    return re.sub(r"(?:~|\.{1,2})?(?:/[^\s/:'\",;()\[\]]+)+/?", _last, value) if isinstance(value, str) else value


def _last(path: re.Match) -> str:
    """A path's last part; a word with a stroke in it is none."""
    text = path[0]
    return text if text.startswith("/") and text.count("/") == 1 else f"…/{text.rstrip('/').rpartition('/')[2]}"
