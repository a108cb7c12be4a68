"""Whole components as they are for Ascend: emulated and compared with torch, exported, every primitive with a kernel,
kernels counted."""

import pytest
import torch
from ascend import cases, emulator, graphs
from ascend.test_lowerings import lowered
from ms_controlnet_backend.compat import ascend_kernels

from ms_controlnet_backend.lowering.ascend import REWRITES
from ms_controlnet_backend.lowering.ascend.work import work
from ms_controlnet_backend.lowering.samples import T

RELATIVE = 1e-2  # root mean square of the difference, of that of torch's output: float16 through a whole component


@pytest.fixture(scope="module", params=cases.TINY)
def case(request):
    name = request.param
    component, args, kwargs = cases.TINY[name]()
    return name, component, args, kwargs, graphs.graph(component, args, kwargs, cases.SITES.get(name, 0))


def module_of(name, component):
    return {"vae.encoder": lambda: component.encoder, "vae.decoder": lambda: component.decoder,
            "safety_checker": lambda: component.vision_model}.get(name, lambda: component)()  # fmt: skip


def close(got, expected, limit=RELATIVE):
    for g, e in zip(got, expected, strict=True):
        error = (g.float() - e.float()).square().mean().sqrt() / e.float().square().mean().sqrt()
        assert e.std() > 1e-3 and error < limit, error


def test_equals_torch(case):
    """The whole program, and prologue and step one after the other."""
    name, component, args, kwargs, made = case
    expected = graphs.in_float32(module_of(name, component), args, kwargs)
    close(emulator.run(made.program, made.tensors, made.target), expected)
    if made.first is not None:
        known = dict(zip(made.program.inputs, made.tensors))
        once = emulator.run(made.first, [known[v] for v in made.first.inputs], made.target)
        known |= dict(zip(made.first.outputs, once))
        close(emulator.run(made.step, [known[v] for v in made.step.inputs], made.target), expected)


def test_exports_and_every_primitive_has_a_kernel(case, tmp_path):
    *_, made = case
    for program in filter(None, (made.first, made.step)):
        calls = graphs.exported(program, made.target, tmp_path)
        assert ascend_kernels.missing(calls) == []
        assert graphs.kernels(calls) == len(work(program))


def test_bfloat16(tmp_path):
    component, args, kwargs = cases.TINY["xl controlnet"]()
    brain = lambda x: x.bfloat16() if isinstance(x, torch.Tensor) and x.dtype == torch.float16 else x  # noqa: E731
    args, kwargs = torch.utils._pytree.tree_map(brain, (args, kwargs))
    made = graphs.graph(component.bfloat16(), args, kwargs)
    assert {"bfloat16", "float32"} >= {w.dtype for w in work(made.program)} > {"float32"}
    close(emulator.run(made.program, made.tensors, made.target), graphs.in_float32(component, args, kwargs), 5e-2)
    assert ascend_kernels.missing(graphs.exported(made.program, made.target, tmp_path)) == []


def test_float32_is_computed_in_float32(tmp_path):
    """What a VAE is that upstream upcasts: its attention by blocks of matrix products."""
    component, args, kwargs = cases.TINY["vae.decoder"]()
    args = [a.float() for a in args]
    made = graphs.graph(component.float(), args, kwargs, cases.SITES["vae.decoder"])
    calls = [i.callee for i in made.program.instructions]
    assert "ops.flash_attention_score" not in calls and "Softmax" in calls
    assert {w.dtype for w in work(made.program)} == {"float32"}
    close(emulator.run(made.program, made.tensors, made.target), graphs.in_float32(component.decoder, args), 1e-5)
    assert ascend_kernels.missing(graphs.exported(made.program, made.target, tmp_path)) == []


def test_lora(tmp_path):
    """A projection that is a sum: its heads are padded by a kernel."""
    peft = pytest.importorskip("peft")
    component, args, kwargs = cases.TINY["unet"]()
    component.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    made = graphs.graph(component.half(), args, kwargs)
    calls = [i.callee for i in made.program.instructions]
    attentions = calls.count("ops.flash_attention_score")
    assert calls.count("mint.nn.functional.pad") == 2 * attentions > 0  # the keys' weights are padded still
    close(emulator.run(made.program, made.tensors, made.target), graphs.in_float32(component, args, kwargs))
    assert ascend_kernels.missing(graphs.exported(made.program, made.target, tmp_path)) == []


SAVED = {  # rewrite → (component, kernels of a step without it)
    "transposes": ("unet", 251),
    "attention": ("unet", 223),
    "padded_projections": ("unet", 195),
    "split_projections": ("unet", 187),
    "grouped_projections": ("unet", 198),
    "add_layer_norm": ("unet", 187),
    "casts": ("controlnet", 105),
}
WITH_ALL = {"unet": 179, "controlnet": 101}


@pytest.mark.parametrize("rewrite", SAVED)
def test_every_rewrite_saves_kernels_and_changes_no_number(rewrite, tmp_path):
    name, without = SAVED[rewrite]
    component, args, kwargs = cases.TINY[name]()
    made = graphs.graph(component, args, kwargs)
    plain = graphs.graph(component, args, kwargs, without={rewrite})
    assert [len(work(g.step)) for g in (made, plain)] == [WITH_ALL[name], without] and WITH_ALL[name] < without
    assert sum(w.moved for w in work(made.step)) < sum(w.moved for w in work(plain.step))
    if rewrite != "casts":  # equal ones MindSpore merges itself
        assert graphs.kernels(graphs.exported(plain.step, plain.target, tmp_path)) == without
    close(emulator.run(plain.program, plain.tensors, plain.target), graphs.in_float32(component, args, kwargs))


def test_constants_are_folded():
    """Of a norm without weights: ones and zeros, where they are not large."""
    op = torch.ops.aten.layer_norm.default
    programs = [lowered(op, (T((2, 3, n)), [n]), {}, torch.float16)[0] for n in (6, 2**16 + 1)]
    assert [len(work(p)) for p in programs] == [1, 3]
    assert set(SAVED) == set(REWRITES)


BUDGET = {  # kernels: in a step, once a run
    "unet": (562, 1),
    "controlnet": (268, 16),
    "vae.encoder": (89, 0),
    "vae.decoder": (117, 0),
    "text_encoder": (137, 0),
    "xl unet": (1178, 16),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGET)
def test_full_size(name, tmp_path):
    """Stable Diffusion 1.5 and XL in float16 at 512 and 1024 px export, with a kernel for every primitive, in no more
    kernels than are budgeted."""
    made = graphs.graph(*cases.FULL[name](), cases.SITES.get(name, 0))
    for program, budget in zip((made.step, made.first), BUDGET[name]):
        if program is None:
            assert budget == 0
            continue
        calls = graphs.exported(program, made.target, tmp_path)
        assert ascend_kernels.missing(calls) == []
        assert graphs.kernels(calls) == len(work(program)) <= budget
