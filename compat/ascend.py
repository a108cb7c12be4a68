"""What MindSpore needs of a machine with an Ascend NPU: which device, its driver, and a CANN that it goes with."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from . import ascend_software
from .ascend_software import Software

VARIABLES = ("ASCEND_DEVICE_ID", "DEVICE_ID", "LOCAL_RANK", "RANK_ID")
"""What names the device where the script does not, the first that is set: the user's own choice, then the rank that
accelerate and torchrun (LOCAL_RANK) or msrun (RANK_ID, over all machines) gave the process. Else it is the one that
torch_npu computes on."""
MEMORY = "MS_CONTROLNET_MEMORY"
"""The most device memory that MindSpore may take, as it writes it: ``"30GB"``."""
HF32 = "MS_CONTROLNET_HF32"
"""1: convolutions of float32 may be computed with the 11 bits of HF32, which is faster."""
CANN = ("libge_runner", "libgraph", "libascendcl", "libhccl", "libruntime", "libmsprofiler", "libnnopbase", "libacl")
DRIVER = ("libascend_hal", "libdrvdsmi", "libdcmi", "libc_sec", "libmmpa")
"""Beginnings of the names of the libraries that CANN and the driver bring."""
SET_ENV = "/usr/local/Ascend/ascend-toolkit/set_env.sh"


MODELS = ((r"910b4", "910B4"), (r"910b\d|910_9\d", "910B"), (r"910", "910"), (r"310p", "310P"))
"""Beginning of what the runtime calls an NPU ("Ascend" before it) → the name it goes by here; "Ascend910B" without a
number is a 910. The A3 series (910_93…) has the kernels of the 910B."""
FAMILIES = {"ascend910b": "910B", "ascend910_93": "910B", "ascend910": "910", "ascend310p": "310P"}
"""The same for the families that MindSpore names where it does not say more."""


def model(device_name: str, family: str = "") -> str | None:
    """Which NPU it is; None for one that is not known here."""
    name = device_name.lower().removeprefix("ascend")
    found = next((known for beginning, known in MODELS if re.match(beginning, name)), None)
    return found or FAMILIES.get(family.lower())


def device_number(environment: Mapping[str, str], devices: int | None = None) -> int | None:
    """The number of the device that the environment names, None where it names none. devices: how many this machine
    has, for a rank that is counted over several machines. Raises ValueError, naming the variable."""
    for name in VARIABLES:
        text = environment.get(name, "")
        if text:
            if not text.isdigit():
                raise ValueError(f"{name}={text!r} is no device number")
            return int(text) % devices if name == "RANK_ID" and devices else int(text)
    return None


def advice(
    environment: Mapping[str, str], load_error: str, software: Software, root: Path = Path("/"), seen: int = 0
) -> list[str]:
    """What is missing for MindSpore to run on an NPU here, each with what to do; nothing where all is there.

    load_error: what MindSpore says of the plugin it could not load. seen: how many NPUs it sees.
    """
    found = []
    if not seen and not list((root / "dev").glob("davinci[0-9]*")):
        found.append(
            "no NPU: there is no /dev/davinci*. Install the Ascend driver and firmware ('npu-smi info' then lists the "
            "NPUs); in a container, start it with --device /dev/davinci0 --device /dev/davinci_manager"
        )
    home = cann_home(environment)
    libraries = re.findall(r"(lib\w+)\.so[\w.]*: cannot open shared object file", load_error)
    missing = [name for name in libraries if name.startswith(CANN)]
    goes_with = ascend_software.advised(software.goes_with)
    if missing and home is None:
        set_env = root / SET_ENV.lstrip("/")
        do = f"run: source {SET_ENV}" if set_env.is_file() else f"install the CANN toolkit and kernels ({goes_with})"
        found.append(f"CANN is not in reach ({missing[0]}.so is not found): {do}")
    elif missing:
        found.append(f"CANN in {home} lacks {missing[0]}.so: reinstall the toolkit; {goes_with}")
    for name in libraries:
        if name.startswith(DRIVER):
            found.append(f"the driver's {name}.so is not found: install the Ascend driver, or add its lib64 folders "
                         "(/usr/local/Ascend/driver/lib64/driver, …/common) to LD_LIBRARY_PATH")  # fmt: skip
    found += software.problems()
    if load_error and not found:
        found.append(f"MindSpore could not load its Ascend plugin: {load_error.splitlines()[0]}")
    return found


def load_error() -> str:
    """What MindSpore says of the plugins it could not load."""
    from .mindspore_runtime import mindspore

    try:
        return str(mindspore().context.MSContext.get_instance().load_plugin_error())
    except AttributeError:  # another version
        return ""


def here(software: Software) -> list[str]:
    """:func:`advice` for this machine, where that is installed."""
    from .mindspore_runtime import npus

    return advice(os.environ, load_error(), software, seen=npus() or 0)


def installed() -> Software:
    """On this machine."""
    return ascend_software.installed(cann_home(os.environ))


def cann_home(environment: Mapping[str, str]) -> str | None:
    """The folder of CANN that set_env.sh named."""
    return environment.get("ASCEND_HOME_PATH") or environment.get("ASCEND_TOOLKIT_HOME") or None
