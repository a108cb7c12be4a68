"""docs/versions.md from the recorded runs: ``python tests/matrix/table.py``."""

from __future__ import annotations

import collections
import json
from pathlib import Path

from sets import SETS

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "versions.md"
TOPICS = {
    "pipelines": ("test_parity.py",),
    "LoRA": ("test_scales.py",),
    "IP-Adapter": ("test_ip_adapter.py",),
    "schedulers": ("test_schedulers.py",),
    "changes of a module": ("test_freshness.py", "test_foreign_changes.py", "test_foreign_effects.py"),
    "demo": ("test_checkpoint.py", "test_cli.py"),
    "scripts": ("test_scripts.py",),
    "projects": ("test_projects.py",),
    "software NPU": ("test_software_npu.py", "test_operators.py", "test_pipelines.py", "test_steps.py"),
}
NAMES = ("python", "diffusers", "transformers", "torch", "mindspore", "peft")
HEAD = """# Versions

Each row is one environment of its own (`tests/matrix/sets.py`), in which the tests of its columns ran; every one of
them compares with torch on the same weights and seed. Made by `nox -f tests/matrix/noxfile.py` from what was recorded.
Numbers: tests that passed / failed / could not be tried, since upstream's release has not what they are about; –: none
ran. The projects are programs in the manner of real ones (`tests/matrix/projects/`), with the versions that these pin.

"""


def page() -> str:
    files = {name: HERE / "record" / f"{name}.json" for name in SETS}
    records = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    columns = ["set", *NAMES, *TOPICS]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    for name, record in records.items():
        cells = [name, *(record["versions"][n].split("+")[0] for n in NAMES)]
        lines.append(f"| {' | '.join(cells + [_counts(record, files) for files in TOPICS.values()])} |")
    missing = []
    for name, record in records.items():
        for why in sorted({t["why"] for t in record["tests"].values() if t["outcome"] != "passed"}):
            missing.append(f"- {name}: {why}")
    return HEAD + "\n".join(lines) + "\n\n## What did not pass\n\n" + ("\n".join(missing) or "Nothing.") + "\n"


def _counts(record: dict, files: tuple[str, ...]) -> str:
    tests = [t for test, t in record["tests"].items() if test.split("::")[0].endswith(files)]
    if not tests:
        return "–"
    found = collections.Counter(t["outcome"] for t in tests)
    return " / ".join(str(found[outcome]) for outcome in ("passed", "failed", "skipped"))


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    print(PAGE)
