"""Structures that a module had and has again: their graphs are found again, as true as if they were made anew."""

import gc
import weakref

import cutting
import models
import parity
import pytest
import small_component
import torch
from small_component import X, adapter  # noqa: F401 - a fixture
from test_loaders import write_lora

from ms_controlnet_backend.runtime import weights
from ms_controlnet_backend.runtime.variants import KEPT

ACTS = [torch.nn.SiLU(), torch.nn.ReLU(), torch.nn.GELU(), torch.nn.Tanh(), torch.nn.Sigmoid(), torch.nn.ELU()]


@pytest.fixture
def pipe(clean):
    pipe = small_component.pipeline()
    clean.enable(pipe, strict=True)
    return pipe


@pytest.fixture
def compiles(clean):
    return lambda: clean.stats()["component"].compiles


def call(component, x=X):
    with torch.no_grad():
        return component(x).clone()


def reference(component, x=X):
    """By torch, of a component that is not enabled."""
    twin = small_component.Component().to(next(component.parameters()).dtype)
    twin.load_state_dict(component.state_dict())
    twin.block.act = component.block.act
    return call(twin, x)


def assert_true(component, x=X):
    expected = reference(component, x)
    assert parity.relative_error(call(component, x), expected) < (1e-5 if x.dtype is torch.float32 else 2e-3)


def test_the_last_structures(pipe, compiles):
    assert len(ACTS) == KEPT + 2
    for _ in range(2):
        for act in ACTS[:-1]:
            pipe.component.block.act = act
            assert_true(pipe.component)
    assert compiles() == KEPT + 1
    for act in ACTS:  # one more than are remembered
        pipe.component.block.act = act
        assert_true(pipe.component)
    assert compiles() == KEPT + 2
    pipe.component.block.act = ACTS[0]
    assert_true(pipe.component)
    assert compiles() == KEPT + 3


def by_data(weight):
    weight.data[1:].neg_()


def by_numpy(weight):
    weight.numpy()[1:] *= -1


def in_place(weight):
    weight[1:].neg_()


def elsewhere(weight):
    weight.data = torch.cat([weight.data[:1], -weight.data[1:]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("change", [by_data, by_numpy, in_place, elsewhere], ids=lambda c: c.__name__)
def test_weights_changed_meanwhile(pipe, monkeypatch, change, dtype):
    """In float16 MindSpore has converted copies of them. What is written to is not among the elements looked at before
    every call."""
    monkeypatch.setattr(weights, "SAMPLE", 1)
    pipe.component.to(dtype)
    x = X.to(dtype)
    for act in ACTS[:2]:
        pipe.component.block.act = act
        assert_true(pipe.component, x)
    weight = pipe.component.first.inner.weight
    with torch.no_grad():
        change(weight)
    for act in (ACTS[0], ACTS[1], ACTS[0]):
        pipe.component.block.act = act
        assert_true(pipe.component, x)


@pytest.mark.parametrize("name", ["a", "b"])
def test_weights_changed_meanwhile_in_a_run(monkeypatch, name):
    """With the prompt of before, of which what is constant is still there: nothing else says that weights are looked
    at. One graph uses a, the other one b."""
    monkeypatch.setattr(weights, "SAMPLE", 1)
    module = cutting.Module(lambda m, x, text: (m.a(x) if m.flag else m.b(x)) + torch.exp(text)).half()
    component, engine = cutting.build(module, constant=("text",), strict=True)
    x, text = (t.half() for t in cutting.inputs(2))
    for i, flag in enumerate((True, False, True, False)):
        module.flag = flag
        cutting.assert_same(component(x, text=text), cutting.upstream(module, x, text=text), 2e-3)
        if i == 1:
            by_data(getattr(module, name).weight)
    stats = engine.stats()["cut"]
    assert (stats.compiles, stats.prologue_runs) == (2, 2)


def test_weights_that_left_the_module_are_freed(pipe, compiles):
    call(pipe.component)
    gone = weakref.ref(pipe.component.block.inner.weight)
    pipe.component.block = small_component.Block().requires_grad_(False)
    for scale in (1, 2):
        call(pipe.component, X * scale)
        pipe.component.block.act = torch.nn.ReLU()
    call(pipe.component)
    gc.collect()
    assert gone() is None


def test_no_more_graphs_than_asked_for(clean):
    pipe = small_component.pipeline()
    clean.enable(pipe, strict=True, max_graphs=2)
    for act in ACTS[:3]:
        pipe.component.block.act = act
        assert_true(pipe.component)
    stats = clean.stats()["component"]
    assert (stats.compiles, stats.evicted) == (3, 1)
    for act, compiles in ((ACTS[1], 3), (ACTS[0], 4)):
        pipe.component.block.act = act
        assert_true(pipe.component)
        assert clean.stats()["component"].compiles == compiles


def test_a_lora_switched_off_and_on(clean, tmp_path):
    write_lora(tmp_path / "ink", 10)
    ours, torchs = models.pipeline(), models.pipeline()
    clean.enable(ours, strict=True)
    for pipe in (ours, torchs):
        pipe.load_lora_weights(tmp_path / "ink", adapter_name="ink")
    for i in range(6):
        pictures = []
        for pipe in (ours, torchs):
            pipe.enable_lora() if i % 2 else pipe.disable_lora()
            pipe.set_adapters("ink", 0.5 + i)
            pipe.disable_lora() if not i % 2 else None
            pictures.append(pipe(**models.call_kwargs(num_inference_steps=4)).images)
        assert abs(pictures[0] - pictures[1]).max() < 1e-4
    assert {label: s.compiles for label, s in clean.stats().items()} == {
        "text_encoder": 2, "controlnet": 1, "unet": 2, "vae.decoder": 1
    }  # fmt: skip
