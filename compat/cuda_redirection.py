"""Scripts written for CUDA or for torch_npu, on a machine where torch has neither: what is replaced, and when.

The whole table: device arguments (device_arguments.py), ``torch.cuda`` and ``torch.accelerator`` (cuda_calls.py,
cuda_streams.py), ``torch.npu`` (npu_module.py), calls of pipelines and models (pipeline_calls.py). Tensors and modules
stay on the CPU and say so; a generator "on cuda" is a CPU generator, so the picture is that of a CPU generator with the
same seed. In force for the whole process, all its threads, while somebody holds it.
"""

from __future__ import annotations

import logging
import threading

from . import versions
from .replacements import Replaced, Replacement

logger = logging.getLogger(__name__)
_lock = threading.RLock()
_replaced = Replaced()
_holders: set[str] = set()


def wanted() -> bool:
    """Has torch neither CUDA nor torch_npu here? Where it has, scripts mean what they say."""
    import torch

    if _holders:
        return True
    from .npu_module import installed

    return not torch.cuda.is_available() and not installed()


def in_force() -> bool:
    """Are CUDA and NPU calls redirected now?"""
    return bool(_holders)


def table() -> tuple[Replacement, ...]:
    """Everything that is replaced on this machine, in order."""
    from . import cuda_calls, device_arguments, npu_module, pipeline_calls

    return (*device_arguments.TABLE, *cuda_calls.TABLE, *npu_module.table(), *pipeline_calls.TABLE)


def hold(holder: str, device_name: str) -> None:
    """Redirect until every holder has let go. device_name: what scripts are told the device is."""
    with _lock:
        from . import cuda_calls

        cuda_calls.set_device_name(device_name)
        if not _holders:
            # complete, as upstream defines them, before anything they are made of is replaced
            versions.require("diffusers", "transformers")
            import diffusers  # noqa: F401
            import torch._dynamo  # noqa: F401
            import torch.export  # noqa: F401
            import transformers  # noqa: F401

            try:
                _replaced.apply(table())
            except BaseException:
                _replaced.undo()
                raise
            logger.info("CUDA and NPU calls are redirected to the CPU: %d replaced", len(list(_replaced)))
        _holders.add(holder)


def release(holder: str) -> None:
    """Let go. Once nobody holds it, everything is put back."""
    with _lock:
        if holder in _holders:
            _holders.discard(holder)
            if not _holders:
                from . import pipeline_calls

                _replaced.undo()
                pipeline_calls.forget()
