"""pip as on an aarch64 machine with glibc 2.28.

    python tests/aarch64/pip_for.py 3.11 install --target FOLDER …
    python tests/aarch64/pip_for.py 3.11 resolve …            # what it would install, as JSON: name → file

pip's ``--platform`` chooses among wheels, but reads the markers of requirements (``platform_machine == "aarch64"``,
``python_version < "3.11"``) for the machine and the Python it runs on, and takes a tag for that very one, where a real
machine also takes those of every older glibc.
"""

from __future__ import annotations

import json
import platform
import runpy
import sys

MACHINE = "aarch64"
GLIBC = 28
"""glibc 2.28, that of openEuler 20.03, the oldest that torch's wheels run on."""


def options(python: str) -> list[str]:
    """What pip is told to choose wheels for that Python there; nothing is built from source."""
    tags = [f"manylinux_2_{minor}" for minor in range(GLIBC, 16, -1)] + ["manylinux2014", "linux"]
    given = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    given += [f"--platform={tag}_{MACHINE}" for tag in tags]
    return given + [f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")]


def install(python: str, *arguments: str) -> None:
    """Runs ``pip install`` in this process."""
    platform.machine = lambda: MACHINE
    platform.python_version = lambda: f"{python}.0"
    platform.python_version_tuple = lambda: (*python.split("."), "0")
    sys.argv = ["pip", "install", *options(python), *arguments]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


def resolve(python: str, *arguments: str) -> None:
    """Prints what pip chose. ``--dry-run`` would get all the wheels, gigabytes with torch's CUDA, where the index does
    not serve their metadata as files of their own: here the ends of the wheels are read, and then pip is stopped."""
    from pip._internal.exceptions import InstallationError
    from pip._internal.operations.prepare import RequirementPreparer

    chosen = {}

    def stop(self, requirements, *arguments, **options):
        chosen.update((r.name.lower().replace("_", "-"), r.link.filename) for r in requirements)
        raise InstallationError("enough is known")

    RequirementPreparer.prepare_linked_requirements_more = stop
    try:
        install(python, "--use-feature=fast-deps", "--ignore-installed", "--dry-run", "--target", "nowhere", *arguments)
    except SystemExit:
        if not chosen:
            raise
    print(json.dumps(chosen))


if __name__ == "__main__":
    {"install": install, "resolve": resolve}[sys.argv[2]](sys.argv[1], *sys.argv[3:])
