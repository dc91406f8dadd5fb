"""Robustness suites of made-up runs: what is compared with what, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.results.means import mean_interval
from calvin_eval.results.paired import mean_difference, sign_flip_test
from calvin_eval.results.robustness.cells import CellName, measure
from calvin_eval.results.robustness.page import suite_html
from calvin_eval.results.robustness.stopping import Lengths, Tight, looked_at
from calvin_eval.results.robustness.suite import FILE, Suite, read_suite
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.sequential import ConfidenceSequence
from handmade import TASKS, record, write_run

CLEAN = [5, 4, 3, 5, 2, 0, 5, 5, 4, 1] * 4
LIGHT = CellName(axis="start", level=1)
HARD = CellName(axis="start", level=5)


def records(lengths: Sequence[int]) -> list[ChainRecord]:
    return [record(chain, n) for chain, n in enumerate(lengths)]


def suite(folder: Path, width: float = 0, **cells: Sequence[int]) -> Suite:
    """A suite whose clean run has the lengths above, and cells such as start_1."""
    write_run(folder / "clean", records(CLEAN))
    names = []
    for text, lengths in cells.items():
        axis, _, level = text.partition("_")
        names.append(CellName(axis=axis, level=int(level) if level.isdigit() else level))
        planned = range(len(CLEAN))
        write_run(folder / names[-1].folder, records(lengths), planned=planned)
    return read_suite(folder, names, width)


def test_a_cell_is_paired_with_the_clean_run(tmp_path: Path) -> None:
    shifted = [max(n - 1, 0) for n in CLEAN]
    found = suite(tmp_path, start_1=shifted)
    (cell,) = found.cells
    steps = [b - a for a, b in zip(CLEAN, shifted, strict=True)]
    assert cell.difference == mean_difference(steps, 5)
    assert cell.p == sign_flip_test(steps)
    assert cell.lengths.interval() == mean_interval(shifted, (0, 5))
    assert cell.clean_length == sum(CLEAN) / len(CLEAN)
    assert found.axes[0].kept == pytest.approx(sum(shifted) / sum(CLEAN))
    assert found.complete


def test_chains_with_errors_are_in_no_pair_and_widen_the_interval(tmp_path: Path) -> None:
    clean = {r.chain: r for r in records(CLEAN)}
    broken = [*records(CLEAN)[:-1], record(len(CLEAN) - 1, 1, error=True)]
    cell = measure(LIGHT, {r.chain: r for r in broken}, range(len(CLEAN)), clean, 0)
    assert len(cell.pairs) == len(CLEAN) - 1
    assert cell.lengths.broken == ((1, 5),)
    assert not cell.complete
    whole = Lengths.of(records(CLEAN), sequential=False).interval()
    assert cell.lengths.interval().high > whole.high


def test_other_chains_are_not_paired() -> None:
    clean = {0: record(0, 2)}
    other = {0: record(0, 2, tasks=TASKS[::-1])}
    with pytest.raises(RunFolderError, match="other tasks in chain 0"):
        measure(LIGHT, other, [0], clean, 0)


def test_a_hopeless_cell_stops_early_at_the_same_chain_in_any_order() -> None:
    planned = range(200)
    forward, backward = Tight(planned, 0.5), Tight(planned, 0.5)
    for chain in planned:
        if forward.add(record(chain, 0)):
            break
    for chain in reversed(planned):
        backward.add(record(chain, 0))
    assert 20 < len(forward.used) == len(backward.used) < 120
    sequence = ConfidenceSequence(0, 5, 0.95)
    for _ in forward.used:
        sequence.add(0)
    low, high = sequence.interval()
    assert high - low <= 0.5
    assert not any(Tight(planned, 0).add(record(chain, 0)) for chain in planned)


def test_what_ran_beyond_the_end_does_not_count_and_intervals_hold_at_every_moment() -> None:
    lengths = [0] * 90 + [5] * 10
    everything = {r.chain: r for r in records(lengths)}
    used, stopped = looked_at(everything, range(200), 0.5)
    assert stopped
    assert len(used) < 90
    cell = measure(LIGHT, everything, range(200), everything, 0.5)
    assert cell.complete
    assert cell.used == len(used)
    assert cell.p is None
    assert cell.lengths.sequential
    exact = mean_interval([0] * len(used), (0, 5))
    assert cell.lengths.interval().high > exact.high
    assert cell.difference is not None
    assert cell.difference.low < 0 < cell.difference.high


def test_a_gap_ends_what_counts() -> None:
    some = {r.chain: r for r in records(CLEAN) if r.chain != 7}
    cell = measure(LIGHT, some, range(len(CLEAN)), some, 0)
    assert cell.used == 7
    assert not cell.complete
    assert cell.lengths.sequential


def test_tasks_and_places_that_break_first(tmp_path: Path) -> None:
    found = suite(tmp_path, start_1=CLEAN, start_5=[min(n, 2) for n in CLEAN])
    (axis,) = found.axes
    first = axis.tasks[0]
    reached = sum(n >= 3 for n in CLEAN)
    assert (first.task, first.broken_at, first.lost, first.gained) == ("c", 5, reached, 0)
    place = axis.places[2]
    tried = sum(n >= 2 for n in CLEAN)
    assert place.clean == pytest.approx(reached / tried)
    assert place.shifted == pytest.approx(reached / (2 * tried))


def test_the_document_is_the_same_each_time_and_knows_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = suite(tmp_path / "one", start_1=CLEAN)
    suite(tmp_path / "two", start_1=CLEAN)
    names = [LIGHT, HARD]
    two = read_suite(tmp_path / "two", names, 0)
    assert two.missing == (HARD,)
    assert not two.complete
    again = replace(two, missing=())
    text = one.write(tmp_path / "one").read_bytes()
    assert again.write(tmp_path / "two").read_bytes() == text
    document = json.loads((tmp_path / "one" / FILE).read_text(encoding="utf-8"))
    assert document["schema"] == 1
    assert document["cells"][0]["difference"][0] == 0
    assert document["cells"][0]["p_holm"] == 1
    assert document["protocol"]["chains.sha256"]


def spoken(folder: Path, heard: int, told: int) -> Suite:
    """A suite in which the first subtasks of so many of the chains that were done are kept."""
    done = [chain for chain, n in enumerate(CLEAN) if n]
    probe = [n if chain in done[:heard] else 0 for chain, n in enumerate(CLEAN)]
    suite(folder, language_empty=probe, language_another=probe)
    names = [CellName(axis="language", level=level) for level in ("empty", "another")]
    other = {chain: place < told for place, chain in enumerate(range(len(CLEAN)))}
    return read_suite(folder, names, 0, other, dict.fromkeys(other, False))


@pytest.mark.parametrize(
    ("heard", "told", "listens", "words"),
    [
        (0, 30, "yes", "The policy listens: it did the chain's own task in 0 %"),
        (10, 5, "in part", "The policy listens in part"),
        (30, 0, "no", "The policy does not listen"),
    ],
)
def test_whether_a_policy_listens(
    heard: int, told: int, listens: str, words: str, tmp_path: Path
) -> None:
    found = spoken(tmp_path, heard, told).honesty
    assert found is not None
    assert found.listens == listens
    assert found.sentence.startswith(words)
    another = found.probes[1]
    assert (another.own.success, another.own.total) == (heard, len(CLEAN))
    assert another.told is not None
    assert another.told.success == told
    assert f"{100 * told / len(CLEAN):.0f} %" in found.sentence
    assert another.unasked is not None
    assert another.unasked.success == 0


def test_a_policy_that_can_do_nothing_cannot_be_said_to_listen(tmp_path: Path) -> None:
    write_run(tmp_path / "clean", records([0] * 20))
    write_run(tmp_path / "language-empty", records([0] * 20))
    found = read_suite(tmp_path, [CellName(axis="language", level="empty")], 0).honesty
    assert found is not None
    assert found.listens == "unknown"
    assert "did 0 of 20 first subtasks" in found.sentence
    assert suite(tmp_path / "plain", start_1=CLEAN).honesty is None


def test_the_page_shows_everything_and_needs_nothing_beside_it(tmp_path: Path) -> None:
    found = suite(tmp_path, start_1=CLEAN, start_5=[0] * 40, language_empty=CLEAN)
    page = suite_html(found)
    assert page.count("<polyline") == 1, "one curve: of the axis with graded levels"
    assert page.count('class="bar"') == 1
    assert found.honesty is not None
    assert found.honesty.sentence.replace("'", "&#39;") in page
    assert "Not complete" not in page
    for address in ("http://", "https://", "src=", "@import", "url("):
        assert address not in page
    assert "Not run: start=3" in suite_html(
        replace(found, missing=(CellName(axis="start", level=3),))
    )


def test_a_suite_of_nothing_but_a_broken_clean_run_has_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "clean", [record(0, 1, error=True)])
    found = read_suite(tmp_path, [LIGHT], 0)
    assert found.clean.mean is None
    assert "none" in suite_html(found)
    assert found.to_json()["missing"] == ["start=1"]
