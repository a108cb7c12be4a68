"""Whose code is a library's, and what in the standard library a graph cannot repeat."""

from __future__ import annotations

import functools
import sys

LIBRARIES = frozenset(
    """torch torch_npu diffusers transformers peft accelerate huggingface_hub safetensors numpy torchvision tokenizers
    regex ms_controlnet_backend mindspore packaging typing_extensions functorch""".split()
) | frozenset(sys.stdlib_module_names)
"""Top-level packages whose functions do what their arguments, attributes and namespaces say, and no more. What they
replace or keep while a module is traced is put back; they are not asked for their closures."""

READ = frozenset({"diffusers", "transformers", "peft", "accelerate"})
"""Libraries whose functions are read for the names they resolve: scripts replace those. Of torch's, its layers'."""

EFFECTS = frozenset(
    """time random datetime secrets uuid os io _io posix socket subprocess threading _thread multiprocessing tempfile
    shutil pathlib glob urllib http requests pickle sqlite3 queue asyncio ctypes numpy.random""".split()
)
"""Modules whose functions and objects read or change something outside: two calls may give two answers."""

EFFECTFUL_BUILTINS = frozenset({"open", "print", "input", "exec", "eval", "next", "iter", "globals", "breakpoint"})

EFFECTFUL_TORCH = frozenset({"save", "load", "manual_seed", "seed", "initial_seed", "set_rng_state", "get_rng_state"})
"""Functions of ``torch`` that a graph has no operator for."""


def package(function) -> str:
    """The top-level package whose globals a Python function sees: ``functools.wraps`` does not change it."""
    return str(function.__globals__.get("__name__", "")).partition(".")[0]


def is_library(function) -> bool:
    return package(function) in LIBRARIES


def asks_for_itself(function) -> bool:
    """A function of ``torch.nn.functional`` hands itself on, by its name, for each function mode: under those of
    torch.export it would find once more, and again, what a script put in its place."""
    own = function.__globals__
    return (
        own.get("__name__") == "torch.nn.functional"
        and "handle_torch_function" in function.__code__.co_names
        and own.get(function.__name__) is not function
    )


def is_read(function) -> bool:
    return package(function) in READ or function.__globals__.get("__name__", "").startswith("torch.nn.modules.")


@functools.cache
def is_effectful(name: str) -> bool:
    """Is this a module of :data:`EFFECTS`, or inside one?"""
    parts = name.split(".")
    return any(".".join(parts[: i + 1]) in EFFECTS for i in range(len(parts)))
