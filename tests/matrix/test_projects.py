"""Programs in the manner of real projects of 2023 and 2024, with the versions these pin (``sets.PROJECTS``) and, where
upstream still runs them, with the newest: the same pictures as on torch, and nothing stays on torch unsaid."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import script_checkpoints
import upstream
from test_scripts import Results

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from sets import PROJECTS, SETS, is_installed  # noqa: E402

SAID = {  # what may be warned of: (component, why)
    "instantid": [("image_proj_model", "has no adapter and stays on torch")],
    "ip_adapter_repository": [("unet", "foreign code changes attn_map while it runs")],
    "controlnet_guide": [],
    "reference_only": [("unet", "parts, 100.0% of its parameters compiled")],
    "kohya_network": [],
    "animate_anyone": [
        ("pose_guider", "has no adapter and stays on torch"),
        ("reference_unet", "foreign code changes "),
        ("denoising_unet", "parts, 100.0% of its parameters compiled"),
    ],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def results(tmp_path_factory, cache_folder):
    return Results(script_checkpoints.write(tmp_path_factory.mktemp("projects")))


@pytest.mark.parametrize("name", SAID)
def test_project(results, monkeypatch, name):
    for variable in ("OMP_NUM_THREADS", "MS_CONTROLNET_THREADS"):
        monkeypatch.setenv(variable, "1")
    for number, side in enumerate(("torch", "mindspore")):
        results.run([f"{side}:{HERE / 'projects' / name}.py"], number)
    theirs, ours = results.report("torch", name), results.report("mindspore", name)
    pictures = {side: results.pictures(side, name) for side in ("torch", "mindspore")}
    if not any(name in projects and is_installed(SETS[pinning]) for pinning, projects in PROJECTS.items()):
        upstream.needs_what_torch_can(theirs["error"], ours["error"])
    assert theirs["error"] is None and ours["error"] is None, ours["error"]
    assert pictures["torch"].keys() == pictures["mindspore"].keys() and len(pictures["torch"]) >= 3
    for file, picture in pictures["torch"].items():
        off = np.abs(pictures["mindspore"][file] - picture)
        assert picture.std() > 10 and (off <= 1).mean() >= 0.999, f"{file}: {off.mean():.3f}, {off.max()} at most"
    for one, other in itertools.combinations(pictures["torch"].values(), 2):
        assert np.abs(one - other).max() > 8, "what the program changes changes nothing"
    assert all(s["calls"] and not s["fallbacks"] for s in ours["stats"].values())
    unsaid = [w for w in ours["warnings"] if not any(w.startswith(f"{c} ") and why in w for c, why in SAID[name])]
    assert not unsaid and all(any(w.startswith(f"{c} ") for w in ours["warnings"]) for c, _ in SAID[name])
