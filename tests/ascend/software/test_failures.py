"""A device that goes wrong in chosen ways: ``verify`` says what and what to do, and so does the pipeline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import models
import numpy as np
import parity
import pytest

from ms_controlnet_backend import cli
from ms_controlnet_backend.errors import BackendError

OPERATORS = ("--stages", "operators", "--only")


@pytest.fixture
def verified(npu, monkeypatch, tmp_path):
    """verified(settings, …) → (report, its advice as one text), of workers on such a device."""
    npu.elsewhere = True

    def run(settings, *options):
        monkeypatch.setenv("SOFTWARE_NPU", settings)
        stem = tmp_path / "report"
        code = cli.main(["verify", "--device", "ascend", "--dtypes", "float16", "--report", str(stem), *options])
        report = json.loads(stem.with_suffix(".json").read_text())
        assert code == (0 if report["ok"] else 1) and len(report["advice"]) <= 3
        return report, "\n".join(report["advice"])

    return run


def wrong(report):
    return {f["name"]: f for f in report["operators"] + report["components"] if not f["ok"]}


@pytest.mark.long
def test_all_is_well(verified):
    report, advice = verified("", "--only", "silu,gelu.default,unet")
    assert report["ok"] and not advice and report["opened"][0]["ok"]
    assert report["device"].startswith("MindSpore on Ascend")
    assert len(report["operators"]) == 3 and [c["name"] for c in report["components"]] == ["unet"]


def test_a_wrong_operator(verified):
    report, advice = verified("wrong=aclnnGeluV2", *OPERATORS, "silu,gelu.default")
    assert set(wrong(report)) == {"aten.gelu.default-0", "aten.gelu.default-1"} and len(report["operators"]) == 3
    assert advice.startswith("aten.gelu.default-0: it computes something else than torch (2 of 4 are wrong")
    assert "No rewrite is to blame" in advice


def test_a_rewrite_to_leave_out(verified):
    """Attention's kernel is wrong: without it there are others."""
    report, advice = verified("wrong=aclnnFlashAttentionScore", *OPERATORS, "scaled_dot_product")
    assert wrong(report) and "set MS_CONTROLNET_WITHOUT=attention." in advice


@pytest.mark.long
def test_an_error_of_a_launch(verified):
    report, advice = verified("error=aclnnGeluV2", *OPERATORS, "silu,gelu.default-1")
    assert list(wrong(report)) == ["aten.gelu.default-1"]
    assert "aicore error exception" in wrong(report)["aten.gelu.default-1"]["problem"]
    assert advice.startswith("aten.gelu.default-1: it fails")
    assert "stays on torch by itself" in advice
    assert str(models.__file__).split("/")[1] not in json.dumps(report)  # no paths


@pytest.mark.parametrize(
    "settings", ["crash=aclnnGeluV2", pytest.param("hang=aclnnGeluV2", marks=pytest.mark.long)]
)
def test_a_process_that_is_lost(verified, settings):
    """What comes before and after it is verified all the same."""
    report, advice = verified(settings, "--patience", "8", *OPERATORS, "tanh,gelu.default-1,sigmoid")
    found, names = wrong(report), [f["name"] for f in report["operators"]]
    assert list(found) == ["aten.gelu.default-1"] and {"aten.tanh.default-0", "aten.sigmoid.default-0"} <= set(names)
    said = "the process was ended by SIGABRT" if settings.startswith("crash") else "no answer for 8 s"
    assert found["aten.gelu.default-1"]["problem"] == said and advice.startswith(f"aten.gelu.default-1: {said}")
    assert "update CANN or the driver" in advice


def test_no_memory(verified):
    report, advice = verified("fail_allocation=1")
    assert not report["opened"][0]["ok"] and report["untried"] == ["operators", "components"]
    assert "memory is full" in advice and "npu-smi" in advice


def test_a_library_that_is_missing(npu, tmp_path):
    """In a process of its own, as this one has it already."""
    npu.elsewhere = True
    stem = tmp_path / "report"
    command = [sys.executable, "-m", "ms_controlnet_backend.cli", "verify", "--device", "ascend", "--report", stem]
    done = subprocess.run(command, env=os.environ | {"LD_LIBRARY_PATH": ""}, capture_output=True, text=True)
    report = json.loads(stem.with_suffix(".json").read_text())
    assert done.returncode == 1 and not report["opened"][0]["ok"] and report["advice"][0] in done.stdout
    assert report["advice"][0].startswith("The device does not compute: ")
    assert any(re.search(r"CANN in .* lacks lib\w+\.so", line) for line in report["advice"][1:])
    assert os.environ["ASCEND_HOME_PATH"] not in json.dumps(report)


def test_no_time(verified):
    report, advice = verified("", "--budget", "0")
    assert report["untried"] == ["opened", "operators", "components"] and not report["ok"] and "--budget" in advice


def told(caplog, what):
    return [r.message for r in caplog.records if "stays on torch" in r.message and what in r.message]


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"fail_allocation": 1}, "the device has too little memory for text_encoder: .*Close what else"),
     ({"error": "aclnnGroupNorm"}, "the device failed in controlnet: .*aicore error")],
    ids=["no memory", "an error"],
)  # fmt: skip
def test_the_script(clean, npu, caplog, settings, words):
    """An error that names the component; or it is finished on torch, which does not try it in parts or again."""
    pipe = models.pipeline()
    expected = pipe(**models.call_kwargs()).images
    npu.expected = True
    with npu.set(**settings):
        clean.enable(pipe, strict=True)
        with pytest.raises(BackendError, match=words):
            pipe(**models.call_kwargs())
        clean.enable(pipe)
        got = pipe(**models.call_kwargs()).images
    assert np.abs(got - expected).max() < parity.PIXELS
    assert told(caplog, "unet") and all(s.parts == s.compiles == 0 for s in clean.stats().values() if s.fallbacks)


def test_a_device_that_fails_later(clean, npu, caplog):
    pipe = models.pipeline()
    expected = pipe(**models.call_kwargs()).images
    clean.enable(pipe)
    pipe(**models.call_kwargs())
    assert not told(caplog, "")
    npu.expected = True
    with npu.set(error="aclnnGroupNorm"):
        got = pipe(**models.call_kwargs()).images
    assert np.abs(got - expected).max() < parity.PIXELS
    stats = clean.stats()
    assert told(caplog, "the device failed in unet") and not stats["unet"].parts and stats["unet"].fallbacks == 4
