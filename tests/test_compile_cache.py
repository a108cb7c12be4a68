"""What MindSpore made of a graph is kept from process to process, and no graph is taken for another."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import models
import parity
import pytest
import torch
from ms_controlnet_backend.compat import compile_cache


@pytest.fixture
def found(monkeypatch):
    """Of each compilation: was it found?"""
    seen = []
    original = compile_cache.CompileCache._find

    def find(self, key):
        path = original(self, key)
        seen.append(path is not None)
        return path

    monkeypatch.setattr(compile_cache.CompileCache, "_find", find)
    return seen


def denoise(unet, size=8):
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(*s, generator=generator) for s in ((2, 4, size, size), (2, 77, 16))]
    with torch.no_grad():
        return unet(inputs[0], 7, inputs[1]).sample


def enabled(clean, folder, **kwargs):
    """A pipeline whose modules nothing was compiled for in this process."""
    clean.disable()
    pipe = models.pipeline(unet=models.unet(**kwargs))
    clean.enable(pipe, strict=True, cache_dir=folder)
    return pipe


def assert_right(pipe, size=8):
    got = denoise(pipe.unet, size)
    with pipe_on_torch():
        expected = denoise(pipe.unet, size)
    assert parity.relative_error(got, expected) < parity.COMPONENT


def pipe_on_torch():
    import ms_controlnet_backend

    return ms_controlnet_backend.using("torch")


def test_found_again(clean, tmp_path, found):
    names = (compile_cache._ENABLE, compile_cache._PATH, compile_cache._FORCE)
    before = [os.environ.get(name) for name in names]
    for known in (False, True):
        pipe = enabled(clean, tmp_path)
        assert_right(pipe)
        assert found == [known] * 2  # prologue and step
        with torch.no_grad():  # the graph lies on this module's weights
            pipe.unet.conv_in.bias.add_(1)
        assert_right(pipe)
        found.clear()
    assert [os.environ.get(name) for name in names] == before


def test_no_graph_is_taken_for_another(clean, tmp_path, found):
    """Sizes and modules in other orders than when they were compiled, some of them new."""
    for size in (8, 16):
        assert_right(enabled(clean, tmp_path), size)
    found.clear()
    for size, kwargs, known in ((16, {}, True), (8, {"attention_head_dim": 2}, False), (8, {}, True), (24, {}, False)):
        assert_right(enabled(clean, tmp_path, **kwargs), size)
        assert all(found) == known
        found.clear()


def test_a_failed_compilation_does_not_mix_them_up(clean, tmp_path, found, monkeypatch):
    cache = compile_cache.CompileCache(tmp_path / "compiled")
    assert_right(enabled(clean, tmp_path))
    with pytest.raises(ZeroDivisionError), cache.compiling("nothing"):
        raise ZeroDivisionError
    found.clear()
    for size in (16, 8):
        assert_right(enabled(clean, tmp_path), size)
    assert found == [False, False, True, True]


def test_another_process_finds_it(tmp_path):
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import models, torch, ms_controlnet_backend
pipe = models.pipeline()
ms_controlnet_backend.enable(pipe, strict=True, cache_dir={str(tmp_path)!r})
with torch.no_grad():
    out = pipe.unet(torch.ones(2, 4, 8, 8), 7, torch.ones(2, 77, 16)).sample
print(out.sum().item())
"""
    environment = os.environ | {"GLOG_v": "2"}
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        for _ in range(2)
    ]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr[-2000:]
    assert runs[0].stdout == runs[1].stdout
    used = [run.stderr.count("Use the compilation cache") for run in runs]  # MindSpore's own word
    assert used == [0, 2]


@pytest.mark.parametrize("renamed", [False, True])
def test_a_damaged_file_is_not_used(clean, tmp_path, found, caplog, renamed):
    """Nor does one do harm that cannot be read although its name is right."""
    assert_right(enabled(clean, tmp_path))
    for file in (tmp_path / "compiled").glob("*.mindir"):
        file.chmod(0o600)
        file.write_bytes(b"nonsense")
        if renamed:
            digest = hashlib.sha256(b"nonsense").hexdigest()[:16]
            file.rename(file.with_name(f"{file.stem.split('-')[0]}-{digest}.mindir"))
    found.clear()
    with caplog.at_level(logging.WARNING):
        assert_right(enabled(clean, tmp_path))
    assert found == [renamed] * 2 and ("damaged" in caplog.text) != renamed
    found.clear()
    assert_right(enabled(clean, tmp_path))
    assert all(found)


def test_a_script_with_a_cache_of_its_own_keeps_it(clean, tmp_path, found, monkeypatch):
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    cache = compile_cache.CompileCache(tmp_path)
    with cache.compiling("anything") as known:
        assert not known and "MS_DEV_FORCE_USE_COMPILE_CACHE" not in os.environ
    assert not found
