"""``ms-controlnet doctor``: versions, devices, what is missing and what to do."""

from __future__ import annotations

import os
import platform

from . import plugins
from .compat import ascend, cuda_redirection, mindspore_runtime, torch_npu_version, versions
from .hookspecs import Options


def report(device: str | None = None) -> tuple[list[str], list[str]]:
    """(lines to show, problems found). Chooses no device and changes nothing."""
    lines = [f"python        {platform.python_version()} on {platform.machine()}"]
    problems = []
    for name in versions.RANGES:
        known = versions.RANGES[name]
        tested = f" (tested: {known.first} to {known.tested})" if versions.untested(name) else ""
        lines.append(f"{name:<13} {versions.installed(name) or 'missing'}{tested}")
        problem = versions.problem(name)
        if problem:
            problems.append(problem)
    for name in ("peft", "accelerate"):
        lines.append(f"{name:<13} {versions.installed(name) or 'missing (optional)'}")
    registry = plugins.registry()
    for name, backend in sorted(registry.backends.items()):
        probe = backend.probe(Options(device=device))
        state = f"ready on {probe.device}" if probe.available else "not usable"
        lines.append(f"backend       {name}: {state} ({probe.detail})")
        if not probe.available:
            problems.append(f"backend {name}: {probe.advice}")
    if versions.installed("torch"):
        where = "mean the CPU (no CUDA, no torch_npu here)" if cuda_redirection.wanted() else "are left to torch"
        lines.append(f"cuda, npu     calls of scripts {where}")
    road, unfit = torch_npu_version.report()
    lines.append(f"torch_npu     {road}")
    problems += unfit
    software = ascend.installed()
    lacking, asked = ascend.here(software), mindspore_runtime.canonical_device(device) == "Ascend"
    lines.append(f"ascend        {'not usable here: ' + lacking[0] if lacking else 'nothing is missing'}")
    if asked or not lacking:
        found = mindspore_runtime.npu()
        lines.append(f"npu           {found or ('none' if lacking else 'of an unknown model')}; {_compiled_for(found)}")
        lines += software.lines()
    problems += [f"ascend: {what}" for what in lacking if asked]
    lines.append(f"plugins       {', '.join(sorted(n for n, _ in plugins.manager().list_name_plugin()))}")
    lines.append(f"adapters      {', '.join(sorted(a.name for a in registry.adapters))}")
    special = sum(target == "Ascend" for _, target in registry.lowerings)
    overloads = len({op for op, _ in registry.lowerings})
    lines.append(f"lowerings     {overloads} ATen overloads, {special} of them for Ascend in a way of its own")
    lines.append(f"cache         {_cache()}")
    return lines, problems


def _compiled_for(npu: str | None) -> str:
    from .runtime.target import NPU, target

    wanted = target("Ascend", npu=os.environ.get(NPU) or npu)
    return f"compiled for {wanted.describe()}; {NPU} names another"


def _cache() -> str:
    import logging

    from .runtime.source_cache import SourceCache, default_folder

    logger = logging.getLogger("ms_controlnet_backend.runtime.source_cache")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it would warn of is in the line below
    try:
        cache = SourceCache()
    finally:
        logger.setLevel(level)
    return str(cache.folder) + ("" if cache.folder == default_folder() else f" ({default_folder()} is not writable)")
