"""Runs the demo's scripts, unmodified, on torch and on MindSpore, and says how far apart the pictures are."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..binding import device, disable, stats, using
from ..runtime.source_cache import default_folder
from ..script import run_script
from . import model

SCRIPTS = ("txt2img", "img2img", "inpaint")
STEPPERS = ("unet", "controlnet")


def run(output: Path, prompt: str | None = None, control: Path | None = None, steps: int = 8, device_name=None) -> int:
    """Write the pictures into ``output`` and print three lines a script. Returns the exit code.

    control: a picture of the user's to take the edges of, in place of the bundled drawing.
    """
    from tqdm import tqdm

    output.mkdir(parents=True, exist_ok=True)
    folder = model.ensure(default_folder() / f"demo-{model.SEED}")
    photo = _photo(control, output / "photo.png")
    edges = _edge_map(photo, output / "control.png")
    print(f"device: {device(device=device_name)}")
    jobs = [(name, backend) for name in SCRIPTS for backend in ("torch", "mindspore")]
    pictures, seconds = {}, {}
    try:
        for name, backend in (bar := tqdm(jobs, desc="demo", unit="script")):
            bar.set_postfix_str(f"{name} on {backend}")
            picture = output / f"{name}-{backend}.png"
            arguments = [str(a) for a in (folder, edges, photo, picture, "--steps", steps)]
            if prompt is not None:
                arguments += ["--prompt", prompt]
            before = _stepping()
            with using(backend, device=device_name if backend == "mindspore" else None):
                run_script(Path(str(resources.files(__package__).joinpath("scripts", f"{name}.py"))), arguments)
            after = _stepping()
            pictures[name, backend] = picture
            calls = after[0] - before[0]
            seconds[name, backend] = (after[1] - before[1]) / calls if calls else float("nan")
    finally:
        disable()
    for name in SCRIPTS:
        largest, off = _distance(pictures[name, "torch"], pictures[name, "mindspore"])
        print(
            f"{name}: {pictures[name, 'mindspore']}\n"
            f"  time per step: {seconds[name, 'mindspore'] * 1000:.0f} ms (UNet and ControlNet, after compiling)\n"
            f"  distance from torch: at most {largest}/255, {off:.2%} of values off by more than 1/255"
        )
    return 0


def _stepping() -> tuple[int, float]:
    """(UNet calls that did not compile, seconds in UNet and ControlNet)."""
    now = stats()
    unet = now.get("unet")
    return (unet.calls - unet.compiles if unet else 0, sum(now[n].seconds for n in STEPPERS if n in now))


def _photo(chosen: Path | None, to: Path) -> Path:
    from PIL import Image

    source = chosen or Path(str(resources.files(__package__).joinpath("assets", "drawing.png")))
    picture = Image.open(source).convert("RGB")
    width, height = (max(64, min(512, side) // 8 * 8) for side in picture.size)
    picture.resize((width, height)).save(to)
    return to


def _edge_map(photo: Path, to: Path) -> Path:
    """White where the Sobel gradient of the luminance is strong."""
    import numpy as np
    from PIL import Image

    grey = np.asarray(Image.open(photo).convert("L"), np.float32)
    padded = np.pad(grey, 1, mode="edge")
    smooth_rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    smooth_columns = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    gradient = np.hypot(smooth_rows[:, 2:] - smooth_rows[:, :-2], smooth_columns[2:] - smooth_columns[:-2])
    edges = (gradient > 120).astype(np.uint8) * 255
    Image.fromarray(np.repeat(edges[..., None], 3, axis=2)).save(to)
    return to


def _distance(a: Path, b: Path) -> tuple[int, float]:
    import numpy as np
    from PIL import Image

    x, y = (np.asarray(Image.open(p), np.int16) for p in (a, b))
    difference = np.abs(x - y)
    return int(difference.max()), float((difference > 1).mean())
