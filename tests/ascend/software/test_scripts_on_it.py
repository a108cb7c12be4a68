"""Each of the scripts that users write, run unmodified on the software NPU; their pictures are those of plain torch."""

from __future__ import annotations

import pytest
import test_scripts
from test_scripts import results, test_same_pictures  # noqa: F401

pytestmark = [pytest.mark.long, *test_scripts.pytestmark]


@pytest.fixture(autouse=True)
def in_processes_of_their_own(npu):
    npu.elsewhere = True
