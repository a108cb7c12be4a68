"""The figures as rows, for the terminal and for the HTML report."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from . import verdict
from .bisect import Found
from .report import Call, Report, component_times


@dataclass(frozen=True)
class Section:
    """title; header: column names; rows: of text."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def plain(report: Report) -> str:
    """The report as text in aligned columns: verdict first, then the figures of each call."""
    lines = [headline(report)]
    for i, call in enumerate(report.calls):
        lines += ["", call_title(report, i), *(f"note: {note}" for note in call.notes)]
        for section in sections(call):
            rows = [section.header, *section.rows] if section.rows else []
            widths = [max((len(row[k]) for row in rows), default=0) for k in range(len(section.header))]
            lines += ["", section.title]
            lines += ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def show(report: Report, file=None) -> None:
    """Print the report: with rich on a terminal where it is installed, plain otherwise."""
    file = file or sys.stdout
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        Console = None
    if Console is None or not file.isatty():
        print(plain(report), file=file)
        return
    console = Console(file=file)
    console.print(Text(headline(report), style="bold green" if report.ok else "bold red"))
    for i, call in enumerate(report.calls):
        console.print(Text(call_title(report, i), style="bold"))
        for note in call.notes:
            console.print(Text(f"note: {note}"))
        for section in sections(call):
            table = Table(*section.header, title=section.title, title_justify="left")
            for row in section.rows:
                table.add_row(*map(Text, row))
            console.print(table)


def headline(report: Report) -> str:
    """The verdict in one line."""
    reference, other = report.sides
    if report.problem:
        return f"nothing compared: {report.problem}"
    if report.interrupted:
        return f"PARTIAL (interrupted): {other} against {reference}, {len(report.calls)} call(s) begun"
    bad = [check for call in report.calls for check in call.checks if not check.ok]
    if report.ok:
        return f"same: {other} draws what {reference} draws ({len(report.calls)} call(s))"
    return f"DIFFERENT: {other} against {reference}: {_sentence(bad[0]) if bad else 'no call was compared'}"


def call_title(report: Report, index: int) -> str:
    call = report.calls[index]
    return f"call {index + 1} of {len(report.calls)}: {call.pipeline}, judged as {call.dtype}"


def _sentence(check) -> str:
    figure = f" {number(check.value)} (limit {number(check.limit)})" if check.value is not None else ""
    return f"{check.name}{figure}{': ' if check.detail else ''}{check.detail}"


def sections(call: Call) -> list[Section]:
    """Everything that is a table; empty ones left out."""
    figures = [_checks(call), _pictures(call), _steps(call), _components(call), _shadow(call), _cost(call)]
    found = [section for section in figures if section is not None and section.rows]
    if call.bisect is not None:  # its title says something even where no operator was compared
        found.insert(-1, _bisect(call.bisect))
    return found


def _checks(call: Call) -> Section:
    rows = [("ok" if c.ok else "FAILED", c.name, number(c.value), number(c.limit), c.detail) for c in call.checks]
    return Section("verdict", ("", "check", "value", "limit", ""), rows)


def _pictures(call: Call) -> Section:
    rows = []
    for p in call.pictures:
        d = p.distance
        found = "; ".join(f"{defect} on {side}" for side, defects in p.defects.items() for defect in defects)
        rows.append((str(p.index), number(d.psnr), number(d.ssim), number(d.max_abs), number(d.mean_abs),
                     f"{d.off:.3%}", found))  # fmt: skip
    header = ("picture", "PSNR dB", "SSIM", "max |diff|", "mean |diff|", "off > 1/255", "")
    return Section("pictures (levels of 0 … 1)", header, rows)


def _steps(call: Call) -> Section:
    growth = "" if call.growth is None else f"; grows by a factor of {call.growth:.2f} a step"
    rows = [(str(i), number(d.relative_rms), number(d.max_abs), number(d.cosine)) for i, d in enumerate(call.steps)]
    return Section(f"latents after each step{growth}", ("step", "relative RMS", "max |diff|", "cosine"), rows)


_PLACE = ("component", "calls", "worst at", "output", "relative RMS", "max |diff|", "cosine")


