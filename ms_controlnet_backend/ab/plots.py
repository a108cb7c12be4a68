"""The report's plots, as SVG documents drawn by matplotlib without a display."""

from __future__ import annotations

import io
import math

from .recording import Run
from .report import Call


def errors_over_steps(call: Call, limit: float) -> str | None:
    """Relative RMS error of the latents after each step, and of components by step where a shadow run was made; None
    without steps."""
    if not call.steps:
        return None
    figure, axes = _figure(3.2)
    _line(axes, "latents, each side on its own", [(i, d.relative_rms) for i, d in enumerate(call.steps)])
    by_component: dict[str, dict[int, float]] = {}
    for d in call.shadow or ():
        if d.place.step is not None:
            points = by_component.setdefault(d.place.component, {})
            points[d.place.step] = max(points.get(d.place.step, 0.0), d.distance.relative_rms)
    for component, points in by_component.items():
        _line(axes, f"{component}, same inputs", sorted(points.items()))
    axes.axhline(limit, color="#b00", linewidth=1, linestyle="--", label=f"latents' tolerance {limit:g}")
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("relative RMS error")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(fontsize=8)
    return _svg(figure)


def _line(axes, label: str, points) -> None:
    shown = [(x, y) for x, y in points if math.isfinite(y) and y > 0]  # a logarithm shows no zero, and no NaN
    lost = len(list(points)) - len(shown)
    axes.plot(*zip(*shown) if shown else ([], []), marker="o", markersize=3,
              label=label + (f" ({lost} points 0 or not finite)" if lost else ""))  # fmt: skip


def timeline(runs: list[Run]) -> str | None:
    """When which component ran, a band a run; None without components."""
    runs = [run for run in runs if run.events]
    if not runs:
        return None
    components = list(dict.fromkeys(e.place.component for run in runs for e in run.events))
    figure, axes = _figure(0.8 + 0.28 * len(components) * len(runs))
    names = []
    for i, run in enumerate(runs):
        for component in components:
            bars = [(e.start, e.seconds) for e in run.events if e.place.component == component]
            axes.broken_barh(bars, (len(names) - 0.4, 0.8), facecolors=f"C{i}")
            names.append(f"{component} ({run.backend})")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("seconds since the call began")
    return _svg(figure)


def _figure(height: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()
