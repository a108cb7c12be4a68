"""Scripts as users write them, run unmodified by ``ms-controlnet run``; their pictures are those of plain torch.

What they call is checked in test_scripts_coverage.py. Each is run by script_runner.py, on both sides, in processes that
take one script after the other; some once more by the command in a process of their own, as a user would.
"""

import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import script_checkpoints
import script_runner
import upstream

HERE = Path(__file__).parent
SCRIPTS = sorted(p.stem for p in (HERE / "scripts").glob("*.py"))
COMMAND = Path(sys.executable).with_name("ms-controlnet")
BY_COMMAND = ["sd_canny_offload", "xl_inpaint"]
BENT = ["sd_depth_cuda", "sd_canny_offload"]  # in float32 and in float16
ON_TORCH = {  # components that stay on torch, and what the one warning says
    "xl_ip_adapter": {"image_encoder": "gradients are enabled and wanted"},  # called outside the pipeline's no_grad
}
SAME_TWICE = {"sd_save_and_reload"}  # saved, loaded, drawn again

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def source(name: str) -> Path:
    return HERE / "scripts" / f"{name}.py"


class Results:
    """folder/side/script/: pictures and report.json."""

    def __init__(self, folder: Path):
        self.folder = folder

    def report(self, side: str, name: str) -> dict:
        file = self.folder / side / name / "report.json"
        assert file.exists(), "its process died:\n" + self.log(side, name)
        return json.loads(file.read_text())

    def log(self, side: str, name: str) -> str:
        for log in self.folder.glob("*.log"):
            jobs = (text := log.read_text(errors="replace")).partition("\n")[0]
            if f"{side}:" in jobs and f"/{name}.py" in jobs:
                return text[-3000:]
        return ""

    def pictures(self, side: str, name: str) -> dict[str, np.ndarray]:
        files = (self.folder / side / name).glob("*.png")
        return {p.name: np.asarray(PIL.Image.open(p).convert("RGB"), int) for p in files}

    def run(self, jobs: list[str], number: int) -> None:
        """One process for "side:script" jobs."""
        with open(self.folder / f"{number}.log", "w") as log:
            print(*jobs, file=log, flush=True)
            command = [sys.executable, HERE / "script_runner.py", self.folder, *jobs]
            subprocess.run(command, stdout=log, stderr=log, check=False)

    def run_command(self, name: str) -> None:
        """The command a user types, in a process of its own."""
        place = script_runner.workplace(self.folder, "command", source(name))
        done = subprocess.run([COMMAND, "run", "-v", source(name)], cwd=place, capture_output=True, text=True)
        report = {"error": f"exit code {done.returncode}\n{done.stderr}" if done.returncode else None}
        (place / "report.json").write_text(json.dumps(report | {"log": done.stderr}))


@pytest.fixture(scope="module")
def results(request, tmp_path_factory, cache_folder):
    """What the selected tests need, run side by side on the cores there are."""
    results = Results(script_checkpoints.write(tmp_path_factory.mktemp("scripts")))
    jobs = {"torch": set(), "mindspore": set(), "bent": set(), "command": set()}
    for item in request.session.items:
        if getattr(item, "module", None) is request.module:
            for side in ("torch", item.function.side):
                jobs[side].add(item.callspec.params["name"])
    cores = min(4, max(2, len(os.sched_getaffinity(0))))  # a process needs about 1.5 GB
    ours = [f"{side}:{source(name)}" for side in ("mindspore", "bent") for name in sorted(jobs[side])]
    shares = [[f"torch:{source(name)}" for name in sorted(jobs["torch"])], *(ours[i::cores] for i in range(cores))]
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(cores) as pool:
        for variable in ("OMP_NUM_THREADS", "MS_CONTROLNET_THREADS"):
            patch.setenv(variable, "1")
        running = [pool.submit(results.run, share, number) for number, share in enumerate(shares) if share]
        running += [pool.submit(results.run_command, name) for name in sorted(jobs["command"])]
        for one in running:
            one.result()
    return results


def on(side: str):
    """Marks a test: it needs the script's run on this side."""

    def mark(function):
        function.side = side
        return function

    return mark


def is_half(name: str) -> bool:
    return "float16" in source(name).read_text()


def close(name: str, ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Pictures of values 0 … 255. Ours computes float16 scripts in float32: then only float16's own rounding sets them
    apart. Measured on all of these scripts: torch's float16 pictures are 0.06 to 0.23 on average and 4 at most (0.1 %
    of values by more than 2) from torch's float32 pictures, and ours just as far from torch's float16 ones."""
    off = np.abs(ours - theirs)
    if is_half(name):
        return (off <= 2).mean() >= 0.995 and off.mean() <= 0.4
    return (off <= 1).mean() >= 0.999


def assert_same_pictures(results: Results, side: str, name: str) -> None:
    ours, theirs = results.pictures(side, name), results.pictures("torch", name)
    assert ours.keys() == theirs.keys() and theirs
    for file, picture in theirs.items():
        assert picture.std() > 10, "a picture of nothing"
        off = np.abs(ours[file] - picture)
        assert close(name, ours[file], picture), f"{file}: {off.mean():.3f} on average, {off.max()} at most"


@on("mindspore")
@pytest.mark.parametrize("name", SCRIPTS)
def test_same_pictures(results, name):
    """… with every component on MindSpore from the first call to the last, save those of ON_TORCH."""
    report, plain = results.report("mindspore", name), results.report("torch", name)
    upstream.needs_what_torch_can(plain["error"], report["error"])
    assert plain["error"] is None and report["error"] is None, report["error"]
    stats, drawn = report["stats"], list(results.pictures("torch", name).values())
    graphs, seconds = (sum(s[key] for s in stats.values()) for key in ("compiles", "compile_seconds"))
    print(f"{report['seconds']:.1f} s, {seconds:.1f} s of them compiling {graphs} graphs; "
          f"processor time {report['processor_seconds']:.1f} s")  # fmt: skip
    assert stats["unet"]["calls"] >= 4 and stats["vae.decoder"]["calls"] >= 1
    assert any(label.startswith(("controlnet", "adapter")) and s["calls"] for label, s in stats.items())
    excused = ON_TORCH.get(name, {})
    assert {label for label, s in stats.items() if s["fallbacks"]} == set(excused), report["warnings"]
    assert len(report["warnings"]) == len(excused)
    for warning, (label, reason) in zip(report["warnings"], excused.items()):
        assert warning.startswith(f"{label} stays on torch: ") and reason in warning
    assert_same_pictures(results, "mindspore", name)
    for a, b in itertools.combinations(drawn, 2):
        assert name in SAME_TWICE or np.abs(a - b).max() > 2, "what the script changes changes nothing"


@on("command")
@pytest.mark.parametrize("name", BY_COMMAND)
def test_by_the_command(results, name):
    report = results.report("command", name)
    assert report["error"] is None, report["error"]
    assert "unet compiled" in report["log"] and "stays on torch" not in report["log"]
    assert_same_pictures(results, "command", name)


@on("bent")
@pytest.mark.parametrize("name", BENT)
def test_a_wrong_lowering_is_seen(results, name):
    assert results.report("bent", name)["error"] is None
    ours, theirs = results.pictures("bent", name), results.pictures("torch", name)
    assert ours.keys() == theirs.keys()
    assert not any(close(name, ours[file], theirs[file]) for file in theirs)