def _worst_rows(differences) -> list[tuple[str, ...]]:
    by_component: dict[str, list] = {}
    for d in differences:
        by_component.setdefault(d.place.component, []).append(d)
    rows = []
    for component, found in by_component.items():
        worst = max(found, key=lambda d: math.inf if not d.distance.finite else d.distance.relative_rms)
        calls = len({d.place.call for d in found})
        at = str(worst.place).partition(", ")[2]
        d = worst.distance
        rows.append((component, str(calls), at, str(worst.output), number(d.relative_rms) if d.finite else "NaN",
                     number(d.max_abs), number(d.cosine)))  # fmt: skip
    return rows


def _components(call: Call) -> Section:
    return Section("components, each side going on from its own", _PLACE, _worst_rows(call.differences))


def _shadow(call: Call) -> Section | None:
    if call.shadow is None:
        return None
    first = call.first_difference
    said = "none beyond tolerance" if first is None else f"first that differs: {first.place}, output {first.output}"
    return Section(f"components, from the same inputs; {said}", _PLACE, _worst_rows(call.shadow))


def _bisect(found: Found) -> Section:
    rows = []
    what, o = ("furthest off", found.worst) if found.first is None else ("first beyond tolerance", found.first)
    if o is not None:
        rows.append((what, o.overload, o.module, o.node, str(list(o.shape)), number(o.distance.relative_rms),
                     number(verdict.tolerance(o.dtype).operator), ""))  # fmt: skip
    rows += [("not compared", overload, "", "", "", "", "", why) for overload, why in found.refused.items()]
    title = f"operators, from the same inputs, {found.compared} compared: {found.conclusion}"
    return Section(title, ("", "operator", "in module", "node", "shape", "relative RMS", "limit", ""), rows)


def _cost(call: Call) -> Section:
    """Seconds, memory and counters, a column a side."""
    rows: list[tuple[str, ...]] = []
    first = {s: next(iter(call.runs_of(s, "first")), None) for s in call.sides}
    measured = {s: call.runs_of(s, "measured") for s in call.sides}

    def row(name, value):
        cells = [value(s) for s in call.sides]
        if any(c not in ("", "-") for c in cells):
            rows.append((name, *cells))

    def counter(run, name):
        return number(run.counters[name]) if run and name in run.counters else "-"

    def best(side, value):
        return number(min(map(value, measured[side]))) if measured[side] else "-"

    row("first call, s", lambda s: number(first[s].seconds) if first[s] else "-")
    row("of it compiling, s", lambda s: counter(first[s], "compile_seconds"))
    row("graphs compiled", lambda s: counter(first[s], "compiles"))
    row("later call, s", lambda s: best(s, lambda r: r.seconds))
    row(
        "step, s",
        lambda s: best(s, lambda r: sum(r.step_seconds) / len(r.step_seconds)) if _steps_in(measured[s]) else "-",
    )
    for component in dict.fromkeys(c for runs in measured.values() for r in runs for c in component_times(r)):
        row(
            f"{component}, s",
            lambda s, c=component: best(s, lambda r: component_times(r).get(c, {"seconds": 0.0})["seconds"]),
        )
    row("peak memory, MiB", lambda s: _mib(first[s].peak_bytes) if first[s] else "-")
    row("growth in first call, MiB", lambda s: _mib(first[s].growth_bytes) if first[s] else "-")
    if any(run and run.device_bytes is not None for run in first.values()):
        row("on the device, MiB", lambda s: _mib(first[s].device_bytes) if first[s] else "-")
    shown = {"compiles", "compile_seconds", "seconds"}
    last = {s: (measured[s] or [first[s]])[-1] for s in call.sides}
    for name in dict.fromkeys(n for r in last.values() if r for n in r.counters):
        if name not in shown and any(r and r.counters.get(name) for r in last.values()):
            row(f"{name.replace('_', ' ')}, last run", lambda s, n=name: counter(last[s], n))
    return Section("cost (seconds: the best of the measured runs)", ("", *call.sides), rows)


def _steps_in(runs) -> bool:
    return bool(runs) and all(r.step_seconds for r in runs)


def _mib(n: int | None) -> str:
    return "-" if n is None else f"{n / 2**20:.0f}"


def number(x: float | None) -> str:
    """Three significant digits; a dash for what was not measured."""
    if x is None:
        return "-"
    if not math.isfinite(x):
        return "NaN" if x != x else str(x)
    if x == int(x) and abs(x) < 1e6:
        return str(int(x))
    return f"{x:.3g}" if abs(x) < 1000 else f"{x:.0f}"
