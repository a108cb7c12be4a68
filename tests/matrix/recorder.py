"""pytest plugin: what came out of each test, in one file: ``-p recorder --record FILE``."""

import json
import platform
import time
from importlib import metadata
from pathlib import Path

NAMES = ("diffusers", "transformers", "torch", "mindspore", "peft", "accelerate", "numpy")


def pytest_addoption(parser):
    parser.addoption("--record", help="file to write")


def pytest_configure(config):
    if config.getoption("record"):
        config.pluginmanager.register(Recorder(Path(config.getoption("record"))))


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


class Recorder:
    def __init__(self, file: Path):
        self.file, self.tests, self.started = file, {}, time.time()

    def pytest_runtest_logreport(self, report):
        outcome, why = report.outcome, ""
        if report.skipped:
            why = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        if report.when == "call" or outcome != "passed":
            self.tests.setdefault(report.nodeid, {"outcome": outcome, "why": why})
            if outcome == "failed":
                self.tests[report.nodeid] = {"outcome": outcome, "why": str(report.longrepr).splitlines()[-1][:200]}

    def pytest_sessionfinish(self):
        versions = {name: version(name) for name in NAMES}
        known = {"python": platform.python_version(), "machine": platform.machine(), **versions}
        record = {"versions": known, "seconds": round(time.time() - self.started), "tests": self.tests}
        self.file.write_text(json.dumps(record, indent=1) + "\n")
