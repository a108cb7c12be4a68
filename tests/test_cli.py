"""The command, as a user types it."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

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


def test_doctor_finds_what_is_missing(capsys, monkeypatch):
    from ms_controlnet_backend.compat import versions

    real = versions.installed
    monkeypatch.setattr(versions, "installed", lambda n: None if n == "transformers" else real(n))
    assert cli.main(["doctor", "--device", "ascend"]) == 1
    out = capsys.readouterr().out
    assert "transformers is not installed: pip install" in out and "no Ascend device" in out


def test_demo(tmp_path, cache_folder):
    """All three scripts, the user's own picture and prompt; the pictures equal torch's."""
    photo = tmp_path / "mine.png"
    array = np.full((72, 64, 3), 40, np.uint8)
    array[20:50, 16:40] = 220
    PIL.Image.fromarray(array).save(photo)
    out, err = run("demo", "--control", photo, "--prompt", "a square", "--steps", "4", "--output", "out", cwd=tmp_path)
    assert "device: MindSpore on CPU" in out
    for name in ("txt2img", "img2img", "inpaint"):
        a, b = (np.asarray(PIL.Image.open(tmp_path / "out" / f"{name}-{k}.png"), int) for k in ("torch", "mindspore"))
        assert a.shape == (72, 64, 3) and a.std() > 1
        assert np.abs(a - b).max() <= 1
    assert out.count("time per step:") == 3 and "nan" not in out
    assert out.count("distance from torch: at most") == 3
    assert "inpaint on mindspore" in err  # progress
    assert np.asarray(PIL.Image.open(tmp_path / "out" / "control.png")).max() == 255
    assert {p.name for p in tmp_path.iterdir()} == {"mine.png", "out"}
    assert [p for p in cache_folder.iterdir() if p.name.startswith("demo-")]


def test_the_demos_scripts_do_not_know_us():
    from importlib import resources

    for file in resources.files("ms_controlnet_backend.demo").joinpath("scripts").iterdir():
        if file.name.endswith(".py"):
            assert "ms_controlnet" not in file.read_text() and "mindspore" not in file.read_text().lower()
