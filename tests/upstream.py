"""What the installed diffusers, transformers and peft have: tests of what is younger are skipped."""

import importlib
import inspect
import re
from importlib import metadata

import pytest


def at_least(name: str, version: str) -> bool:
    """Of versions such as ``"0.28"``, and only where nothing can be looked for instead."""
    numbers = lambda text: [int(n) for n in text.split(".")[:2]]  # noqa: E731
    return numbers(metadata.version(name)) >= numbers(version)


def has(path: str, argument: str | None = None) -> bool:
    """``"diffusers.ControlNetUnionModel"`` can be imported, and takes this argument."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, RuntimeError):
        return False
    return argument is None or argument in inspect.signature(found).parameters


def needs(what: bool, name: str, why: str) -> None:
    """Skips a test whose subject this release of ``name`` has not; diffusers 0.42 and what goes with it have all."""
    if not what:
        assert not at_least("diffusers", "0.42"), f"{why} is not found"
        pytest.skip(f"missing upstream: {why} (not in {name} {metadata.version(name)})")


def needs_lora_in_text_encoders() -> None:
    """Skips where transformers refuses the peft that there is."""
    if at_least("transformers", "5.24") and not at_least("peft", "0.22"):
        has = {name: metadata.version(name) for name in ("transformers", "peft")}
        pytest.skip(f"missing upstream: LoRA of a text encoder (transformers {has['transformers']} wants a newer peft "
                    f"than {has['peft']})")  # fmt: skip


def needs_what_torch_can(on_torch: str | None, on_ours: str | None) -> None:
    """Skips where plain torch fails too, in the same way, with a diffusers older than the test was written for.
    Tracebacks."""
    ends = [re.sub(r" \(/.*?\)", "", error.strip().splitlines()[-1]) for error in (on_torch, on_ours) if error]
    if len(ends) == 2 and len({end.split(":")[0] for end in ends}) == 1 and not at_least("diffusers", "0.42"):
        pytest.skip(f"missing upstream: {ends[0]} (diffusers {metadata.version('diffusers')})")
