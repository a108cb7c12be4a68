"""Models of NPUs differ in the kernels they have: how the model is known; what is compiled for each runs in
``software/test_components.py``."""

import types

import models
import pytest
import torch
from ms_controlnet_backend.compat import ascend, mindspore_runtime

from ms_controlnet_backend import coverage, doctor
from ms_controlnet_backend.backends import mindspore as backend
from ms_controlnet_backend.errors import UnknownDevice
from ms_controlnet_backend.hookspecs import Options
from ms_controlnet_backend.lowering.ascend.npu import DEFAULT
from ms_controlnet_backend.runtime.target import NPU, Target, target

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


@pytest.mark.parametrize(
    "device, family, model",
    [
        ("Ascend910B1", "", "910B"),
        ("Ascend910B2C", "ascend910b", "910B"),
        ("Ascend910B4", "ascend910b", "910B4"),
        ("Ascend910B4-1", "ascend910b", "910B4"),
        ("Ascend910_9391", "", "910B"),
        ("Ascend910B", "ascend910", "910"),  # the name of a 910 that came before the 910B1
        ("Ascend910ProA", "", "910"),
        ("Ascend310P3", "", "310P"),
        ("", "ascend910b", "910B"),
        ("", "ascend310p", "310P"),
        ("Ascend310B4", "ascend310b", None),
        ("", "", None),
    ],
)
def test_names(device, family, model):
    assert ascend.model(device, family) == model


@pytest.fixture
def machine(monkeypatch):
    """A MindSpore with a 310P."""
    fake = types.SimpleNamespace(
        hal=types.SimpleNamespace(is_available=lambda d: True, get_device_name=lambda *a: "Ascend310P3"),
        device_context=types.SimpleNamespace(ascend=types.SimpleNamespace(device_count=lambda: 1)),
        set_device=lambda *args: None,
    )
    monkeypatch.setattr(mindspore_runtime, "mindspore", lambda: fake)
    monkeypatch.delenv(NPU, raising=False)
    return fake


def test_the_model_that_is_there(machine, monkeypatch, tmp_path):
    build = lambda: backend.build(Options("ascend", cache_dir=str(tmp_path)))  # noqa: E731
    assert build().target.npu == "310P"
    assert build().describe().startswith("MindSpore on Ascend 310P (attention by PromptFlashAttention, without ")
    monkeypatch.setenv(NPU, "910B4")  # the user's word goes before what MindSpore says
    assert build().target.npu == "910B4"
    monkeypatch.delenv(NPU)
    machine.hal.get_device_name = lambda *a: "Ascend999"
    assert build().target.npu == DEFAULT


def test_doctor_says_what_is_compiled_for(machine, monkeypatch):
    monkeypatch.setattr(ascend, "here", lambda software: [])
    line = next(line for line in doctor.report("ascend")[0] if line.startswith("npu"))
    assert "310P; compiled for Ascend 310P (attention by PromptFlashAttention" in line and NPU in line


def test_a_name_that_is_unknown(monkeypatch):
    assert target("Ascend").npu == DEFAULT and target("Ascend", npu="910").npu == "910"
    monkeypatch.setenv(NPU, "H100")
    with pytest.raises(UnknownDevice, match="unknown NPU H100; known: 910B, 910B4, 910, 310P"):
        target("Ascend")


def test_coverage_predicts_for_each_with_its_own_kernels(clean):
    from ms_controlnet_backend.compat import diffusers_calls

    pipe = models.pipeline().to(torch.float16)
    call = diffusers_calls.example(pipe, 64)
    unets = {
        npu: next(c for c in coverage.cover(pipe, Target("Ascend", npu=npu), **call) if c.label == "unet")
        for npu in ("910B", "910")
    }
    assert unets["910"].kernels > unets["910B"].kernels
    assert unets["910"].predicted == unets["910B"].predicted
    operators = {o.name: o.choices for o in unets["910"].operators}
    assert operators[str(ATTENTION)] == {"matrix products": 8}
