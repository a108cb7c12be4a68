"""ms-controlnet compare SCRIPT: the script is unmodified and unaware, and every call it makes is compared."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sides
from ms_controlnet_backend.compat import diffusers_calls, diffusers_pipelines

from ms_controlnet_backend import cli

TESTS = Path(__file__).parent.parent

SCRIPT = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import models, torch, hashlib
from diffusers import StableDiffusionControlNetPipeline

class Mine(StableDiffusionControlNetPipeline):   # made while the script is being compared
    def __call__(self, *args, **kwargs):
        super().__call__(*args, **kwargs)            # two passes, one call
        return super().__call__(*args, **kwargs)

def digest(a):
    return hashlib.sha256(a.tobytes()).hexdigest()[:12]

torch.manual_seed(int(sys.argv[1]))
pipe = models.pipeline()
generator = torch.Generator().manual_seed(0)
kwargs = models.call_kwargs(num_inference_steps=2) | dict(generator=generator)
print("one", digest(pipe(**kwargs).images))
print("two", digest(Mine(**pipe.components)(**kwargs).images))           # the generator goes on
print("three", digest(pipe(**kwargs | dict(generator=None)).images))     # from torch's global state
print("after", torch.rand(1).item(), torch.rand(1, generator=generator).item())
"""


@pytest.fixture(autouse=True)
def _clean(clean, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def compare(*arguments, script=SCRIPT):
    Path("script.py").write_text(script)
    return cli.main(["compare", "--repeats", "0", *arguments, "script.py", "5"])


def test_every_call_is_compared_and_the_script_is_none_the_wiser(capsys):
    Path("script.py").write_text(SCRIPT)
    assert cli.main(["run", "--backend", "torch", "script.py", "5"]) == 0
    alone = capsys.readouterr().out
    base = diffusers_pipelines.pipeline_class()
    before = {cls: vars(cls).get("__call__") for cls in diffusers_calls._subclasses(base)}
    with sides.backend("bent", sides.bent("unet", "conv_out.weight")):
        code = compare("--backends", "torch,bent", "--json", "r.json", "--html", "r.html")
    out = capsys.readouterr().out
    assert out.startswith(alone) and alone.count("\n") == 4
    assert code == 1 and "DIFFERENT: bent against torch" in out
    report = json.loads(Path("r.json").read_text())
    assert [c["pipeline"] for c in report["calls"]] == [
        "StableDiffusionControlNetPipeline", "Mine", "StableDiffusionControlNetPipeline",
    ]  # fmt: skip
    assert not any(c["ok"] for c in report["calls"]) and [len(c["steps"]) for c in report["calls"]] == [2, 4, 2]
    assert "same state of torch's global generator" in report["calls"][2]["notes"][0]
    assert Path("r.html").read_text().count('class="viewer"') == 3
    assert all(vars(cls).get("__call__") is own for cls, own in before.items())
    assert "__init_subclass__" not in vars(base)


def test_the_same_exits_with_0(capsys):
    with sides.backend("plain", lambda label, original, args, kwargs: original(*args, **kwargs)):
        assert compare("--backends", "torch,plain") == 0
        out = capsys.readouterr().out
    assert "same: plain draws what torch draws (3 call(s))" in out


def test_a_call_that_fails_on_the_other_side_only_is_reported_and_the_script_goes_on(capsys):
    def fail(label, original, args, kwargs):
        raise ZeroDivisionError("no such number")

    with sides.backend("bad", fail):
        assert compare("--backends", "torch,bad") == 1
    out = capsys.readouterr().out
    assert "the call fails on bad: ZeroDivisionError: no such number" in out and "after" in out


def test_a_call_that_fails_on_the_reference_fails_in_the_script(capsys):
    script = SCRIPT + (
        "try:\n    pipe(**kwargs | dict(prompt=3.5))\nexcept ValueError as error:\n    print('caught', error)\n"
        "pipe(**kwargs | dict(prompt=2.5))\n"
    )
    assert compare("--backends", "torch,torch", "--json", "r.json", script=script) == 1
    captured = capsys.readouterr()
    assert "caught `prompt` has to be of type" in captured.out
    assert "the script failed" in captured.err and "script.py" in captured.err and "ValueError" in captured.err
    calls = json.loads(Path("r.json").read_text())["calls"]
    assert [set(c["errors"]) for c in calls] == [set()] * 3 + [{"torch", "torch again"}] * 2


def test_the_scripts_own_exit_and_nothing_to_compare(capsys):
    assert compare("--backends", "torch,torch", script="import sys; sys.exit(3)") == 1
    captured = capsys.readouterr()
    assert "nothing compared: the script made no pipeline call" in captured.out
    assert "the script exited with 3" in captured.err


@pytest.mark.parametrize("arguments, message", [
    (["--backends", "torch,onnx"], "no backend named 'onnx'; known backends"),
    (["--backends", "torch"], "needs two backends"),
    (["--device", "tpu"], "unknown device 'tpu'"),
    (["--repeats", "-1"], "repeats must not be negative"),
    (["--html", "absent/r.html"], "no folder absent"),
])  # fmt: skip
def test_bad_options_are_one_line(arguments, message, capsys):
    assert compare(*arguments) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1


def test_without_the_extra_html_is_refused_before_the_run_and_the_rest_works(monkeypatch, capsys):
    for name in ("jinja2", "matplotlib", "skimage", "skimage.metrics", "rich", "rich.console"):
        monkeypatch.setitem(sys.modules, name, None)
    assert compare("--backends", "torch,torch", "--html", "r.html") == 2
    captured = capsys.readouterr()
    assert "pip install 'ms-controlnet-backend[report]'" in captured.err and "one" not in captured.out
    assert compare("--backends", "torch,torch", "--json", "r.json") == 0
    (picture,) = json.loads(Path("r.json").read_text())["calls"][0]["pictures"]
    assert picture["psnr"] is None and picture["off"] == 0


def test_ctrl_c_leaves_a_partial_report():
    """A real SIGINT, in the second call's loop."""
    script = SCRIPT.replace(
        'print("two"', 'kwargs["callback_on_step_end"] = lambda p, i, t, x: open("looping", "w").close() or x\n'
        'kwargs["num_inference_steps"] = 900\nprint("two"')  # fmt: skip
    Path("script.py").write_text(script)
    command = [sys.executable, "-m", "ms_controlnet_backend.cli", "compare", "--backends", "torch,torch", "--json",
               "r.json", "--html", "r.html", "script.py", "5"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = time.monotonic()
    while not Path("looping").exists() and process.poll() is None and time.monotonic() - started < 120:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    report = json.loads(Path("r.json").read_text())
    assert report["complete"] is False and report["ok"] is False
    assert [c["complete"] for c in report["calls"]] == [True, False] and report["calls"][0]["ok"]
    assert "PARTIAL" in out and "This report is partial" in Path("r.html").read_text()
