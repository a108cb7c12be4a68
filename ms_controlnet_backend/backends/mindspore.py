"""Backend "mindspore": components compiled from the upstream modules, on CPU or Ascend."""

from __future__ import annotations

import os

from ..compat import mindspore_runtime, versions
from ..errors import BackendError
from ..hookspecs import Backend, Options, Probe, hookimpl


def probe(options: Options) -> Probe:
    """Looks, without choosing a device for the process."""
    detail = f"mindspore {versions.installed('mindspore')}"
    try:
        device = mindspore_runtime.canonical_device(options.device)
        ascend = mindspore_runtime.available("Ascend")
    except (BackendError, ImportError, OSError) as error:
        return Probe(False, detail=detail, advice=str(error))
    if device == "Ascend" and not ascend:
        return Probe(False, "Ascend", detail, "no Ascend device: see 'npu-smi info' and the CANN set_env.sh")
    return Probe(True, device or ("Ascend" if ascend else "CPU"), detail)


def build(options: Options):
    versions.require("mindspore", "numpy", "torch", "diffusers", "transformers")
    device = mindspore_runtime.select_device(options.device)
    from ..runtime.component import MindSporeEngine
    from ..runtime.target import NPU, target

    npu = None if device == "CPU" or os.environ.get(NPU) else mindspore_runtime.npu()
    return MindSporeEngine(target(device, npu=npu), options)


@hookimpl
def register_backends():
    return [Backend("mindspore", probe, build)]
