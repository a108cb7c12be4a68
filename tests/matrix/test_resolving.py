"""What ``pip install`` of this package would change in environments that real projects pin (it is resolved, and nothing
is installed): mindspore, pluggy and what those need come, and nothing of the project's changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PINS = {  # of their requirements, as of November 2026; torch: they have 2.0, which is too old for torch.export
    "Moore-AnimateAnyone": ["diffusers==0.24.0", "transformers==4.30.2"],
    "InstantID": ["diffusers==0.25.0", "transformers==4.36.2", "huggingface_hub==0.20.2"],
    "kohya-ss/sd-scripts": ["diffusers==0.25.0", "transformers==4.44.0", "huggingface_hub==0.24.5"],
    "xinsir6/ControlNetPlus": ["diffusers==0.27.2", "transformers==4.39.1", "huggingface_hub==0.25.2"],
    "apple/ml-stable-diffusion": ["diffusers==0.30.2", "transformers==4.44.2", "huggingface_hub==0.25.2"],
    "livepeer/StreamDiffusion": ["diffusers==0.35.0", "transformers==4.56.0", "huggingface_hub==0.35.0",
                                 "accelerate==1.10.0"],
}  # fmt: skip
ALL = ["torch==2.13.0", "numpy==1.26.4"]

pytestmark = pytest.mark.slow


def resolved(python, *arguments) -> dict[str, dict]:
    """Name → metadata of what pip would install."""
    command = [python, "-m", "pip", "install", "-q", "--dry-run", "--report", "-", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout[done.stdout.index("{") :])["install"]
    return {item["metadata"]["name"].lower().replace("_", "-"): item["metadata"] for item in found}


def write(site: Path, metadata: dict) -> None:
    """All that pip knows of an installed distribution."""
    folder = site / f"{metadata['name'].replace('-', '_')}-{metadata['version']}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {metadata['name']}", f"Version: {metadata['version']}"]
    lines += [f"Provides-Extra: {extra}" for extra in metadata.get("provides_extra", ())]
    lines += [f"Requires-Dist: {requirement}" for requirement in metadata.get("requires_dist", ())]
    (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "INSTALLER").write_text("pip\n")
    (folder / "RECORD").write_text("")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    files = listed or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file() and not {".venv"} & {*p.parts}]
    for file in files:
        if Path(file).parts[0] not in ("tests", "docs") and (ROOT / file).is_file():
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            (source / file).write_bytes((ROOT / file).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation", "-w",
                    folder, source], check=True)  # fmt: skip
    return next(folder.glob("*.whl"))


def environment(folder: Path, *pins: str) -> tuple[Path, dict]:
    """(a Python for which these are installed, with all they need: only their metadata are; name → metadata)"""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    installed = resolved(python, "--ignore-installed", *pins)
    site = next(folder.glob("lib/python*/site-packages"))
    for name, metadata in installed.items():
        if name not in ("pip", "setuptools"):
            write(site, metadata)
    return python, installed


IN_CI = list(PINS)[:3] + list(PINS)[4:]


@pytest.mark.parametrize("project", [pytest.param(p, marks=() if p in IN_CI else pytest.mark.long) for p in PINS])
def test_nothing_of_the_project_changes(tmp_path, wheel, project):
    python, installed = environment(tmp_path / "environment", *PINS[project], *ALL)
    new = resolved(python, wheel)
    assert {"ms-controlnet-backend", "mindspore", "pluggy"} <= new.keys()
    assert not {name: new[name]["version"] for name in new.keys() & installed.keys() - {"pip", "setuptools"}}


@pytest.mark.long
def test_the_extra_for_loras_resolves_with_every_transformers(tmp_path, wheel):
    for version in ("4.36.2", "5.24.0"):
        folder = tmp_path / version
        python, _ = environment(folder, f"transformers=={version}", "diffusers>=0.23", *ALL)
        new = resolved(python, f"{wheel}[lora]")
        assert "peft" in new and "transformers" not in new


def test_numpy_2_is_refused_by_the_metadata(tmp_path, wheel):
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", wheel, "numpy==2.1.2"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode and "numpy" in done.stderr and "conflict" in done.stderr


def resolved_for_aarch64(python, *requirements) -> dict[str, str]:
    """Name → file of the wheel that pip would install on such a machine."""
    command = [sys.executable, ROOT / "tests" / "aarch64" / "pip_for.py", python, "resolve", "-q", *requirements]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_aarch64(wheel, python):
    """Most Ascend servers have such processors. Nothing is built there: each wheel is for them, or for any machine."""
    files = resolved_for_aarch64(python, wheel)
    assert not {file for file in files.values() if not file.endswith(("-any.whl", "_aarch64.whl"))}
    for name in ("torch", "numpy", "safetensors", "tokenizers"):
        assert files[name].endswith("_aarch64.whl")
    # MindSpore's wheel for aarch64 says "any"; tests/aarch64/run.py looks into it
    assert files["mindspore"].endswith(f"-cp{python.replace('.', '')}-none-any.whl")


@pytest.mark.long
@pytest.mark.parametrize("torch, cuda", [("torch<2.11", False), ("torch>=2.11", True)])
def test_torch_without_cuda_for_aarch64(wheel, torch, cuda):
    """PyPI's builds for aarch64 are without CUDA up to torch 2.10, as the README says."""
    files = resolved_for_aarch64("3.11", wheel, torch)
    assert any(name.startswith("nvidia-") for name in files) == cuda
