"""The C source of everything that MindSpore's Ascend libraries want of CANN and ``cann/*.cpp`` does not define.

Each such function counts that it was called and returns 0; an aclnn operator fails by its name.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from pathlib import Path

INTERFACES = rb"(?<![A-Za-z0-9_])((?:acl|rt|Hccl)[A-Za-z0-9]+)(?=\0)"
"""What the libraries look up by name (dlsym) when they run."""
LOOKED_UP = r"acl(rt|mdl|op|tdt|prof|Set|Get|Create|Destroy|Update|Gen)\w+|Hccl(Set|Get|Comm)\w+"
PLAIN = ("libstdc++.so.6", "libgomp.so.1", "libm.so.6", "libgcc_s.so.1")


def libraries(mindspore: Path) -> set[str]:
    """File names of the libraries that MindSpore's Ascend libraries want and the wheel does not bring."""
    lines = subprocess.run(["readelf", "-d", *_plugins(mindspore)], capture_output=True, text=True).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", lines)) - {p.name for p in (mindspore / "lib").rglob("*.so*")}
    return {name for name in needed if name.startswith("lib") and not _loads(name)}


def _plugins(mindspore: Path) -> list[Path]:
    folder = mindspore / "lib" / "plugin"
    return [p for p in folder.rglob("*.so*") if "ascend" in str(p.relative_to(folder)) and "asdops" not in p.parts]


def _loads(name: str) -> bool:
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False


def source(mindspore: Path, objects: list[Path]) -> str:
    """mindspore: the installed package's folder. objects: the compiled ``cann/*.cpp``."""
    plugins = _plugins(mindspore)
    others = [*(mindspore / "lib").glob("*.so*"), *(mindspore / "lib" / "plugin").glob("*_cpu*.so*"), *plugins]
    own = _symbols("--defined-only", *objects)
    wanted = _symbols("-D", "--undefined-only", *plugins) - _symbols("-D", "--defined-only", *others) - own
    named = {found.decode() for p in plugins if "ascend" in p.name for found in re.findall(INTERFACES, p.read_bytes())}
    operators = {n.removesuffix("GetWorkspaceSize") for n in named if n.startswith("aclnn")} - {
        "aclnnInit",
        "aclnnFinalize",
    }
    operators = {n for n in operators if n[5:6].isupper()} - own
    rest = wanted | {n for n in named if not n.startswith("aclnn") and re.fullmatch(LOOKED_UP, n)}
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
