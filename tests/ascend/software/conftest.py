"""The tests of this folder run on the software NPU, in processes of their own (``elsewhere.py``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ascend.software import build, elsewhere, peer

HERE = Path(__file__).parent
IN_CHILD = elsewhere.PIPES in os.environ
_children: dict[tuple[Path, str], elsewhere.Child] = {}


def _of(item) -> tuple[Path, str]:
    """Which process it runs in: a file's, a machine's. ``@pytest.mark.npu(soc="Ascend310P3")``: settings that hold from
    the start (see :class:`npu.SoftwareNPU`). ``torch_npu`` and ``mindone``, marks of whole files: it is there, too."""
    marker = item.get_closest_marker("npu")
    return item.path, ";".join(f"{k}={v}" for k, v in (marker.kwargs if marker else {}).items())


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if IN_CHILD or HERE not in item.path.parents:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # what the item before left set up for this one, of which the next may have no need
    item.session._setupstate.teardown_exact(nextitem)
    return True


def _lacking(item) -> str | None:
    """What of the machine is not there for this test."""
    if build.compiler() is None:
        return "the software NPU is built with g++ (or $CXX), and there is none"
    beside = peer.of(item)
    return None if beside is None else beside.lacking()


def _reports(item, nextitem):
    reason = _lacking(item)
    if reason is not None:
        skipped = os.environ.get("CI") != "true"
        return [_report(item, "skipped" if skipped else "failed", (str(item.path), 0, reason) if skipped else reason)]
    process = _of(item)
    following = nextitem.nodeid if nextitem is not None and _of(nextitem) == process else None
    child = _children.get(process)
    try:
        if child is None:
            beside = peer.of(item)
            variables = build.environment(build.folder(beside), beside) | {"SOFTWARE_NPU": process[1]}
            child = _children[process] = elsewhere.Child(item.config, item.path, variables)
        reports = child.run(item, following)
    except EOFError:
        reports, following = [_report(item, "failed", child.last_words())], None
    if following is None and child is not None:
        _children.pop(process).close()
    return reports


def _report(item, outcome, text) -> pytest.TestReport:
    keywords = {name: 1 for name in item.keywords}
    return pytest.TestReport(item.nodeid, item.location, keywords, outcome, text, "call", (), 0)


@pytest.fixture(autouse=True)
def npu():
    """The software NPU. A test fails by what it refused or did not know, unless it sets ``npu.expected``; and where
    nothing reached it."""
    from ascend.software.npu import SoftwareNPU

    npu = SoftwareNPU()
    npu.reset()
    yield npu
    found = npu.report()
    unknown = [name for name in found.untaught if name.startswith("aclnn")]
    assert npu.expected or not (found.errors or found.legacy or unknown), (found.errors[:5], found.legacy, unknown)
    assert npu.expected or npu.elsewhere or found.launches or found.up, "nothing reached the NPU"
