"""The command, as a user types it."""

import logging
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from ms_controlnet_backend.compat import torch_npu_version, versions

from ms_controlnet_backend import cli

COMMAND = [sys.executable, "-m", "ms_controlnet_backend.cli"]


def run(*arguments, cwd, code=0):
    done = subprocess.run([*COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


SCRIPT = """
import sys
from helper import NAME                      # a module beside the script
import diffusers, torch
assert __name__ == "__main__" and sys.argv[1:] == ["--its", "args"], sys.argv
from diffusers import UNet2DConditionModel, DiffusionPipeline

class Pipeline(DiffusionPipeline):
    def __init__(self, unet):
        super().__init__()
        self.register_modules(unet=unet)

unet = UNet2DConditionModel(block_out_channels=(8, 8), layers_per_block=1, sample_size=8, norm_num_groups=2,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=8, attention_head_dim=4).eval()
pipe = Pipeline(unet)
with torch.no_grad():
    print(NAME, pipe.unet(torch.randn(1, 4, 8, 8), 3, torch.randn(1, 5, 8)).sample.shape)
"""


def test_run(tmp_path):
    (tmp_path / "helper.py").write_text("NAME = 'helped'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    out, err = run("run", "--strict", "-v", tmp_path / "script.py", "--its", "args", cwd=tmp_path)
    assert "helped torch.Size([1, 4, 8, 8])" in out
    assert "unet compiled" in err


def test_run_on_torch_compiles_nothing(tmp_path):
    (tmp_path / "helper.py").write_text("NAME = 'helped'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    out, err = run("run", "--backend", "torch", "-v", tmp_path / "script.py", "--its", "args", cwd=tmp_path)
    assert "helped" in out and "compiled" not in err


def test_run_passes_on_the_scripts_failure(tmp_path):
    (tmp_path / "script.py").write_text("import sys; sys.exit(7)\n")
    run("run", tmp_path / "script.py", cwd=tmp_path, code=7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run", "absent.py"], "no script absent.py"),
        (["run", "--device", "tpu", __file__], "unknown device 'tpu'"),
        (["run", "--device", "ascend", __file__], "no Ascend device here"),
        (["run", "--backend", "onnx", __file__], "no backend named 'onnx'"),
        (["demo", "--control", "absent.png"], "no picture absent.png"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys, clean):
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "mindspore: ready on CPU" in out and "all is well" in out
    assert "calls of scripts mean the CPU" in out
    assert not logging.getLogger("ms_controlnet_backend.runtime.source_cache").level  # what it warns of is said again


@pytest.mark.parametrize("name, version, said", [
    ("torch", "3.1", "3.1 (tested: 2.5 to 2."), ("numpy", "2.1.0", "in an environment of its own")])  # fmt: skip
def test_doctor_on_versions(capsys, pretend, name, version, said):
    pretend(name, version)
    assert cli.main(["doctor"]) == (name == "numpy")
    assert said in capsys.readouterr().out


def test_doctor_finds_what_is_missing(capsys, pretend):
    pretend("transformers", None)
    assert cli.main(["doctor", "--device", "ascend"]) == 1
    out = capsys.readouterr().out
    assert "transformers is not installed: pip install" in out and "no Ascend device" in out


@pytest.mark.parametrize("npu, mindspore, line, problem", [
    (None, "2.10.0", "not there: a script's tensors are the host's", None),
    ("2.13.0.post1", "2.10.0", "computes with the same memory", None),
    ("2.13.0", "2.7.2", "MindSpore 2.7.2 shares no memory with it", None),
    ("2.12.0", "2.10.0", "2.12.0: a script's", "torch_npu 2.12.0 is built for torch 2.12"),
])  # fmt: skip
def test_doctor_says_which_road(monkeypatch, npu, mindspore, line, problem):
    there = {"torch_npu": npu, "mindspore": mindspore, "torch": "2.13.0+cpu"}
    monkeypatch.setattr(versions, "installed", there.get)
    said, problems = torch_npu_version.report()
    assert line in said
    assert [problem in p for p in problems] == ([] if problem is None else [True])


def test_demo(tmp_path):
    """Every script, the user's own picture and prompt; the pictures equal torch's and follow both."""
    from ms_controlnet_backend.demo import judge

    photo = tmp_path / "mine.png"
    array = np.full((80, 64, 3), 40, np.uint8)
    array[25:55, 16:46] = 220
    PIL.Image.fromarray(array).save(photo)
    prompt = "a yellow square on a blue background"
    out, err = run("demo", "--control", photo, "--prompt", prompt, "--steps", "8", "--output", "out", cwd=tmp_path)
    assert "device: MindSpore on CPU" in out
    pictures = {}
    for name in ("txt2img", "img2img", "inpaint", "multi", "guess"):
        ours = PIL.Image.open(tmp_path / "out" / f"{name}-mindspore.png")
        a, b = (np.asarray(p, int) for p in (PIL.Image.open(tmp_path / "out" / f"{name}-torch.png"), ours))
        assert a.shape == (160, 128, 3) and a.std() > 1
        assert np.abs(a - b).max() <= 2
        pictures[name] = ours
    edges = PIL.Image.open(tmp_path / "out" / "edges.png")
    for name in ("txt2img", "multi"):
        assert judge.edge_f1(pictures[name], edges) > 0.7
        seen, background = judge.look(pictures[name])
        assert (seen[0].shape, seen[0].colour, background) == ("square", "yellow", "blue")
    assert out.count("time per step:") == out.count("distance from torch: at most") == 5 and "nan" not in out
    assert "inpaint on mindspore" in err  # progress
    assert PIL.Image.open(tmp_path / "out" / "all.png").size == (6 * 132, 2 * 164)
    assert {p.name for p in tmp_path.iterdir()} == {"mine.png", "out"}


def test_the_demos_scripts_do_not_know_us():
    from importlib import resources

    for file in resources.files("ms_controlnet_backend.demo").joinpath("scripts").iterdir():
        if file.name.endswith(".py"):
            assert "ms_controlnet" not in file.read_text() and "mindspore" not in file.read_text().lower()
