"""Whether a bundle can be an entry, in one paragraph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from boards import judged, make_bundle, nobody

from calvin_eval.errors import RunFolderError
from calvin_eval.results.board.check import EntryCheck, check_entry

LENGTHS = [5, 3, 4, 2] * 5


def check(bundle: Path, judge: Any = None, **settings: Any) -> EntryCheck:
    return check_entry(bundle, judge=judge or judged(), **settings)


def bad(found: EntryCheck) -> set[str]:
    return {finding.what for finding in found.findings if finding.outcome == "bad"}


def test_a_sound_entry(tmp_path: Path) -> None:
    found = check(make_bundle(tmp_path, "mine", LENGTHS))
    text = found.markdown()
    assert found.outcome == "good"
    assert text.startswith("**Can be an entry.** `mine.zip` says of `mine`, trained on D→D: an av")
    assert "all 20 chains verified" in text
    assert "`Apache-2.0`" in text
    assert text.count("\n") == 1
    assert found.to_json()["entry"]["average_length"] == 3.5


@pytest.mark.parametrize(
    ("judge", "outcome", "words"),
    [
        (nobody, "open", "nobody has verified it"),
        (judged("unchecked"), "open", "could not be verified"),
        (judged("deviates"), "bad", "first `chain 0: verdict"),
    ],
)
def test_verification(tmp_path: Path, judge: Any, outcome: str, words: str) -> None:
    found = check(make_bundle(tmp_path, "mine", LENGTHS), judge)
    assert found.outcome == outcome
    assert words in found.markdown()


def test_a_run_that_is_not_complete(tmp_path: Path) -> None:
    found = check(make_bundle(tmp_path, "mine", [5, -1, 5]))
    assert found.outcome != "good"
    assert "2 of 3 chains, so no average length" in found.markdown()


@pytest.mark.parametrize(
    ("licence", "good"),
    [("MIT", True), ("apache-2.0 OR mit", True), ("closed", True), ("LicenseRef-Mine", True),
     ("free for all", False), ("GPL", False)],
)  # fmt: skip
def test_licences(tmp_path: Path, licence: str, good: bool) -> None:
    found = check(make_bundle(tmp_path, "mine", LENGTHS, licence=licence))
    assert bad(found) == (set() if good else {"licence"})


def test_size(tmp_path: Path) -> None:
    assert bad(check(make_bundle(tmp_path, "mine", LENGTHS), most_bytes=900)) == {"size"}


def test_a_file_that_is_no_bundle(tmp_path: Path) -> None:
    path = tmp_path / "`x`\x1b.zip"
    path.write_bytes(b"PK\x03\x04 no")
    found = check(path)
    assert bad(found) == {"schema"}
    assert str(tmp_path) not in found.markdown()
    with pytest.raises(RunFolderError):
        check(tmp_path / "none.zip")


def test_duplicates(tmp_path: Path) -> None:
    mine = make_bundle(tmp_path, "mine", LENGTHS)
    same = Path(shutil.copy(mine, tmp_path / "same.zip"))
    found = check(mine, others=[mine, same])
    assert bad(found) == {"duplicates"}
    assert "the same file as `same.zip`" in found.markdown()
    # The same chains under another name and with another card are the same actions.
    renamed = make_bundle(tmp_path, "renamed", LENGTHS, parameters=1)
    found = check(mine, others=[renamed])
    assert "20 of its 20 chains went exactly as in `renamed.zip`" in found.markdown()
    other = make_bundle(tmp_path, "other", [0, 0, 1, 0] * 5)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no")
    assert check(mine, others=[mine, other, broken]).outcome == "good"


def test_foreign_text_is_no_markup(tmp_path: Path) -> None:
    name = "[x](javascript:1) `**`\n# <b>big</b>"
    found = check(make_bundle(tmp_path, "mine", LENGTHS, name=name))
    text = found.markdown()
    assert text.count("\n") == 1
    assert "`` [x](javascript:1) `**` # <b>big</b> ``" in text
