"""The training logs as one picture. Needs matplotlib (``pip install 'ms-controlnet-backend[report]'``)."""

from __future__ import annotations

import json
from pathlib import Path

STAGES = ("autoencoder", "decoder", "diffusion")


def curve(folder: Path) -> Path:
    """FOLDER/curve.png of the logs in the folder: a panel a stage, a line a part of its loss."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(STAGES), figsize=(13, 3.6))
    for stage, panel in zip(STAGES, panels, strict=True):
        lines = [json.loads(line) for line in (folder / f"{stage}.jsonl").read_text().splitlines()]
        for name in sorted({key for line in lines for key in line} - {"step"}):
            points = [(line["step"], line[name]) for line in lines if name in line]
            panel.plot(*zip(*points, strict=True), label=name)
        panel.set(title=stage, xlabel="step", ylabel="loss", yscale="log")
        panel.legend()
    figure.tight_layout()
    figure.savefig(folder / "curve.png", dpi=80)
    pyplot.close(figure)
    return folder / "curve.png"
