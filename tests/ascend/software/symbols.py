"""The C source of everything that a guest's libraries want of CANN and ``cann/*.cpp`` does not define. Guests are
MindSpore and torch_npu.

Each such function counts that it was called and returns 0; an aclnn operator fails by its name.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

INTERFACES = rb"(?<![A-Za-z0-9_])((?:acl|rt|Hccl)[A-Za-z0-9]+)(?=\0)"
"""What the libraries look up by name (dlsym) when they run."""
LOOKED_UP = r"acl(rt|mdl|op|tdt|prof|Set|Get|Create|Destroy|Update|Gen)\w+|Hccl(Set|Get|Comm)\w+"
PLAIN = ("libstdc++.so.6", "libgomp.so.1", "libm.so.6", "libgcc_s.so.1")


@dataclass
class Guest:
    """libraries: those that are linked with CANN, or open it. others: what else they find their symbols in. brought:
    file names of libraries that come with them."""

    libraries: list[Path]
    others: list[Path]
    brought: set[str]

    def wants(self) -> set[str]:
        """File names of the libraries that it is linked with and that are not there."""
        lines = subprocess.run(["readelf", "-d", *self.libraries], capture_output=True, text=True).stdout
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", lines)) - self.brought
        return {name for name in needed if name.startswith("lib") and not _loads(name)}


def mindspore(package: Path) -> Guest:
    """package: the folder of the installed package, as below."""
    plugins = package / "lib" / "plugin"
    inside = [p for p in plugins.rglob("*.so*") if "ascend" in str(p.relative_to(plugins)) and "asdops" not in p.parts]
    others = [*(package / "lib").glob("*.so*"), *plugins.glob("*_cpu*.so*"), *inside]
    return Guest(inside, others, {p.name for p in (package / "lib").rglob("*.so*")})


def torch_npu(package: Path, torch: Path) -> Guest:
    """Without libop_plugin_atb.so, which is opened only where the library ATB is."""
    inside = [*package.glob("_C*.so"), *(p for p in (package / "lib").glob("*.so") if "_atb" not in p.name)]
    others = [*(torch / "lib").glob("*.so*"), *inside]
    return Guest(inside, others, {p.name for p in others})


def _loads(name: str) -> bool:
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False


def source(guests: list[Guest], objects: list[Path]) -> str:
    """objects: the compiled ``cann/*.cpp``."""
    own, wanted, named = _symbols("--defined-only", *objects), set(), set()
    for guest in guests:
        wanted |= _symbols("-D", "--undefined-only", *guest.libraries) - _symbols("-D", "--defined-only", *guest.others)
        named |= {found.decode() for p in guest.libraries for found in re.findall(INTERFACES, p.read_bytes())}
    operators = {n.removesuffix("GetWorkspaceSize") for n in named if re.match("aclnn[A-Z]", n)} - own
    operators -= {"aclnnInit", "aclnnFinalize"}
    rest = (wanted - own) | {n for n in named if not n.startswith("aclnn") and re.fullmatch(LOOKED_UP, n)}
    taken = {f"{n}{end}" for n in operators for end in ("", "GetWorkspaceSize")}
    rest = sorted(n for n in rest - own - taken if re.fullmatch(r"\w+", n) and not _elsewhere(n))
    return "\n".join([
        "#include <stddef.h>", "#include <stdint.h>",
        "long software_npu_untaught(const char *); int software_npu_unknown_operator(const char *);",
        "int software_npu_launch_unknown(const char *, void *, uint64_t, void *, void *);",
        "#define F(NAME) long NAME(void) { return software_npu_untaught(#NAME); }",
        "#define O(NAME) int NAME##GetWorkspaceSize(void) { return software_npu_unknown_operator(#NAME); } \\",
        "  int NAME(void *w, uint64_t n, void *e, void *s) { return software_npu_launch_unknown(#NAME, w, n, e, s); }",
        *(f"F({n})" for n in rest), *(f"O({n})" for n in sorted(operators)), "",
    ])  # fmt: skip


def _symbols(*arguments: str | Path) -> set[str]:
    lines = subprocess.run(["nm", *map(str, arguments)], capture_output=True, text=True).stdout.splitlines()
    return {line.split()[-1].partition("@")[0] for line in lines if line and not line.endswith(":")}


def _elsewhere(name: str) -> bool:
    """Whether Python's process or a plain library of the system has it, or the linker makes it."""
    if re.match(r"_?Py|__|_ITM|_ZTH|_ZGTt|_GLOBAL", name):
        return True
    for library in (None, *PLAIN):
        try:
            getattr(ctypes.CDLL(library), name)
            return True
        except (AttributeError, OSError):
            continue
    return False
