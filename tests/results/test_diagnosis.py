"""What a diagnosis counts, and the page that shows it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from made_diagnosis import large_diagnosis, made_diagnosis, made_failure

from calvin_eval.errors import RunFolderError
from calvin_eval.results.diagnosis import Achieved, Attempt, Diagnosis
from calvin_eval.results.report.diagnosis import diagnosis_html, make_diagnosis_view

MOST_BYTES = 15 * 2**20


def test_what_is_counted() -> None:
    found = made_diagnosis(
        [
            made_failure(0, "nearly there", achieved=(
                Achieved(task="turn_on_led", first=9, lasting=False),)),
            made_failure(4, "nearly there"),
            made_failure(5, "grasped and lost", task="turn_on_led", position=2),
        ],
        lengths={"0": 0, "4": 0, "5": 2, "6": 5},
    )  # fmt: skip
    assert {c: n for c, n in found.causes.items() if n} == {
        "grasped and lost": 1, "nearly there": 2,
    }  # fmt: skip
    assert found.confusion() == {"open_drawer": {"turn_on_led": 1}, "turn_on_led": {}}
    partial = found.partial_length()
    assert partial is not None
    assert partial[0] == pytest.approx((0.25 + 0.25 + 2.25 + 5) / 4)
    assert 0 < partial[1].low < partial[0] < partial[1].high < 5
    assert found.solvable() == {}


def test_what_the_expert_could_do_is_counted_by_place() -> None:
    solved = Attempt(solved=True, steps=50, path=1.0)
    lost = Attempt(solved=False, steps=360, path=3.0)
    found = made_diagnosis([
        made_failure(0, "stalled", from_begin=solved, from_end=lost),
        made_failure(1, "stalled", from_begin=solved, from_end=solved),
        made_failure(2, "stalled", position=3, from_begin=lost, from_end=lost),
    ])  # fmt: skip
    assert found.solvable() == {
        "1": {"failures": 2, "begin": 2, "end": 1},
        "4": {"failures": 1, "begin": 0, "end": 0},
        "all": {"failures": 3, "begin": 2, "end": 1},
    }


def test_json_is_read_back_and_nothing_else() -> None:
    found = large_diagnosis(5)
    written = found.to_json()
    data = json.loads(json.dumps(written))
    assert Diagnosis.from_json(data, "file") == found
    data["failures"][2]["cause"] = "bad luck"
    with pytest.raises(RunFolderError, match=r"failures\[2\]\.cause"):
        Diagnosis.from_json(data, "file")
    with pytest.raises(RunFolderError, match="schema_version 1"):
        Diagnosis.from_json([], "file")


def test_failures_that_are_alike_are_together() -> None:
    rises, falls = (0.0, 0.5, 0.9), (0.9, 0.3, 0.0)
    found = made_diagnosis([
        made_failure(0, "stalled", curve=falls),
        made_failure(1, "stalled", curve=rises),
        made_failure(2, "stalled", curve=(0.0, 0.45, 0.85)),
        made_failure(3, "stalled", curve=(0.0, 0.55, 0.95)),
        made_failure(4, "never moved", curve=rises),
    ])  # fmt: skip
    chains = [cluster.chains for cluster in make_diagnosis_view(found, "mine").clusters]
    assert chains == [(1, 2, 3), (0,), (4,)]


@pytest.mark.slow
def test_the_page_is_whole_and_small() -> None:
    page = diagnosis_html(large_diagnosis(1000), "mine")
    assert len(page.encode()) < MOST_BYTES
    assert len(re.findall(r"<tr data-row", page)) == 1000
    assert not re.search(r"""(src|href)=["'](?!data:)""", page), "nothing beside it"
    for word in ("grasped and lost", "Was it still solvable?", "never publish it"):
        assert word in page
    assert "<option>open_drawer</option>" in page


def test_foreign_text_is_no_markup() -> None:
    failure = made_failure(0, "stalled", instruction="<script>alert(1)</script>", why="<b>&</b>")
    page = diagnosis_html(made_diagnosis([failure]), "<i>mine</i>")
    for text in ("<script>alert", "<b>&</b>", "<i>mine"):
        assert text not in page


def test_a_run_without_failures_has_a_page() -> None:
    found = replace(made_diagnosis([]), lengths={"3": 5})
    assert "No subtask failed" in diagnosis_html(found, "mine")
    nothing = diagnosis_html(made_diagnosis([]), "mine")
    assert "0" in nothing
