"""What MindSpore's library for aarch64 does to this thread's arithmetic is undone: played by torch, which can do the
same here."""

import subprocess
import sys

import pytest
import torch
from ms_controlnet_backend.compat import floating_point, mindspore_runtime


def small() -> float:
    """A number that is 0 where the smallest ones are made 0."""
    return float(torch.tensor(1e-38) * 1e-3)


@pytest.fixture(autouse=True)
def small_numbers():
    if not torch.set_flush_denormal(False):
        pytest.skip("torch cannot change it on this processor")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("before", [False, True])
def test_it_is_as_before(before):
    torch.set_flush_denormal(before)
    with floating_point.unchanged():
        torch.set_flush_denormal(not before)
        assert (small() == 0) is not before
    assert (small() == 0) is before


def test_also_when_the_import_fails():
    with pytest.raises(ImportError), floating_point.unchanged():
        torch.set_flush_denormal(True)
        raise ImportError
    assert small() > 0


def test_where_c_is_not_in_reach(monkeypatch):
    monkeypatch.setattr(floating_point.ctypes, "CDLL", lambda name: object())
    with floating_point.unchanged():
        torch.set_flush_denormal(True)
    assert small() == 0


def test_numpy_has_looked_before(tmp_path):
    """NumPy warns, once and for all of the process, of smallest numbers that are 0."""
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "import torch, numpy\n"
        "from ms_controlnet_backend.compat import floating_point\n"
        "with floating_point.unchanged():\n"
        "    torch.set_flush_denormal(True)\n"
        "    found = [numpy.finfo(t) for t in (numpy.float32, numpy.float64)]\n"
        "assert all(f.smallest_subnormal for f in found)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_importing_mindspore_changes_nothing():
    mindspore_runtime.mindspore()
    assert small() > 0
