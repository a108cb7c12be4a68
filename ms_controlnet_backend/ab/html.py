"""The report as one HTML file: pictures, plots and script inside it, nothing fetched."""

from __future__ import annotations

import base64
import io
from importlib import resources

import numpy as np
from PIL import Image

from ..errors import ExtraMissing
from . import table, verdict
from .report import Call, Report

AMPLIFIED = 16
HOW_TO_INSTALL = "the HTML report needs the extra 'report': pip install 'ms-controlnet-backend[report]'"


def render(report: Report) -> str:
    """The HTML text. Raises ExtraMissing without jinja2 and matplotlib."""
    require()
    import jinja2

    template = resources.files(__package__).joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)  # fmt: skip
    calls = [_call(report, i) for i in range(len(report.calls))]
    return environment.from_string(template).render(
        report=report, calls=calls, headline=table.headline(report), amplified=AMPLIFIED
    )


def require() -> None:
    """Raise ExtraMissing unless :func:`render` can work; to be asked before a long run, not after it."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ExtraMissing(f"{HOW_TO_INSTALL} (no module {error.name!r})") from None


def _call(report: Report, index: int) -> dict:
    from . import plots

    call = report.calls[index]
    last = [runs[-1] for side in call.sides if (runs := call.runs_of(side, "measured") or call.runs_of(side, "first"))]
    images = {
        "Error over steps": plots.errors_over_steps(call, verdict.tolerance(call.dtype).latents),
        "Components over time (last run of each side)": plots.timeline(last),
    }
    return {
        "title": table.call_title(report, index),
        "ok": call.ok,
        "complete": call.complete,
        "notes": call.notes,
        "errors": {side: _traceback(error) for side, error in call.errors.items()},
        "tolerance": verdict.tolerance(call.dtype).why,
        "sections": table.sections(call),
        "plots": {title: _uri(svg.encode(), "image/svg+xml") for title, svg in images.items() if svg},
        "pictures": _pictures(call),
    }


def _pictures(call: Call) -> list[dict]:
    found = []
    for p in call.pictures:
        same_size = p.reference.shape == p.other.shape
        apart = np.abs(p.other - p.reference) if same_size else None
        found.append({
            "index": p.index,
            "reference": _png(p.reference),
            "other": _png(p.other),
            "difference": None if apart is None else _png(apart * AMPLIFIED),
            "width": p.reference.shape[1],
            "defects": [f"{d} on {side}" for side, defects in p.defects.items() for d in defects],
        })  # fmt: skip
    return found


def _png(picture: np.ndarray) -> str:
    """A picture in 0 … 1 as a data URI; NaN is drawn magenta."""
    bad = ~np.isfinite(picture).all(axis=-1)
    levels = (np.nan_to_num(picture, nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1) * 255).round().astype(np.uint8)
    levels = np.repeat(levels, 3, axis=-1) if levels.shape[-1] == 1 else levels
    levels[bad] = (255, 0, 255)
    out = io.BytesIO()
    Image.fromarray(levels).save(out, "PNG")
    return _uri(out.getvalue(), "image/png")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
