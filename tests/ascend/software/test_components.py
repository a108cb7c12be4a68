"""Whole components lowered for Ascend: they equal torch, for every model of NPU and without each of the rewrites, in as
many launches as are counted."""

from __future__ import annotations

import pytest
import torch
from ascend import cases, graphs
from ascend.software.running import run

from ms_controlnet_backend.ab.metrics import distance
from ms_controlnet_backend.lowering.ascend import REWRITES
from ms_controlnet_backend.lowering.ascend.npu import NPUS
from ms_controlnet_backend.lowering.ascend.work import work
from ms_controlnet_backend.lowering.samples import T

RELATIVE = 1e-2  # root mean square of the difference, of that of torch's output: float16 through a whole component
SCORE, PROMPT = "ops.flash_attention_score", "ops.prompt_flash_attention"
GROUPED, ADD_NORM = "ops.auto_generate.grouped_matmul_v4", "ops.auto_generate.add_layernorm_v2"
FFN = "ops.auto_generate.ffn_ext"
HAVE = {
    "910B": {SCORE, GROUPED, ADD_NORM, FFN},
    "910B4": {PROMPT, GROUPED, ADD_NORM, FFN},
    "910": set(),
    "310P": {PROMPT, ADD_NORM},
}


def module_of(name, component):
    return {"vae.encoder": lambda: component.encoder, "vae.decoder": lambda: component.decoder,
            "safety_checker": lambda: component.vision_model}.get(name, lambda: component)()  # fmt: skip


def close(got, expected, limit=RELATIVE):
    for g, e in zip(got, expected, strict=True):
        error = distance(g, e).relative_rms
        assert e.std() > 1e-3 and error < limit, error


def callees(program):
    return {i.callee for i in program.instructions}


def launches(npu, program, tensors, target):
    """(how many, what was computed)"""
    npu.reset()
    got = run(program, tensors, target)
    return sum(npu.report().launches.values()), got


@pytest.mark.parametrize("name", cases.TINY)
def test_equals_torch(name, npu):
    """What is computed once a run and then the step, or the whole where it is not divided, in as many launches
    as are counted."""
    component, args, kwargs = cases.TINY[name]()
    made = graphs.graph(component, args, kwargs, cases.SITES.get(name, 0))
    known = dict(zip(made.program.inputs, made.tensors))
    if made.first is not None:
        known |= dict(zip(made.first.outputs, run(made.first, [known[v] for v in made.first.inputs], made.target)))
    counted, got = launches(npu, made.step, [known[v] for v in made.step.inputs], made.target)
    close(got, graphs.in_float32(module_of(name, component), args, kwargs))
    assert counted == len(work(made.step))


@pytest.mark.parametrize("model", NPUS)
def test_of_each_npu(model):
    """The kernels that are there are used."""
    component, args, kwargs = cases.TINY["unet"]()
    made = graphs.graph(component, args, kwargs, npu=model)
    assert callees(made.program) & {SCORE, PROMPT, GROUPED, ADD_NORM, FFN} == HAVE[model]
    close(run(made.program, made.tensors, made.target), graphs.in_float32(component, args, kwargs))


def test_bfloat16():
    component, args, kwargs = cases.TINY["xl controlnet"]()
    brain = lambda x: x.bfloat16() if isinstance(x, torch.Tensor) and x.dtype == torch.float16 else x  # noqa: E731
    args, kwargs = torch.utils._pytree.tree_map(brain, (args, kwargs))
    made = graphs.graph(component.bfloat16(), args, kwargs)
    assert {"bfloat16", "float32"} >= {w.dtype for w in work(made.program)} > {"float32"}
    close(run(made.program, made.tensors, made.target), graphs.in_float32(component, args, kwargs), 5e-2)


def test_float32_is_computed_in_float32():
    """What a VAE is that upstream upcasts: its attention by blocks of matrix products."""
    component, args, kwargs = cases.TINY["vae.decoder"]()
    args = [a.float() for a in args]
    made = graphs.graph(component.float(), args, kwargs, cases.SITES["vae.decoder"])
    assert SCORE not in callees(made.program) and "Softmax" in callees(made.program)
    assert {w.dtype for w in work(made.program)} == {"float32"}
    close(run(made.program, made.tensors, made.target), graphs.in_float32(component.decoder, args), 1e-5)


def test_lora():
    """A projection that is a sum: its heads are padded by a kernel."""
    peft = pytest.importorskip("peft")
    component, args, kwargs = cases.TINY["unet"]()
    component.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    made = graphs.graph(component.half(), args, kwargs)
    calls = [i.callee for i in made.program.instructions]
    attentions = calls.count(SCORE)
    assert calls.count("mint.nn.functional.pad") == 2 * attentions > 0  # the keys' weights are padded still
    close(run(made.program, made.tensors, made.target), graphs.in_float32(component, args, kwargs))


SAVED = {  # rewrite → (component, NPU, launches of a step without it)
    "transposes": ("unet", "910B", 239),
    "attention": ("unet", "910B", 211),
    "padded_projections": ("unet", "910B", 183),
    "feed_forward": ("unet", "910B", 179),
    "split_projections": ("unet", "310P", 202),  # what feed_forward, which a 310P lacks, leaves to it
    "grouped_projections": ("unet", "910B", 182),
    "add_layer_norm": ("unet", "910B", 175),
    "casts": ("controlnet", "910B", 99),
}
WITH_ALL = {("unet", "910B"): 167, ("unet", "310P"): 198, ("controlnet", "910B"): 95}


@pytest.mark.parametrize("rewrite", SAVED)
def test_every_rewrite_saves_launches_and_changes_no_number(rewrite):
    name, model, without = SAVED[rewrite]
    with_all = WITH_ALL[name, model]
    component, args, kwargs = cases.TINY[name]()
    made = graphs.graph(component, args, kwargs, npu=model)
    plain = graphs.graph(component, args, kwargs, without={rewrite}, npu=model)
    assert [len(work(g.step)) for g in (made, plain)] == [with_all, without] and with_all < without
    assert sum(w.moved for w in work(made.step)) < sum(w.moved for w in work(plain.step))
    close(run(plain.program, plain.tensors, plain.target), graphs.in_float32(component, args, kwargs))


def test_constants_are_folded(npu):
    """Of a norm without weights: ones and zeros, where they are not large."""
    op = torch.ops.aten.layer_norm.default
    for n, kernels in ((6, 1), (2**16 + 1, 3)):
        program, tensors, _ = graphs.lowered(op, (T((2, 3, n)), [n]), {}, torch.float16)
        assert launches(npu, program, tensors, graphs.TARGET)[0] == len(work(program)) == kernels
    assert set(SAVED) == set(REWRITES)
