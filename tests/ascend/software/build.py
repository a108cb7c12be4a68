"""Builds the software NPU's CANN for the MindSpore that is installed, alone or with torch_npu, and keeps it: a run
finds what another built.

In ``tests/``, ``python -m ascend.software.build`` prints the folder, with ``torch_npu`` after it that of both.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, util
from pathlib import Path

from ascend.software import kept, peer

SOURCES = Path(__file__).parent / "cann"
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fopenmp", "-fno-math-errno", "-Wall", "-Wno-unused-parameter"]
OLD_STRINGS = "-D_GLIBCXX_USE_CXX11_ABI=0"  # as MindSpore and CANN are built
LATEST = Path("cann", "latest")
"""MindSpore looks for a folder of this name."""
NAMES = "runtime nnopbase c_sec ascend_hal opapi acl_op_compiler acl_tdt_channel profapi hccl".split()
"""Libraries of CANN and the driver that MindSpore opens when it runs. Each, like those it is linked with, is empty and
brings the one that has it all."""


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def folder(beside: peer.Peer | None = None) -> Path:
    """The built CANN, built if need be. beside: whose package runs on it, too. Raises subprocess.CalledProcessError."""
    torch_npu = beside.folder() / "torch_npu" if beside is peer.TORCH_NPU else None
    inputs = [*sorted(SOURCES.iterdir()), Path(__file__), Path(__file__).with_name("symbols.py")]
    version = metadata.version("mindspore")
    if torch_npu is not None:
        version += f"-torch_npu-{beside.version}"
    said = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256(
        b"\0".join([*(p.read_bytes() for p in inputs), version.encode(), said.encode()])
    ).hexdigest()
    base = kept.folder(
        f"software_npu/{version}-{digest[:16]}", lambda scratch: _build(scratch / LATEST, torch_npu)
    )
    kept.tidy(base.parent)
    return base / LATEST


def _build(to: Path, torch_npu: Path | None) -> None:
    from ascend.software import symbols

    guests = [symbols.mindspore(_package("mindspore"))]
    if torch_npu is not None:
        guests.append(symbols.torch_npu(torch_npu, _package("torch")))
    libraries, objects = to / "lib64", to / "objects"
    for made in (libraries / "driver", objects, to / "opp", to / "runtime"):  # the last is what torch_npu looks for
        made.mkdir(parents=True)
    sources = sorted(SOURCES.glob("*.cpp"))

    def compiled(path: Path) -> Path:
        made = objects / f"{path.stem}.o"
        subprocess.run([compiler(), *FLAGS, OLD_STRINGS, "-c", path, "-o", made], check=True)
        return made

    def linked(name: str, *inputs: str | Path) -> None:
        """A shared library of that name."""
        soname = f"-Wl,-soname,{name}"
        subprocess.run([compiler(), "-shared", "-fopenmp", "-o", libraries / name, *inputs, soname], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(compiled, sources))
    rest = objects / "rest.c"
    rest.write_text(symbols.source(guests, files))
    subprocess.run([compiler(), "-x", "c", "-O0", "-fPIC", "-w", "-c", rest, "-o", objects / "rest.o"], check=True)
    linked("libascendcl.so", *files, objects / "rest.o")
    names = {f"lib{name}.so" for name in NAMES}.union(*(guest.wants() for guest in guests))
    for name in names - {"libascendcl.so"}:
        linked(name, "-Wl,--no-as-needed", f"-L{libraries}", "-lascendcl", "-Wl,-rpath,$ORIGIN")
    shutil.rmtree(objects)
    for name in ("libascend_hal.so", "libascendcl.so"):
        (libraries / "driver" / name).symlink_to(f"../{name}")
    (to / "compiler").mkdir()
    (to / "compiler" / "version.info").write_text("Version=8.5.0\n")  # which MindSpore 2.7 to 2.10 accept
    (to.parent / "lib64").symlink_to("latest/lib64")  # where MindSpore 2.7 looks


def _package(name: str) -> Path:
    return Path(util.find_spec(name).origin).parent


def environment(cann: Path, beside: peer.Peer | None = None) -> dict[str, str]:
    """What a process needs in order to find it, as CANN's set_env.sh sets it."""
    kernels = cann / "opp" / "built-in" / "op_impl" / "ai_core" / "tbe"
    paths = [str(kernels), *([] if beside is None else [str(beside.folder())]), os.environ.get("PYTHONPATH")]
    return {
        "LD_LIBRARY_PATH": f"{cann}/lib64:{cann}/lib64/driver", "ASCEND_HOME_PATH": str(cann),
        "ASCEND_OPP_PATH": f"{cann}/opp", "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }  # fmt: skip


if __name__ == "__main__":
    print(folder(peer.TORCH_NPU if sys.argv[1:] == ["torch_npu"] else None), file=sys.stdout)
