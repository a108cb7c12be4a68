"""What a user can get wrong, and what they are told."""

import logging
import os
import stat
import subprocess
import sys

import models
import pytest
import torch
from ms_controlnet_backend.compat import versions

from ms_controlnet_backend.errors import DeviceUnavailable, Refused, UnknownDevice, UnsupportedVersion
from ms_controlnet_backend.runtime.source_cache import SourceCache, load


def test_unknown_device(clean):
    with pytest.raises(UnknownDevice, match="unknown device 'tpu'; known devices: ascend, cpu, npu"):
        clean.enable(device="tpu")


def test_ascend_on_a_machine_without_it(clean):
    with pytest.raises(DeviceUnavailable, match="no Ascend device here.*npu-smi info.*enable\\(device='cpu'\\)"):
        clean.enable(device="ascend")


def test_not_a_pipeline(clean):
    with pytest.raises(TypeError, match="needs a diffusers pipeline, got UNet2DConditionModel"):
        clean.enable(models.unet())
    with pytest.raises(TypeError, match="needs a diffusers pipeline, got str"):
        clean.disable("pipe")


@pytest.mark.parametrize("name, version, nearest", [
    ("torch", "2.4.1", "torch 2.5"), ("numpy", "2.1.0", "numpy<2")])  # fmt: skip
def test_version_known_not_to_work(clean, pretend, name, version, nearest):
    pretend(name, version)
    with pytest.raises(UnsupportedVersion, match=f"{name} {version} .*{nearest}"):
        clean.enable()


def test_old_torch_is_told_before_it_breaks_an_import():
    code = """
import importlib.metadata as m, sys
real = m.version
m.version = lambda name: "2.4.1" if name == "torch" else real(name)
import ms_controlnet_backend as b
try:
    b.enable
except b.errors.UnsupportedVersion as error:
    print(error, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("torch 2.4.1 is too old") and done.stdout.endswith("False\n"), done.stderr


@pytest.mark.parametrize("name, version, than", [
    ("mindspore", "2.11.0", "newer"), ("diffusers", "0.43.0.dev0", "newer"), ("torch", "3.0", "newer"),
    ("transformers", "6.0.1", "newer"), ("mindspore", "2.6.0", "older"), ("diffusers", "0.21.4", "older"),
    ("transformers", "4.25.1", "older")])  # fmt: skip
def test_untested_version(clean, pretend, caplog, name, version, than):
    """It is said once, and tried."""
    pretend(name, version)
    clean.enable()
    clean.disable()
    clean.enable()
    (said,) = [r.getMessage() for r in caplog.records if "tested" in r.getMessage()]
    known = versions.RANGES[name]
    assert said.startswith(f"{name} {version} is {than} than what was tested ({name} {known.first} to {known.tested})")
    assert "pip" not in said


def test_missing_dependency(monkeypatch):
    monkeypatch.setattr(versions, "installed", lambda n: None)
    with pytest.raises(UnsupportedVersion, match="mindspore is not installed: pip install 'mindspore>="):
        versions.require("mindspore")


@pytest.mark.parametrize("version, works, tested", [
    ("2.7.0", True, True), ("2.10.0rc1", True, True), ("2.10.9", True, True), ("2.11", True, False),
    ("2.6.9", True, False)])  # fmt: skip
def test_version_ranges(pretend, version, works, tested):
    pretend("mindspore", version)
    assert (versions.problem("mindspore") is None) == works
    assert (works and versions.untested("mindspore") is None) == tested


def test_unwritable_cache_folder(tmp_path, caplog):
    """Root may write anywhere, so a file stands in the folder's way."""
    (tmp_path / "file").write_text("")
    cache = SourceCache(tmp_path / "file" / "cache")
    assert "cannot be written" in caplog.text and "MS_CONTROLNET_CACHE" in caplog.text
    assert cache.write("x", "a = 1\n").read_text() == "a = 1\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_read_only_cache_folder(tmp_path, caplog):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    SourceCache(tmp_path)
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("damage", [b"", b"a = 2\n", b"\xff\xfe\x00"])
def test_damaged_cache_file(tmp_path, caplog, damage):
    cache = SourceCache(tmp_path)
    path = cache.write("x", "a = 1\n")
    path.write_bytes(damage)
    assert cache.write("x", "a = 1\n") == path
    assert "is damaged" in caplog.text and "written again" in caplog.text
    assert load(path).a == 1


