"""Runs this package as on an aarch64 machine, emulated by qemu-user, on Debian 12 (its Python 3.11) for amd64. As root:

    dpkg --add-architecture arm64; apt-get update; apt-get install qemu-user g++-aarch64-linux-gnu

then, as anybody, with a Python that has pip, setuptools and wheel:

    python tests/aarch64/run.py FOLDER              # what FOLDER lacks is made (2.5 GB); then all jobs: see JOBS
    python tests/aarch64/run.py FOLDER doctor demo  # some; a folder made before keeps its package: delete FOLDER/site

Debian's packages are unpacked into FOLDER/root, the wheels that pip chooses for aarch64 into FOLDER/site. Nothing of it
is installed on the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = "3.11"
PACKAGES = f"""python{PYTHON}-minimal libpython{PYTHON}-minimal libpython{PYTHON}-stdlib libc6 libcrypt1 libstdc++6
    libgcc-s1 libgomp1 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1""".split()
WHEELS = ["torch<2.11", "transformers<5.24", "accelerate>=1", "pytest>=8", "pytest-timeout>=2.3"]
"""beside the package's own. torch: PyPI's later ones for aarch64 bring CUDA. transformers: as the tests want it."""
CLI = ["-m", "ms_controlnet_backend.cli"]
PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-o", "timeout=0", "-q", "--durations=0"]
JOBS = {
    "import": ["-c", "import ms_controlnet_backend"],
    "doctor": [*CLI, "doctor"],
    "pipelines": [*PYTEST, "tests/test_parity.py::test_pipeline"],
    "npu": [*PYTEST, "tests/ascend/software/test_software_npu.py::test_eager_and_compiled",
            "tests/ascend/software/test_pipelines.py::test_pipeline[txt2img]"],
    "demo": [*CLI, "demo", "--steps", "2"],
}  # fmt: skip
AARCH64, NPU = 183, 0x1029
"""e_machine of ELF files, at byte 18; MindSpore's wheel has kernels for the NPU in it"""


def python(folder: Path) -> Path:
    """The emulated one, Debian's packages unpacked if need be. A script, so that it can be what ``sys.executable``
    names: processes that Python starts are emulated as well, without binfmt_misc."""
    root = folder / "root"
    script = root / "usr" / "bin" / "python"
    if not script.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            subprocess.run(["apt-get", "download", *(f"{p}:arm64" for p in PACKAGES)], cwd=scratch, check=True)
            for package in Path(scratch).glob("*.deb"):
                subprocess.run(["dpkg", "-x", package, root], check=True)
        script.write_text(f'#!/bin/sh\nexec qemu-aarch64 -L "{root}" -0 "$0" "{script}{PYTHON}" "$@"\n')
        script.chmod(0o755)
    return script


def site(folder: Path) -> Path:
    """The wheels for aarch64 and this package's, unpacked if need be."""
    made = folder / "site"
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            source = Path(scratch, "source")
            source.mkdir()
            archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)
            subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", scratch, source], check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            unpacked = Path(scratch, "site")  # all of it, or nothing is kept
            pip = [sys.executable, HERE / "pip_for.py", PYTHON, "install", "-q", "--no-compile", "--target", unpacked]
            # a constraint of the machine would be for the machine's own processor
            subprocess.run([*pip, wheel, *WHEELS], check=True, env=os.environ | {"PIP_CONSTRAINT": os.devnull})
            foreign = [str(p) for p in unpacked.rglob("*") if machine(p) not in (None, AARCH64, NPU)]
            assert not foreign, f"not for aarch64: {foreign[:5]}"
            unpacked.rename(made)
    return made


def machine(path: Path) -> int | None:
    """What a program or library is compiled for; None for other files."""
    if path.is_symlink() or not path.is_file():
        return None
    with open(path, "rb") as f:
        head = f.read(20)
    return int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" else None


def main(folder: str, *jobs: str) -> int:
    made = Path(folder).resolve()
    emulated = python(made)
    environment = os.environ | {
        "PYTHONPATH": str(site(made)), "PYTHONSAFEPATH": "1",  # the package is the site's, not the checkout's
        "XDG_CACHE_HOME": str(made / "cache"), "CXX": "aarch64-linux-gnu-g++", "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1", "MS_CONTROLNET_THREADS": "1",
    }  # fmt: skip
    lines = []
    for job in jobs or JOBS:
        began = time.time()
        code = subprocess.run([emulated, *JOBS[job]], cwd=ROOT, env=environment).returncode
        lines.append(f"{job}: exit code {code}, {time.time() - began:.0f} s")
    print("\n".join(lines))
    return int(any("exit code 0" not in line for line in lines))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
