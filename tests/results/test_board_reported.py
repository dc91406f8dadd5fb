"""Published results: apart, never ordered with entries, and with what is not plausible in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from boards import judged, make_bundle

from calvin_eval.errors import UsageError
from calvin_eval.results.board.build import build_site
from calvin_eval.results.board.reported import Reported, read_reported

ROW = {"name": "X", "split": "D", "average_length": 2.5, "seen": "https://example.org"}


def row(**changes: Any) -> Reported:
    return Reported(**{**ROW, "rates": (90.0, 70.0, 50.0, 30.0, 10.0), **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"average_length": 2.507}, ""),
        ({"average_length": 2.52}, "add to 2.500, not to"),
        ({"average_length": 2.52, "spread": 0.02}, "within the spread"),
        ({"rates": (), "average_length": 4.9}, ""),
        ({"rates": (90.0, 70.0, 50.0, 10.0, 30.0)}, "higher than the one before"),
        ({"rates": (), "average_length": 5.5}, "greater than it can be"),
        ({"steps": 360}, ""),
        ({"steps": 720}, "720 steps for each task, not 360."),
        ({"remarks": ("500 chains.",)}, "500 chains."),
    ],
)
def test_what_is_not_plausible_is_noted(changes: dict[str, Any], words: str) -> None:
    notes = " ".join(row(**changes).notes)
    assert words in notes
    assert bool(notes) == bool(words)


def test_the_shipped_rows_have_sources_and_their_known_faults() -> None:
    rows = {(r.name, r.split): r for r in read_reported()}
    assert len(rows) == len(read_reported()) == 57  # as docs/leaderboard.md says
    assert {r.split for r in rows.values()} == {"D", "ABC_D", "ABCD_D"}
    assert "4.575" in rows["VITA", "ABC_D"].notes[0]
    assert "720 steps" in rows["X-VLA", "ABC_D"].notes[0]
    assert rows["MMaDA-VLA", "ABC_D"].notes == ()
    assert "360" not in " ".join(rows["GR-1", "ABCD_D"].notes)


@pytest.mark.parametrize(
    "changes",
    [{"split": "E"}, {"average_length": "4"}, {"seen": "javascript:alert(1)"}, {"rates": [-1]},
     {"paper": "data:text/html,x"}],
)  # fmt: skip
def test_other_rows_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"rows": [{**ROW, **changes}]}), encoding="utf-8")
    with pytest.raises(UsageError):
        read_reported(path)
    with pytest.raises(UsageError, match="published results"):
        read_reported(tmp_path / "none.json")


def test_they_stand_apart(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "mine", [1, 2, 3] * 10)
    told = row(name="<b>Told</b>", average_length=4.9)
    site = tmp_path / "site"
    build_site([bundle], site, judge=judged(), version="1", title="Board", reported=[told])
    page = (site / "index.html").read_text(encoding="utf-8")
    entries, _, reported = page.partition('<section id="reported"')
    assert "Told" not in entries
    assert "&lt;b&gt;Told&lt;/b&gt;" in reported
    assert "all chains</span>" not in reported
    data = json.loads((site / "reported.json").read_bytes())
    assert data["verified"] is False
    assert data["rows"][0]["notes"] == ["The rates add to 2.500, not to the average length."]
    assert "Told" not in (site / "index.json").read_text(encoding="utf-8")
