"""Models of NPUs differ in the kernels they have: what is compiled for each, and how the model is known."""

import types

import models
import pytest
import torch
from ascend import cases, emulator, graphs
from ascend.test_components import close
from ascend.test_lowerings import ATTENTION, HEADS, lowered
from ms_controlnet_backend.compat import ascend, ascend_kernels, mindspore_runtime

from ms_controlnet_backend import coverage, doctor
from ms_controlnet_backend.backends import mindspore as backend
from ms_controlnet_backend.errors import UnknownDevice
from ms_controlnet_backend.hookspecs import Options
from ms_controlnet_backend.lowering.ascend.npu import DEFAULT, NPUS
from ms_controlnet_backend.lowering.samples import T
from ms_controlnet_backend.runtime.target import NPU, Target, target

SCORE, PROMPT = "ops.flash_attention_score", "ops.prompt_flash_attention"
GROUPED, ADD_NORM = "ops.auto_generate.grouped_matmul_v4", "ops.auto_generate.add_layernorm_v2"
HAVE = {
    "910B": {SCORE, GROUPED, ADD_NORM},
    "910B4": {PROMPT, GROUPED, ADD_NORM},
    "910": set(),
    "310P": {PROMPT, ADD_NORM},
}


def callees(program):
    return {i.callee for i in program.instructions}


@pytest.mark.parametrize("npu", NPUS)
def test_a_component(npu, tmp_path):
    """Uses the kernels that are there, computes what torch does, exports, and every primitive has a kernel."""
    component, args, kwargs = cases.TINY["unet"]()
    made = graphs.graph(component, args, kwargs, npu=npu)
    assert callees(made.program) & {SCORE, PROMPT, GROUPED, ADD_NORM} == HAVE[npu]
    close(emulator.run(made.program, made.tensors, made.target), graphs.in_float32(component, args, kwargs))
    assert ascend_kernels.missing(graphs.exported(made.program, made.target, tmp_path)) == []



@pytest.mark.parametrize(
    "heads, mask, causal, fused",
    [
        (HEADS, None, False, True),
        (HEADS, T((6, 7), kind="bool"), False, False),  # as many keys as queries, or no mask
        ([T((2, 3, 77, 16))] * 3, None, True, False),  # CLIP's text: 77 is no multiple of 128
        ([T((2, 3, 128, 16))] * 3, None, True, True),
        ([T((2, 3, 128, 16))] * 3, T((128, 128), kind="bool"), False, True),
        ([T((2, 3, 128, 16))] * 3, T((2, 1, 128, 128), kind="bool"), False, True),
        ([T((2, 3, 128, 16))] * 3, T((2, 3, 128, 128), kind="bool"), False, False),  # no mask of each head
        ([T((129, 1, 4, 16))] * 3, None, False, False),
    ],
)
def test_what_prompt_flash_attention_takes(heads, mask, causal, fused):
    """The emulation refuses what CANN documents that the 310P does not take."""
    program, tensors, (expected,) = lowered(ATTENTION, (*heads, mask, 0.0, causal), {}, torch.float16, npu="310P")
    assert (PROMPT in callees(program)) == fused
    (got,) = emulator.run(program, tensors, Target("Ascend"))
    rows = expected.isfinite().all(-1) & (expected != 0).any(-1)
    assert rows.float().mean() > 0.8
    torch.testing.assert_close(got.float()[rows], expected[rows], rtol=2e-3, atol=2e-3)


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
    monkeypatch.setattr(ascend, "here", lambda: [])
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
