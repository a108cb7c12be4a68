"""pytest plugin: upstream diffusers' own tests, unmodified, with the backend enabled.

    PYTHONPATH=<this folder> pytest -p upstream_plugin [--backend-report FILE] <diffusers' tests>

Their tests also need ``parameterized`` and ``requests-mock``. ``--log-file FILE --log-file-level WARNING`` keeps the
backend's warnings. The end of the run says what the backend did: a pass on torch by a fallback is not a pass on
MindSpore.
"""

import json
import time

import ms_controlnet_backend


def pytest_addoption(parser):
    parser.addoption("--backend-report", help="one JSON line a test: outcome, seconds, and what changed in stats()")


def pytest_configure(config):
    ms_controlnet_backend.enable()


def pytest_unconfigure(config):
    ms_controlnet_backend.disable()


def _totals():
    counted = ("calls", "compiles", "compile_seconds", "fallbacks")
    return {name: sum(getattr(s, name) for s in ms_controlnet_backend.stats().values()) for name in counted}


def pytest_runtest_setup(item):
    item.backend_before = _totals(), time.perf_counter()


def pytest_runtest_makereport(item, call):
    file = item.config.getoption("backend_report")
    if call.when != "call" or not file:
        return
    before, started = item.backend_before
    error = "".join(str(call.excinfo.exconly()).splitlines()[:3]) if call.excinfo else None
    line = {"id": item.nodeid, "error": error, "seconds": time.perf_counter() - started}
    line |= {name: value - before[name] for name, value in _totals().items()}
    with open(file, "a") as f:
        f.write(json.dumps(line) + "\n")


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(", ".join(f"{name}: {value:.6g}" for name, value in _totals().items()))
