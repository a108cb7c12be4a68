"""Which versions are tested together, and with what."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import NamedTuple


class Set(NamedTuple):
    """python: its minor version. pins: what is installed beside this package."""

    python: str
    pins: tuple[str, ...]

    @classmethod
    def of(cls, python: str, **versions: str) -> Set:
        return cls(python, tuple(f"{name}=={version}" for name, version in versions.items()))


_OF_THE_TESTS = dict(torch="2.13.0", diffusers="0.42.1", transformers="5.23.0", peft="0.21.2", accelerate="1.15.0")
SETS = {
    "AnimateAnyone": Set.of("3.10", torch="2.5.1", diffusers="0.24.0", transformers="4.30.2", huggingface_hub="0.20.2",
                            accelerate="0.25.0"),
    "InstantID": Set.of("3.10", torch="2.6.0", diffusers="0.25.0", transformers="4.36.2", huggingface_hub="0.20.2",
                        accelerate="0.25.0"),
    "sd-scripts": Set.of("3.10", torch="2.6.0", diffusers="0.25.0", transformers="4.44.0", huggingface_hub="0.24.5",
                         accelerate="0.30.0"),
    "0.25": Set.of("3.10", torch="2.6.0", diffusers="0.25.0", transformers="4.36.2", huggingface_hub="0.25.2",
                   accelerate="0.25.0", peft="0.7.1"),
    "0.27": Set.of("3.11", torch="2.13.0", diffusers="0.27.2", transformers="4.39.3", huggingface_hub="0.25.2",
                   accelerate="0.28.0", peft="0.10.0"),
    "0.30": Set.of("3.11", torch="2.13.0", diffusers="0.30.3", transformers="4.44.2", huggingface_hub="0.25.2",
                   accelerate="0.33.0", peft="0.12.0"),
    "0.32": Set.of("3.11", torch="2.13.0", diffusers="0.32.2", transformers="4.47.1", huggingface_hub="0.27.1",
                   accelerate="1.2.1", peft="0.14.0"),
    "0.35": Set.of("3.11", torch="2.13.0", diffusers="0.35.2", transformers="4.57.1", huggingface_hub="0.35.3",
                   accelerate="1.10.1", peft="0.17.1"),
    "0.38": Set.of("3.11", torch="2.13.0", diffusers="0.38.0", transformers="5.9.0", accelerate="1.13.0",
                   peft="0.19.1"),
    "newest": Set.of("3.12", torch="2.15.0", diffusers="0.42.1", transformers="5.24.0", accelerate="1.15.0",
                     peft="0.21.2"),
    "MindSpore 2.7": Set.of("3.11", mindspore="2.7.2", **_OF_THE_TESTS),
    "MindSpore 2.8": Set.of("3.11", mindspore="2.8.0", **_OF_THE_TESTS),
    "MindSpore 2.9": Set.of("3.11", mindspore="2.9.0", **_OF_THE_TESTS),
}  # fmt: skip

SCRIPTS = """
    sd_auto_pipeline sd_canny_offload sd_canny_xformers sd_depth_cuda sd_fp16_variant sd_freeu sd_guess_mode
    sd_guidance_window sd_img2img sd_inpaint sd_lora_scales sd_memory_savers sd_multi_controlnet sd_prompt_embeds
    sd_safety_checker sd_save_and_reload sd_sequential_offload sd_swap_controlnet sd_textual_inversion t2i_adapter
    xl_canny xl_inpaint

    sd_callback sd_faster sd_ip_adapter xl_union
""".split()
"""The last four use what is younger than diffusers 0.25."""

JOB = ("tests/test_parity.py", "tests/test_scales.py", "tests/test_ip_adapter.py", "tests/test_schedulers.py",
       "tests/test_freshness.py", "tests/test_foreign_changes.py", "tests/test_foreign_effects.py",
       "tests/test_checkpoint.py::test_all_versions_read_it_alike", "tests/test_cli.py::test_demo",
       *(f"tests/test_scripts.py::test_same_pictures[{name}]" for name in SCRIPTS))  # fmt: skip
"""What runs with each set."""

ON_ASCEND = [f"tests/ascend/software/test_{name}.py" for name in ("software_npu", "operators", "pipelines", "steps")]
"""What runs besides with each release of MindSpore: on the software NPU."""

PROJECTS = {
    "InstantID": ("instantid",),
    "sd-scripts": ("kohya_network",),
    "AnimateAnyone": ("animate_anyone", "ip_adapter_repository"),
    "0.27": ("controlnet_guide", "reference_only"),
}
"""Set → the programs of ``projects/`` that run with it. The first three sets are those of the projects, without peft,
and run nothing else. IP-Adapter's repository wants any diffusers from 0.19.3, the community pipeline none at all."""


def job(name: str) -> list[str]:
    """The tests of a set."""
    projects = [f"tests/matrix/test_projects.py::test_project[{project}]" for project in PROJECTS.get(name, ())]
    has_peft = any(pin.startswith("peft==") for pin in SETS[name].pins)
    on_ascend = ON_ASCEND if name.startswith("MindSpore") else []
    return [*JOB, *projects, *on_ascend] if has_peft else projects


def is_installed(a_set: Set) -> bool:
    """In this environment?"""
    pins = dict(pin.split("==") for pin in a_set.pins)
    return all(metadata.version(name).split("+")[0] == pins[name] for name in ("diffusers", "transformers"))


def interpreter(version: str) -> str | None:
    """A Python of this minor version: on the path, or one of pyenv's."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    known = (str(p) for p in sorted(versions.glob(f"{version}.*/bin/python")))
    for python in filter(None, (shutil.which(f"python{version}"), *known)):
        code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
        if done.stdout.strip() == version:
            return python
    return None
