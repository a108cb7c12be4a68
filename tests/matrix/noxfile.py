"""The tests that matter, with the versions of each set of ``sets.py``, in an environment of its own.

    pip install nox; nox -f tests/matrix/noxfile.py                  # all sets, some 15 minutes each
    nox -f tests/matrix/noxfile.py -s "matrix(0.25)"                 # one
    nox -f tests/matrix/noxfile.py -s table                          # docs/versions.md from what was recorded

What came out is recorded in ``record/``, one file a set.
"""

import os
import sys
from pathlib import Path

import nox

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from sets import SETS, interpreter, job  # noqa: E402

nox.options.sessions = ["matrix", "table"]
nox.options.envdir = str(Path.home() / ".cache" / "ms_controlnet_backend" / "nox")


@nox.session(venv_backend="none")
@nox.parametrize("name", list(SETS), ids=list(SETS))
def matrix(session, name):
    """Arguments after ``--`` are pytest's, in place of the whole job; then nothing is recorded."""
    python = interpreter(SETS[name].python)
    if python is None:
        session.skip(f"no Python {SETS[name].python} here")
    folder = Path(session.create_tmp(), name.replace(" ", "-"))
    session.run(python, "-m", "venv", "--clear", str(folder), external=True)
    inside = str(folder / "bin" / "python")
    # a constraint of the machine would be against a set's own versions
    session.run(inside, "-m", "pip", "install", "-q", *SETS[name].pins, "-e", f"{HERE.parent.parent}[matrix]",
                external=True, env={"PIP_CONSTRAINT": os.devnull})  # fmt: skip
    record = [] if session.posargs else ["--record", str(HERE / "record" / f"{name}.json")]
    with session.chdir(HERE.parent.parent):
        session.run(inside, "-m", "pytest", "-p", "recorder", *record, *(session.posargs or job(name)), external=True,
                    env={"PYTHONPATH": str(HERE)})  # fmt: skip


@nox.session(venv_backend="none")
def table(session):
    session.run(sys.executable, str(HERE / "table.py"), external=True)
