"""The page of versions says what was recorded."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import table


def test_page():
    assert table.PAGE.read_text() == table.page(), "python tests/matrix/table.py writes it"


def test_a_failure_is_on_the_page(monkeypatch, tmp_path):
    record = json.loads((table.HERE / "record" / "InstantID.json").read_text())
    test = next(iter(record["tests"]))
    record["tests"][test] = {"outcome": "failed", "why": "it broke"}
    (tmp_path / "record").mkdir()
    (tmp_path / "record" / "InstantID.json").write_text(json.dumps(record))
    monkeypatch.setattr(table, "HERE", tmp_path)
    assert "- InstantID: it broke" in table.page() and " 0 / 1 / 0 " in table.page()
