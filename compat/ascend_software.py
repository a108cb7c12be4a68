"""What stands between MindSpore and an Ascend NPU: CANN, the driver and the firmware; their versions and which go
together, as each says of itself.

MindSpore names the versions of CANN that it was tried with (``mindspore/run_check/_check_version.py``). The driver's
``version.info`` names ranges of the firmware's versions (``compatible_version_fw=[6.4.0,6.4.99],[7.0.0,7.7.99]``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

INSTALLED = "etc/ascend_install.info"
"""Where the driver's installer wrote the folder it was given (``Driver_Install_Path_Param=/usr/local/Ascend``)."""


@dataclass
class Software:
    """cann, driver, firmware: versions as each writes it, None where it is not found. goes_with: versions of CANN that
    the installed MindSpore names. takes: (first, last) of the firmware's versions that the driver names."""

    cann: str | None = None
    driver: str | None = None
    firmware: str | None = None
    goes_with: list[str] = field(default_factory=list)
    takes: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A line for each."""
        cann = f" (MindSpore goes with {', '.join(self.goes_with)})" if self.goes_with else ""
        takes = " or ".join(f"{first} to {last}" for first, last in self.takes)
        return [
            f"cann          {self.cann or 'not found'}{cann}",
            f"driver        {self.driver or 'not found'}{f' (goes with firmware {takes})' if takes else ''}",
            f"firmware      {self.firmware or 'not found'}",
        ]

    def problems(self) -> list[str]:
        """Pairs that do not go together, each with what to do."""
        found = []
        if self.cann and self.goes_with and short(self.cann) not in self.goes_with:
            found.append(f"CANN {self.cann} does not go with this MindSpore: {advised(self.goes_with)}")
        if self.firmware and self.takes and not any(_in(self.firmware, *limits) for limits in self.takes):
            takes = " or ".join(f"{first} to {last}" for first, last in self.takes)
            wants = f"firmware {self.firmware} does not go with driver {self.driver}, which wants {takes}"
            found.append(f"{wants}: install the firmware of the driver's release, and start the machine again")
        return found


def installed(home: str | None, root: Path = Path("/")) -> Software:
    """What is installed. home: CANN's folder, where the environment names one."""
    driver = _folder(root) / "driver" / "version.info"
    limits = re.findall(r"\[([\d.]+),([\d.]+)\]", _said(driver, "compatible_version_fw") or "")
    return Software(
        cann=_said(Path(home) / "compiler" / "version.info") if home else None,
        driver=_said(driver),
        firmware=_said(_folder(root) / "firmware" / "version.info"),
        goes_with=supported_cann(),
        takes=limits,
    )


def short(version: str) -> str:
    """``"8.3"`` of ``"8.3.RC1"``, as MindSpore names it."""
    return ".".join(version.split(".")[:2])


def advised(supported: list[str]) -> str:
    """In words, with which CANN the installed MindSpore goes."""
    return f"MindSpore goes with CANN {', '.join(supported)}" if supported else "see https://www.mindspore.cn/install"


def supported_cann() -> list[str]:
    """Versions of CANN that the installed MindSpore says it goes with."""
    from .mindspore_runtime import mindspore

    mindspore()
    try:
        from mindspore.run_check._check_version import AscendEnvChecker

        return list(AscendEnvChecker("").version)
    except (ImportError, AttributeError, TypeError):  # another version
        return []


def _folder(root: Path) -> Path:
    """Where driver and firmware are."""
    where = _said(root / INSTALLED, "Driver_Install_Path_Param") or "/usr/local/Ascend"
    return root / where.lstrip("/")


def _said(path: Path, key: str = "Version") -> str | None:
    try:
        found = re.search(rf"^{key}\s*=\s*(.+?)\s*$", path.read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def _in(version: str, first: str, last: str) -> bool:
    """7.7.0.1.231 is within 7.0.0 to 7.7.99."""
    numbers, low, high = ([int(n) for n in re.findall(r"\d+", v)] for v in (version, first, last))
    return low <= numbers and numbers[: len(high)] <= high
