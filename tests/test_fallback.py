"""No script that runs on torch may crash: whatever fails, the component stays on torch and one warning says why."""

import gc
import logging

import pytest
import torch

from ms_controlnet_backend import plugins
from ms_controlnet_backend.errors import Refused
from ms_controlnet_backend.hookspecs import Adapter, Site, hookimpl
from ms_controlnet_backend.runtime import component, eager, executable
from ms_controlnet_backend.runtime.resident import ResidentTensor


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x):
        return self.linear(x).relu()


class Plugin:
    """Small is a component whose output stays on the device."""

    @hookimpl
    def register_adapters(self):
        return [Adapter("small", lambda c: isinstance(c, Small), lambda c, name: [Site(name, c, resident=True)])]


@pytest.fixture
def register():
    registered = []

    def register(plugin):
        plugins.manager().register(plugin)
        registered.append(plugin)

    yield register
    for plugin in registered:
        plugins.manager().unregister(plugin)


@pytest.fixture
def pipe(register):
    from diffusers import DiffusionPipeline

    class Pipeline(DiffusionPipeline):
        def __init__(self, small):
            super().__init__()
            self.small = small

    gc.collect()  # pipelines of other tests would be enabled too, and warned of
    register(Plugin())
    return Pipeline(Small())


X = torch.linspace(-1, 1, 8).reshape(2, 4)


def fail(*args, **kwargs):
    raise KeyError("a defect\nwith details")


def warnings(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("where", [(component, "capture"), (executable, "lower_for"), (executable, "split_for")])
def test_a_defect_while_compiling(clean, pipe, monkeypatch, caplog, where):
    """The component is tried once, and its only part."""
    expected = pipe.small(X)
    attempts = []
    monkeypatch.setattr(*where, lambda *a, **k: (attempts.append(1), fail()))
    clean.enable()
    for _ in range(3):
        assert torch.equal(pipe.small(X), expected)
    assert warnings(caplog) == ["small stays on torch: unexpected KeyError: 'a defect\\nwith details'"]
    assert len(attempts) == 2 and clean.stats()["small"].fallbacks == 3
    clean.enable(strict=True)
    with pytest.raises(Refused, match="unexpected KeyError"):
        pipe.small(X)


def test_a_graph_that_fails_later(clean, pipe, monkeypatch, caplog):
    expected = pipe.small(X)
    clean.enable()
    assert isinstance(pipe.small(X), ResidentTensor)
    monkeypatch.setattr(executable.Executable, "__call__", fail)
    for _ in range(3):
        assert torch.equal(pipe.small(X), expected)
    assert len(warnings(caplog)) == 1 and "small stays on torch: unexpected KeyError" in warnings(caplog)[0]


def test_a_defect_in_an_operator_between_components(clean, pipe, monkeypatch, caplog):
    expected = pipe.small(X)
    clean.enable()
    out = pipe.small(X)
    monkeypatch.setattr(eager, "_captured", fail)
    for _ in range(3):
        assert torch.allclose(out + out, expected * 2, atol=1e-6)
    assert len(warnings(caplog)) == 1 and "aten.add.Tensor between components runs on torch" in warnings(caplog)[0]


def test_an_operator_between_components_that_fails_later(clean, pipe, monkeypatch, caplog):
    expected = pipe.small(X)
    clean.enable()
    out = pipe.small(X)
    assert isinstance(out * 3, ResidentTensor)
    monkeypatch.setattr(executable.Executable, "__call__", fail)
    for _ in range(3):
        assert torch.allclose(out * 3, expected * 3, atol=1e-6)
    assert len(warnings(caplog)) == 1 and "aten.mul.Tensor between components runs on torch" in warnings(caplog)[0]


def test_a_broken_observer(clean, pipe, register, caplog):
    expected = pipe.small(X)

    class Broken:
        @hookimpl
        def component_compiled(self, event):
            fail()

    register(Broken())
    clean.enable(strict=True)
    assert torch.allclose(pipe.small(X), expected, atol=1e-6)
    assert clean.stats()["small"].calls == 1
    assert warnings(caplog) == ["a plugin's component_compiled failed: unexpected KeyError: 'a defect\\nwith details'"]


@pytest.mark.parametrize("part, on_mindspore", [("matches", True), ("sites", False)])
def test_a_broken_adapter(clean, pipe, register, caplog, part, on_mindspore):
    """The next one that knows the component gets it; one that knows it but fails leaves it on torch."""
    expected = pipe.small(X)
    name = f"broken-{part}"  # warnings come once a process

    class Broken:
        @hookimpl
        def register_adapters(self):
            functions = {"matches": lambda c: isinstance(c, Small), "sites": lambda c, name: []} | {part: fail}
            return [Adapter(name, **functions, priority=1)]

    register(Broken())
    clean.enable(strict=True)
    assert torch.allclose(pipe.small(X), expected, atol=1e-6)
    assert ("small" in clean.stats()) == on_mindspore
    assert len(warnings(caplog)) == 1 and f"adapter '{name}'" in warnings(caplog)[0]
    assert "KeyError: 'a defect" in warnings(caplog)[0]
