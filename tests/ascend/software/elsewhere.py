"""Runs the tests of this folder in a process of their own, one a file: what a process is on is settled when MindSpore
starts. Their reports come back as if they had run here. Both sides are pytest; the two talk over a pair of pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

PIPES = "SOFTWARE_NPU_PIPES"
TESTS = Path(__file__).parents[2]


class Child:
    """pytest over one file, told which test to run next."""

    def __init__(self, config: pytest.Config, path: Path, environment: dict[str, str]):
        self.config, self.path = config, path
        self.output = tempfile.TemporaryFile("w+")
        read_there, write_here = os.pipe()
        read_here, write_there = os.pipe()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        paths = [environment.get("PYTHONPATH", ""), str(TESTS)]
        environment = inherited | environment | {
            PIPES: f"{read_there},{write_there}", "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "GLOG_v": "3", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        plugins = [f"-p{name}" for name in ("ascend.software.elsewhere", "no:cacheprovider", "no:xdist")]
        folders = [f"--rootdir={config.rootpath}", f"-c{config.inipath}"]
        chosen = [f"-k={config.option.keyword}", f"-m={config.option.markexpr}", "--long"]
        command = [sys.executable, "-m", "pytest", *plugins, *folders, *chosen, path]
        self.process = subprocess.Popen(
            command, env=environment, pass_fds=(read_there, write_there), stdout=self.output,
            stderr=subprocess.STDOUT, cwd=config.invocation_params.dir,
        )  # fmt: skip
        os.close(read_there), os.close(write_there)
        self._to, self._from = os.fdopen(write_here, "w"), os.fdopen(read_here)

    def run(self, item: pytest.Item, following: str | None) -> list[pytest.TestReport]:
        """The reports of a test. Raises EOFError where the process ended before it was through."""
        try:
            print(json.dumps([item.nodeid, following]), file=self._to, flush=True)
        except BrokenPipeError:
            raise EOFError from None
        reports = []
        for line in self._from:
            data = json.loads(line)
            if data is None:
                return reports
            reports.append(self.config.hook.pytest_report_from_serializable(config=self.config, data=data))
        raise EOFError

    def last_words(self) -> str:
        self.process.wait()
        self.output.seek(0)
        return f"the process ended with {self.process.returncode}:\n{self.output.read()[-6000:]}"

    def close(self) -> None:
        self._to.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


# -- in the child


def pytest_runtestloop(session: pytest.Session):
    if PIPES not in os.environ:
        return None
    read, write = (int(number) for number in os.environ[PIPES].split(","))
    if session.testsfailed:
        raise session.Failed("collection")
    items = {item.nodeid: item for item in session.items}
    with os.fdopen(read) as asked, os.fdopen(write, "w") as reports:
        session.config.pluginmanager.register(_Reporter(session.config, reports))
        for line in asked:
            now, following = json.loads(line)
            session.config.hook.pytest_runtest_protocol(item=items[now], nextitem=items.get(following))
            print("null", file=reports, flush=True)
    return True


class _Reporter:
    def __init__(self, config, file):
        self.config, self.file = config, file

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        print(json.dumps(data), file=self.file, flush=True)
