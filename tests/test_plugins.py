"""The plugin road: documented hooks, a third party's plugin, duplicates and broken ones."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pluggy
import pytest
import torch

import ms_controlnet_backend
from ms_controlnet_backend import hookspecs, plugins
from ms_controlnet_backend.errors import RegistrationError, UnknownBackend
from ms_controlnet_backend.hookspecs import Backend, Lowering, Pass, Probe, hookimpl

HERE = Path(__file__).parent
HOOKS = [n for n in vars(hookspecs.Specs) if not n.startswith("_")]
BUILT_IN = ("adapters", "backends.eager_torch", "backends.mindspore", "lowering", "passes")


def fresh_manager():
    manager = pluggy.PluginManager(hookspecs.GROUP)
    manager.add_hookspecs(hookspecs.Specs)
    for name in BUILT_IN:
        manager.register(importlib.import_module(f"ms_controlnet_backend.{name}"))
    return manager


@pytest.mark.parametrize("hook", HOOKS)
def test_the_documentation_of_every_hook_runs(hook):
    manager = fresh_manager()
    text = getattr(hookspecs.Specs, hook).__doc__
    names = {"manager": manager, "registry": lambda: plugins.Registry(manager)}
    parsed = doctest.DocTestParser().get_doctest(text, names, hook, None, None)
    assert len(parsed.examples) >= 2
    result = doctest.DocTestRunner().run(parsed)
    assert result.failed == 0


def test_a_third_partys_plugin(tmp_path):
    """Installed by pip: its adapter and lowering are used, its broken sister is warned about and left out."""
    target, project = tmp_path / "site", tmp_path / "project"
    project.mkdir()
    for file in (HERE / "third_party_plugin").glob("*"):
        if file.is_file():
            (project / file.name).write_bytes(file.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, project], check=True)
    code = f"import sys; sys.path.insert(0, {str(target)!r}); exec(open({str(project / 'use_it.py')!r}).read())"
    script = tmp_path / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(target)!r})\n" + (project / "use_it.py").read_text())
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + code
    assert "both used" in done.stdout
    assert done.stdout.count("plugin 'broken' is broken and left out: RuntimeError: no such luck") == 1


def registry_with(**hooks):
    manager = fresh_manager()
    plugin = type("Plugin", (), {n: staticmethod(hookimpl(lambda items=items: items)) for n, items in hooks.items()})
    manager.register(plugin())
    return plugins.Registry(manager)


def mine(b, x):
    return x


SILU = torch.ops.aten.silu.default


def test_duplicate_lowering_is_an_error_unless_it_has_priority():
    with pytest.raises(RegistrationError, match="two lowerings of aten.silu.default.*higher priority"):
        registry_with(register_lowerings=[Lowering(SILU, mine)]).lowerings
    registry = registry_with(register_lowerings=[Lowering(SILU, mine, priority=1)])
    assert registry.lowering(SILU, "CPU").function is mine
    assert registry.lowering(SILU, "Ascend").function is mine  # which has one of its own, of less priority
    sigmoid = torch.ops.aten.sigmoid.default
    registry = registry_with(register_lowerings=[Lowering(sigmoid, mine, target="Ascend")])
    assert registry.lowering(sigmoid, "CPU").function is not mine
    assert registry.lowering(sigmoid, "Ascend").function is mine


def test_packet_keys_are_an_error():
    with pytest.raises(RegistrationError, match="not an overload"):
        registry_with(register_lowerings=[Lowering(torch.ops.aten.silu, mine)]).lowerings


def test_a_lowering_that_would_drop_an_argument_is_an_error():
    with pytest.raises(RegistrationError, match="takes 1 arguments after the builder, the schema has 2"):
        registry_with(register_lowerings=[Lowering(torch.ops.aten.gelu.default, mine, priority=1)]).lowerings


def test_passes_run_in_order():
    registry = registry_with(register_passes=[Pass("first", mine, order=-1), Pass("last", mine, order=999)])
    names = [p.name for p in registry.passes("CPU")]
    assert names[0] == "first" and names[-1] == "last" and "fold_constants" in names


def test_unknown_backend_lists_the_known(clean):
    with pytest.raises(UnknownBackend, match="no backend named 'tensorrt'; known backends: mindspore, torch"):
        clean.enable(backend="tensorrt")
    with pytest.raises(UnknownBackend), clean.using("tensorrt"):
        pass


def test_a_plugin_that_fails_in_its_hook_is_left_out(caplog):
    manager = fresh_manager()

    class Plugin:
        @hookimpl
        def register_backends(self):
            raise OSError("driver missing")

    manager.register(Plugin(), name="unlucky")
    registry = plugins.Registry(manager)
    assert set(registry.backends) == {"mindspore", "torch"}
    assert "plugin 'unlucky' is broken and left out: OSError: driver missing" in caplog.text


def test_a_backend_of_a_plugin_runs_components(clean):
    import models

    class Halving:
        """Runs upstream's forward and halves what comes out: visible from outside."""

        def component(self, site):
            if site.label != "unet":
                return None
            return lambda original, args, kwargs: (original(*args, **kwargs)[0] * 0.5,)

        def describe(self):
            return "halving"

    class Plugin:
        @hookimpl
        def register_backends(self):
            return [Backend("halving", lambda o: Probe(True, "CPU"), lambda o: Halving())]

    plugin = Plugin()
    pipe = models.pipeline()
    plugins.manager().register(plugin)
    try:
        x, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 16)
        with torch.no_grad():
            expected = pipe.unet(x, 1, text, return_dict=False)[0]
            with ms_controlnet_backend.using("halving"):
                assert torch.equal(pipe.unet(x, 1, text, return_dict=False)[0], expected * 0.5)
    finally:
        plugins.manager().unregister(plugin)


def test_observers_hear_of_every_compilation(clean):
    import models

    events = []

    class Plugin:
        @hookimpl
        def component_compiled(self, event):
            events.append(event)

    plugin = Plugin()
    plugins.manager().register(plugin)
    try:
        pipe = models.pipeline()
        clean.enable(pipe, strict=True)
        with torch.no_grad():
            for _ in range(2):
                pipe.unet(torch.randn(1, 4, 32, 32), 1, torch.randn(1, 77, 16))
    finally:
        plugins.manager().unregister(plugin)
    (event,) = events
    assert event.label == "unet" and "sample: float32[1, 4, 32, 32]" in event.signature
    assert event.operators["aten.conv2d.default"] > 5 and Path(event.source).is_file()
    assert event.capture_s > 0 and event.compile_s > 0
