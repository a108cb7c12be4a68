"""``ms-controlnet verify``: what is right passes, what is wrong is named."""

import json

import models
import pytest
import torch
from ms_controlnet_backend.compat import diffusers_calls

from ms_controlnet_backend import binding, cli, plugins
from ms_controlnet_backend.hookspecs import Lowering
from ms_controlnet_backend.verify import checks
from ms_controlnet_backend.verify.report import Finding, Report

SILU, GELU, CONV = (getattr(torch.ops.aten, n).default for n in ("silu", "gelu", "conv2d"))


@pytest.fixture
def few(monkeypatch):
    """Only some operators are verified."""
    monkeypatch.setattr(plugins.Registry, "overloads", lambda self, target: [SILU, GELU, CONV])


@pytest.fixture
def engine(clean, tmp_path):
    return binding.build("mindspore", device="cpu", cache_dir=str(tmp_path / "sources"))


def verified(engine, dtype=torch.float32):
    """The report of all operators."""
    tried = checks.cases(engine.target.device, [dtype])
    return Report("this", operators=list(checks.operators(engine, tried)))


def replaced(monkeypatch, op, function):
    table = plugins.registry().lowerings
    monkeypatch.setitem(table, (op, None), Lowering(op, function, table[op, None].samples))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_right(few, engine, dtype):
    report = verified(engine, dtype)
    assert report.ok and len(report.operators) == 11 and all(f.error <= f.limit for f in report.operators)
    assert max(f.error for f in report.operators) > 0 and report.lines()[-1] == "VERIFIED"


def test_wrong(few, engine, monkeypatch):
    def failing(b, x, approximate):
        return b.call("NoSuchPrimitive", x)

    replaced(monkeypatch, SILU, lambda b, x: b.mul(x, b.unary("Sigmoid", b.mul(x, 1.02))))
    replaced(monkeypatch, GELU, failing)
    report = verified(engine)
    wrong = {f.name: f for f in report.operators if not f.ok}
    assert set(wrong) == {"aten.silu.default-0", "aten.gelu.default-0", "aten.gelu.default-1"}
    assert wrong["aten.silu.default-0"].error > 1e-3 and not wrong["aten.silu.default-0"].problem
    assert "NoSuchPrimitive" in wrong["aten.gelu.default-0"].problem
    text = "\n".join(report.lines())
    assert "NOT VERIFIED" in text and "! aten.silu.default-0 float32" in text
    assert "operators: 8 of 11" in text and "aten.conv2d" not in text


def test_components(engine, monkeypatch):
    class Printing(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    pipe = models.pipeline()
    pipe.vae.decoder.conv_act = Printing()
    replaced(monkeypatch, SILU, lambda b, x: b.mul(x, b.unary("Sigmoid", b.mul(x, 1.02))))
    call = diffusers_calls.example(pipe, 64) | {"num_inference_steps": 2}
    found = {f.name: f for f in checks.components(engine, pipe, call)}
    assert {n for n, f in found.items() if f.ok} == {"text_encoder"}
    problem = found["vae.decoder"].problem
    assert problem.startswith("in ") and "parts: torch.export failed" in problem
    assert found["unet"].error > found["unet"].limit and found["unet"].seconds > 0


def test_a_call_that_fails(engine):
    pipe = models.pipeline()
    report = Report("this", components=list(checks.components(engine, pipe, {"prompt": "a house"})))  # no picture
    assert not report.ok and report.components[-1].name == "the pipeline's call" and report.components[-1].problem


def command(tmp_path, *options):
    """(exit code, the report) of the command."""
    stem = tmp_path / "report"
    code = cli.main(["verify", "--device", "cpu", "--report", str(stem), *options])
    return code, json.loads(stem.with_suffix(".json").read_text())


def test_command(clean, tmp_path, capfd):
    code, saved = command(tmp_path, "--only", "silu,gelu.default,text_encoder,unet")
    out = capfd.readouterr().out
    assert code == 0 and saved["format"] == 2 and saved["ok"] and not saved["advice"] and saved["versions"]["torch"]
    assert saved["device"] == "MindSpore on CPU" and [f["name"] for f in saved["opened"]] == ["the device"]
    samples = {f["name"] for f in saved["operators"]}
    assert samples == {"aten.silu.default-0", "aten.gelu.default-0", "aten.gelu.default-1"}
    assert {c["name"] for c in saved["components"]} == {"text_encoder", "unet"}
    assert (tmp_path / "report.txt").read_text() in out
    assert not [path for path in (str(tmp_path), "/home", "/root") if path in json.dumps(saved)]


@pytest.mark.parametrize(
    "options", [["nothing"], ["--stages", "operator"], ["--controlnet", "nothing"]], ids=" ".join
)
def test_command_with_mistakes(clean, capsys, options):
    assert cli.main(["verify", "--device", "cpu", *options]) == 2
    assert "ms-controlnet: no " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, told",
    [
        ("in /home/me/private/model.py, line 3", "in …/model.py, line 3"),
        ("~/pictures/a.png and ../b/c.txt", "…/a.png and …/c.txt"),
        ("GroupNorm/SiLU at 3/4, and/or https:", "GroupNorm/SiLU at 3/4, and/or https:"),
    ],
)
def test_no_paths(text, told):
    report = Report("d", machine=["cache  /x/y", text], operators=[Finding("a", "b", False, problem=text)])
    saved = report.to_dict()
    assert saved["machine"] == [told] and saved["operators"][0]["problem"] == told
