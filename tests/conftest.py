"""Shared fixtures: one set of tiny components for the session, so that a signature is compiled once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MS_CONTROLNET_THREADS", "1")

import models  # noqa: E402
import pytest  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the tests marked long, too")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Generated sources of the tests go to a folder of their own, which the workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["MS_CONTROLNET_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def parts():
    """Components shared by every pipeline of the parity tests."""
    return dict(
        unet=models.unet(), vae=models.vae(), text_encoder=models.text_encoder(), tokenizer=models.tokenizer(),
        nets=[models.controlnet(10), models.controlnet(20)], checker=models.safety_checker(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make(parts):
    """make(kind, nets=1, checker=False) → a pipeline over the shared components."""

    def make(kind="txt2img", nets=1, checker=False, **components):
        shared = {k: parts[k] for k in ("unet", "vae", "text_encoder", "tokenizer")}
        shared["controlnet"] = parts["nets"][0] if nets == 1 else parts["nets"][:nets]
        if checker:
            shared["safety_checker"] = parts["checker"]
        return models.pipeline(kind, nets, checker, **shared | components)

    return make


@pytest.fixture
def clean():
    """Everything disabled before and after."""
    import ms_controlnet_backend

    ms_controlnet_backend.disable()
    yield ms_controlnet_backend
    ms_controlnet_backend.disable()


@pytest.fixture
def pretend(monkeypatch):
    """``pretend(name, version)``: that this version of a distribution is installed."""
    from ms_controlnet_backend.compat import versions

    real = versions.installed

    def pretend(name, version):
        monkeypatch.setattr(versions, "installed", lambda n: version if n == name else real(n))

    versions._warn.cache_clear()
    return pretend
