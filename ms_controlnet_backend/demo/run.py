"""Runs the demo's scripts, unmodified, on torch and on MindSpore, and says how far apart the pictures are."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..binding import device, disable, stats, using
from ..script import run_script
from . import model, scenes
from .judge import standing_out

SCRIPTS = {
    "txt2img": ("edges",),
    "img2img": ("edges", "photo"),
    "inpaint": ("edges", "hole", "photo"),
    "multi": ("edges", "mask"),
    "guess": ("edges",),
}
"""script → the pictures it takes; those of :data:`WORDLESS` are not told the prompt"""
WORDLESS = {"guess"}
BACKENDS = ("torch", "mindspore")
STEPPERS = ("unet", "controlnet")
DRAWING = scenes.Scene((scenes.Thing("star", "yellow", "plain", 64, 64, 38),), "blue", fading=False)


def run(output: Path, prompt: str | None = None, control: Path | None = None, steps: int = 10, device_name=None) -> int:
    """Write the pictures into ``output`` and print three lines a script. Returns the exit code.

    control: a picture of the user's to take edges and mask of, in place of a drawn star.
    """
    from tqdm import tqdm

    output.mkdir(parents=True, exist_ok=True)
    given = _inputs(control, output)
    print(f"device: {device(device=device_name)}")
    jobs = [(name, backend) for name in SCRIPTS for backend in BACKENDS]
    pictures, seconds = {}, {}
    try:
        for name, backend in (bar := tqdm(jobs, desc="demo", unit="script")):
            bar.set_postfix_str(f"{name} on {backend}")
            picture = output / f"{name}-{backend}.png"
            arguments = [model.folder(), *(given[kind] for kind in SCRIPTS[name]), picture, "--steps", steps]
            if prompt is not None and name not in WORDLESS:
                arguments += ["--prompt", prompt]
            before = _stepping()
            with using(backend, device=device_name if backend == "mindspore" else None):
                script = resources.files(__package__).joinpath("scripts", f"{name}.py")
                run_script(Path(str(script)), [str(a) for a in arguments])
            after = _stepping()
            pictures[name, backend] = picture
            calls = after[0] - before[0]
            seconds[name, backend] = (after[1] - before[1]) / calls if calls else float("nan")
    finally:
        disable()
    for name in SCRIPTS:
        largest, off = _distance(*(pictures[name, backend] for backend in BACKENDS))
        print(
            f"{name}: {pictures[name, 'mindspore']}\n"
            f"  time per step: {seconds[name, 'mindspore'] * 1000:.0f} ms (UNet and ControlNet, after compiling)\n"
            f"  distance from torch: at most {largest}/255, {off:.2%} of values off by more than 1/255"
        )
    print(f"all of them side by side: {_sheet(given, pictures, output / 'all.png')}")
    return 0


def _stepping() -> tuple[int, float]:
    """(UNet calls that did not compile, seconds in UNet and ControlNet)."""
    now = stats()
    unet = now.get("unet")
    return (unet.calls - unet.compiles if unet else 0, sum(now[n].seconds for n in STEPPERS if n in now))


def _inputs(chosen: Path | None, folder: Path) -> dict[str, Path]:
    """The photo and what is made of it: short side ``scenes.SIZE``, the long one at most twice. hole: to inpaint."""
    from PIL import Image, ImageFilter

    photo = Image.open(chosen).convert("RGB") if chosen else scenes.draw(DRAWING)
    scale = scenes.SIZE / min(photo.size)
    width, height = (min(2 * scenes.SIZE, round(side * scale / 8) * 8) for side in photo.size)
    photo = photo.resize((width, height))
    mask = Image.fromarray(standing_out(photo)).convert("RGB")
    hole = mask.filter(ImageFilter.MaxFilter(17))
    made = {"photo": photo, "edges": scenes.edge_map(photo), "mask": mask, "hole": hole}
    files = {}
    for kind, picture in made.items():
        picture.save(files.setdefault(kind, folder / f"{kind}.png"))
    return files


def _sheet(given: dict[str, Path], pictures: dict[tuple[str, str], Path], to: Path) -> Path:
    """The given pictures on the left, then a column a script and a row a backend."""
    from PIL import Image

    columns = [[given["photo"], given["edges"]]]
    columns += [[pictures[name, backend] for backend in BACKENDS] for name in SCRIPTS]
    width, height = Image.open(given["photo"]).size
    sheet = Image.new("RGB", (len(columns) * (width + 4), len(BACKENDS) * (height + 4)), "white")
    for x, column in enumerate(columns):
        for y, file in enumerate(column):
            sheet.paste(Image.open(file), (x * (width + 4), y * (height + 4)))
    sheet.save(to)
    return to


def _distance(a: Path, b: Path) -> tuple[int, float]:
    import numpy as np
    from PIL import Image

    x, y = (np.asarray(Image.open(p), np.int16) for p in (a, b))
    difference = np.abs(x - y)
    return int(difference.max()), float((difference > 1).mean())