class Odd(torch.nn.Module):
    """A component with an operator that nobody lowers."""

    def forward(self, x):
        return torch.special.bessel_j0(x) + 1


@pytest.fixture
def odd_pipeline():
    from diffusers import DiffusionPipeline

    from ms_controlnet_backend import plugins
    from ms_controlnet_backend.hookspecs import Adapter, Site, hookimpl

    class Plugin:
        @hookimpl
        def register_adapters(self):
            return [Adapter("odd", lambda c: isinstance(c, Odd), lambda c, name: [Site(name, c)])]

    class Pipeline(DiffusionPipeline):
        def __init__(self, odd):
            super().__init__()
            self.odd = odd

    plugin = Plugin()
    plugins.manager().register(plugin)
    yield Pipeline(Odd())
    plugins.manager().unregister(plugin)


def test_unknown_operator_runs_on_the_host_with_one_warning(clean, odd_pipeline, caplog):
    clean.enable()
    x = torch.randn(2, 3)
    for _ in range(3):
        assert torch.equal(odd_pipeline.odd(x), torch.special.bessel_j0(x) + 1)
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(messages) == 1
    assert "odd is compiled but for what torch runs on the host" in messages[0]
    assert "aten.special_bessel_j0.default (aten::special_bessel_j0(Tensor self) -> Tensor)" in messages[0]
    assert "register_lowerings" in messages[0]
    assert (clean.stats()["odd"].calls, clean.stats()["odd"].fallbacks) == (3, 0)


def test_unknown_operator_in_strict_mode(clean, odd_pipeline):
    clean.enable(strict=True)
    with pytest.raises(Refused, match="special_bessel_j0"):
        odd_pipeline.odd(torch.randn(2, 3))


def test_arguments_that_cannot_be_captured_are_refused_not_dropped(clean, caplog):
    pipe = models.pipeline()
    clean.enable(strict=True)
    with torch.no_grad(), pytest.raises(Refused, match="argument 'added_cond_kwargs' of type object is neither"):
        pipe.unet(torch.randn(1, 4, 32, 32), 1, torch.randn(1, 77, 16), added_cond_kwargs=object())


def test_a_wrong_call_raises_upstreams_own_error(clean):
    pipe = models.pipeline()
    clean.enable()
    with torch.no_grad(), pytest.raises(RuntimeError, match="expected input"):
        pipe.unet(torch.randn(1, 3, 32, 32), 1, torch.randn(1, 77, 16))
    with pytest.raises(TypeError, match="encoder_hidden_states"):
        pipe.unet(torch.randn(1, 4, 32, 32), 1)
    with pytest.raises(ValueError, match="prompt"):
        pipe(image=models.picture())


def test_a_graph_that_mindspore_rejects_stays_on_torch(clean, caplog, monkeypatch, tmp_path):
    """A failed compile: parts with a product stay on torch, and nothing is written into the working folder."""
    from ms_controlnet_backend import codegen

    monkeypatch.chdir(tmp_path)
    real = codegen.generate
    monkeypatch.setattr(
        codegen, "generate", lambda *a, **k: real(*a, **k).replace("= MatMul(", "= ops.Reshape()((7, 7), ")
    )
    pipe = models.pipeline()
    x, text = torch.randn(1, 4, 32, 32), torch.randn(1, 77, 16)
    with torch.no_grad():
        expected = pipe.unet(x, 1, text).sample
        clean.enable()
        got = pipe.unet(x, 1, text).sample
    assert torch.allclose(got, expected, atol=1e-4)
    assert "parameters compiled: MindSpore does not compile" in caplog.text
    assert list(tmp_path.iterdir()) == []
