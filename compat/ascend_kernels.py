"""Which primitives MindSpore's wheel has an Ascend kernel for, read off the wheel's library without running it.

``libmindspore_ops_ascend.so`` cannot be loaded where CANN is not installed. Its initialisers register every kernel of
an aclnn operator under the primitive's name, and the compiler turned each of them into the same few x86-64
instructions::

    lea  name(%rip), %rsi;  …;  call std::string(const char*);  call Factory::Instance;  …;  call Factory::Register

So the names whose registration calls the same functions are the names in one factory; that of aclnn kernels is the one
with FlashAttentionScore in it.
"""

from __future__ import annotations

import collections
import functools
import re
import struct
from importlib import util
from pathlib import Path

LEA_RSI, CALL = b"\x48\x8d\x35", b"\xe8"
NEAR = 96  # bytes between the name and the calls
FREE = frozenset({"Reshape", "Load", "UpdateState", "Depend", "MakeTuple", "TupleGetItem", "Return"})
"""Primitives that no kernel runs: another shape of the same memory, tuples, and the order of execution."""


def library() -> Path | None:
    """The kernels' library in the installed wheel, or None."""
    spec = util.find_spec("mindspore")
    path = spec and Path(spec.origin).parent / "lib" / "plugin" / "libmindspore_ops_ascend.so"
    return path if path and path.is_file() else None


@functools.cache
def registered(path: Path | None = None) -> frozenset[str] | None:
    """Names of the primitives with an aclnn kernel; None where that cannot be read (no library, another processor)."""
    path = path or library()
    if path is None:
        return None
    code = path.read_bytes()
    if code[:4] != b"\x7fELF" or struct.unpack_from("<H", code, 0x12) != (62,):  # EM_X86_64
        return None
    factories = collections.defaultdict(set)
    for name, functions in _registrations(code):
        factories[functions].add(name)
    return next((frozenset(names) for names in factories.values() if "FlashAttentionScore" in names), None)


def missing(primitives) -> list[str]:
    """Those without a kernel, sorted. Nothing where :func:`registered` is None."""
    known = registered()
    return [] if known is None else sorted(set(primitives) - known - FREE)


def _registrations(code: bytes):
    """(name, (address of Instance, address of Register)) for everything that looks like a registration."""
    text_start, text = _section(code, ".text")
    data_start, data = _section(code, ".rodata")

    def target(place: int) -> int:
        return text_start + place + 5 + struct.unpack_from("<i", text, place + 1)[0]

    for found in re.finditer(re.escape(LEA_RSI), text):
        place = found.start()
        address = text_start + place + 7 + struct.unpack_from("<i", text, place + 3)[0] - data_start
        name = re.compile(rb"([A-Z]\w*)\0").match(data, address) if 0 <= address < len(data) else None
        calls = name and re.compile(rb"\xe8....\xe8....", re.DOTALL).search(text, place + 7, place + 7 + NEAR)
        register = text.find(CALL, calls.end(), calls.end() + 16) if calls else -1
        if register >= 0:
            yield name[1].decode(), (target(calls.start() + 5), target(register))


def _section(code: bytes, wanted: str) -> tuple[int, bytes]:
    """(address, contents) of a section of a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", code, 0x28)
    count, names = struct.unpack_from("<HH", code, 0x3C)
    sections = [struct.unpack_from("<IIQQQQ", code, table + 64 * i) for i in range(count)]
    for name, _, _, address, offset, size in sections:
        start = sections[names][4] + name
        if code[start : code.index(b"\0", start)].decode() == wanted:
            return address, code[offset : offset + size]
    return 0, b""
