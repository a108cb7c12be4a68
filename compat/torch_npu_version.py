"""Which of the two roads a machine is on: beside torch_npu, or without it. Each release of torch_npu is built for the
torch of the same numbers; DLPack is MindSpore's from 2.8 on."""

from __future__ import annotations

from . import versions

SHARING = "2.8"
"""The first MindSpore that takes torch's memory."""


def report() -> tuple[str, list[str]]:
    """(which road, in a line; what does not go together, each with what to do). Imports nothing."""
    npu, torch, mindspore = map(versions.installed, ("torch_npu", "torch", "mindspore"))
    if npu is None:
        return "not there: a script's tensors are the host's, and MindSpore copies them to the NPU", []
    problems = []
    if torch and _minor(torch) != _minor(npu):
        problems.append(
            f"torch_npu {npu} is built for torch {_short(npu)} and there is torch {torch}: "
            f"pip install torch=={_short(npu)}.*, or the torch_npu of your torch"
        )
    if mindspore and _minor(mindspore) < _minor(SHARING):
        said = f"{npu}; MindSpore {mindspore} shares no memory with it ({SHARING} does): tensors go by the host"
        return said, problems
    return f"{npu}: a script's tensors stay on the NPU, and MindSpore computes with the same memory", problems


def _short(version: str) -> str:
    return ".".join(map(str, _minor(version)))


def _minor(version: str) -> tuple[int, ...]:
    return versions.numbers(version)[:2]
