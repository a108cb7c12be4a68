"""An old and a middle release of diffusers and transformers, laid over this environment for a short job. The sets of
``sets.py``, which have a Python, a torch and a MindSpore of their own, take nox and a quarter of an hour each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RELEASES = {
    "oldest": ["diffusers==0.25.0", "transformers==4.36.2", "huggingface_hub==0.25.2", "tokenizers==0.15.2",
               "accelerate==0.25.0", "peft==0.7.1"],
    "middle": ["diffusers==0.30.3", "transformers==4.44.2", "huggingface_hub==0.25.2", "tokenizers==0.19.1",
               "accelerate==0.33.0", "peft==0.12.0"],
}  # fmt: skip
WANTED = ["requests", "importlib_metadata", "regex", "filelock"]
"""By old releases and no longer by new ones."""
JOB = """
    test_parity.py::test_pipeline test_parity.py::test_two_controlnets[txt2img]
    test_scales.py::test_two_adapters_and_blocks test_scales.py::test_scale_in_the_call
    test_scales.py::test_scale_that_a_processor_takes test_ip_adapter.py::test_loaded_scaled_and_unloaded
    test_schedulers.py::test_scheduler[UniPCMultistepScheduler] test_checkpoint.py::test_all_versions_read_it_alike
    test_scripts.py::test_same_pictures[sd_img2img] test_scripts.py::test_same_pictures[xl_inpaint]
""".split()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("name", RELEASES)
def test_short_job(tmp_path, name):
    folder = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", folder]
    environment = dict(os.environ, PIP_CONSTRAINT=os.devnull)
    subprocess.run([*pip, "--no-deps", *RELEASES[name]], check=True, env=environment)
    subprocess.run([*pip, *WANTED], check=True, env=environment)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment = dict(kept, PYTHONPATH=str(folder), OMP_NUM_THREADS="1", MS_CONTROLNET_THREADS="1")
    job = [f"tests/{test}" for test in JOB]
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *job], cwd=ROOT,
                          env=environment, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    kinds = 3  # of pipelines, in test_pipeline
    assert f"{len(JOB) - 1 + kinds} passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-300:]
