"""A device that goes wrong in chosen ways: ``verify`` says what and what to do, and so does the pipeline."""

from __future__ import annotations

import json

import models
import numpy as np
import parity
import pytest

from ms_controlnet_backend import cli
from ms_controlnet_backend.errors import BackendError

FEW = "silu,gelu.default,unet"
DIFFERS, RIGHT = "computes something else than torch", "without the rewrite"


@pytest.fixture
def verified(npu, monkeypatch, tmp_path, capfd):
    """verified(settings, …) → (report, its advice as one text), of workers on such a device."""
    npu.elsewhere = True

    def run(settings, *options, only=FEW):
        monkeypatch.setenv("SOFTWARE_NPU", settings)
        stem = tmp_path / "report"
        command = ["verify", "--device", "ascend", "--dtypes", "float16", "--only", only, "--report", str(stem), *options]
        code = cli.main(command)
        report = json.loads(stem.with_suffix(".json").read_text())
        assert code == (0 if report["ok"] else 1) and len(report["advice"]) <= 3
        assert "/root/" not in json.dumps(report) and str(tmp_path) not in json.dumps(report)
        return report, "\n".join(report["advice"])

    return run


def wrong(report):
    return {f["name"]: f for f in report["operators"] + report["components"] if not f["ok"]}


def test_all_is_well(verified):
    report, advice = verified("")
    assert report["ok"] and not advice and report["opened"][0]["ok"] and report["device"].startswith("MindSpore on Ascend")
    assert len(report["operators"]) == 3 and [c["name"] for c in report["components"]] == ["unet"]


def test_a_wrong_operator(verified):
    report, advice = verified("wrong=aclnnGelu")
    assert set(wrong(report)) >= {"aten.gelu.default-0"} and "aten.silu.default-0" not in wrong(report)
    assert advice.startswith("aten.gelu.default-0 computes something else than torch")


def test_a_rewrite_to_leave_out(verified):
    """Attention's kernel is wrong: without it there are others."""
    report, advice = verified("wrong=aclnnFlashAttentionScore", only="scaled_dot_product,unet")
    assert "unet" in wrong(report) and "MS_CONTROLNET_WITHOUT=attention" in advice


def test_an_error_of_a_launch(verified):
    report, advice = verified("error=aclnnGelu", only="silu,gelu.default")
    assert set(wrong(report)) == {"aten.gelu.default-0", "aten.gelu.default-1"}
    assert "aten.gelu.default-0" in advice


@pytest.mark.parametrize("settings", ["crash=aclnnGelu", "hang=aclnnGelu"])
def test_a_process_that_is_lost(verified, settings):
    """What comes before and after it is verified all the same."""
    report, advice = verified(settings, "--patience", "8", only="silu,gelu.default")
    found = wrong(report)
    assert set(found) == {"aten.gelu.default-0", "aten.gelu.default-1"} and len(report["operators"]) == 3
    said = "SIGABRT" if settings.startswith("crash") else "no answer for 8 s"
    assert all(said in f["problem"] for f in found.values()) and said in advice


def test_no_memory(verified):
    report, advice = verified("fail_allocation=1")
    assert not report["opened"][0]["ok"] and report["untried"] == ["operators", "components"]
    assert "memory is full" in advice and "npu-smi" in advice


def test_no_memory_in_the_middle(verified):
    report, advice = verified("memory_gb=1", only="unet")
    assert "memory is full" in advice or report["ok"]


def test_a_library_that_is_missing(verified, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    report, advice = verified("")
    assert not report["opened"][0]["ok"] and advice.startswith("The device does not compute: ")
    assert "finds no Ascend device" in advice


def test_no_time(verified):
    report, advice = verified("", "--budget", "0.001")
    assert report["untried"] and not report["ok"] and "--budget" in advice


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("settings", [{"error": "aclnnGroupNorm"}, {"fail_allocation": 1}], ids=str)
def test_the_script(clean, npu, caplog, settings, strict):
    """An error that names the component; or it is finished on torch, as it would have been."""
    pipe = models.pipeline()
    expected = pipe(**models.call_kwargs()).images
    clean.enable(pipe, strict=strict)
    npu.expected = True
    with npu.set(**settings):
        if strict:
            with pytest.raises(BackendError, match="controlnet|unet|vae|text_encoder"):
                pipe(**models.call_kwargs())
        else:
            got = pipe(**models.call_kwargs()).images
            assert np.abs(got - expected).max() < parity.PIXELS
            assert any("stays on torch" in r.message for r in caplog.records)
