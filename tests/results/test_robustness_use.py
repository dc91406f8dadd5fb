"""Gates on robustness suites, and two of them compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from calvin_eval.cli.compare import compare
from calvin_eval.cli.gate import gate
from calvin_eval.errors import RunFolderError, UnknownNameError, UsageError
from calvin_eval.results.means import mean_bounds
from calvin_eval.results.paired import mean_difference
from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.robustness.compare import compare_suites
from calvin_eval.results.robustness.document import decide_suite, parse_axes, read_written
from calvin_eval.results.robustness.suite import FILE, read_suite
from handmade import follow_head, record, write_run

GOOD = [5, 4, 5, 3, 5] * 12
POOR = [1, 0, 2, 0, 1] * 12


def suite(folder: Path, *, more: Sequence[str] = (), **cells: Sequence[int]) -> Path:
    """A suite with a good clean run and cells such as start_1, and `more` that were not run."""
    names = []
    for text in ("clean", *cells, *more):
        axis, _, level = text.partition("_")
        name = CellName(axis=axis, level=int(level or 0))
        if text != "clean":
            names.append(name)
        if text not in more:
            lengths = cells.get(text, GOOD)
            place = folder / ("clean" if text == "clean" else name.folder)
            write_run(place, [record(chain, n) for chain, n in enumerate(lengths)])
    read_suite(folder, names, 0).write(folder)
    return folder


def call(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))


def test_every_graded_level_must_reach_the_length(tmp_path: Path) -> None:
    folder = suite(tmp_path, start_1=GOOD, start_5=POOR, layout_1=GOOD)
    decision = decide_suite(folder, {"start": 2.0}, 0.95)
    assert [(c.name, c.outcome) for c in decision.checks] == [
        ("average length at start=1", "pass"),
        ("average length at start=5", "fail"),
    ]
    assert decision.outcome == "fail"
    assert decide_suite(folder, {"layout": 2.0}, 0.95).outcome == "pass"
    assert decide_suite(folder, {"layout": 4.4}, 0.95).outcome == "undecided"
    (check,) = decide_suite(folder, {"layout": 2.0}, 0.9).checks
    assert (check.low, check.high) == mean_bounds([(n, n) for n in GOOD], (0, 5), 0.9)
    two = decide_suite(folder, {"start": 2.0}, 0.9)
    assert two.checks[0].level == pytest.approx(0.95)


def test_a_cell_that_was_not_run_decides_nothing(tmp_path: Path) -> None:
    folder = suite(tmp_path, more=["start_5"], start_1=GOOD)
    decision = decide_suite(folder, {"start": 2.0}, 0.95)
    assert decision.outcome == "undecided"
    assert decision.remarks == ("start=5 was planned and not run.",)
    with pytest.raises(UsageError, match="levels of layout"):
        decide_suite(folder, {"layout": 2.0}, 0.95)


def test_the_command_and_its_exit_codes(tmp_path: Path) -> None:
    folder = suite(tmp_path / "s", start_1=GOOD, layout_1=POOR)
    passed = call(gate, folder, "--min-robustness", "start=2.0")
    assert passed.exit_code == 0
    assert "average length at start=1" in passed.stdout
    assert (folder / "junit.xml").is_file()
    failed = call(
        gate, folder / FILE, "--min-robustness", "start=2", "--min-robustness", "layout=2"
    )
    assert failed.exit_code == 1
    mixed = call(gate, folder, "--min-robustness", "start=2", "--min-avg-len", "1")
    assert isinstance(mixed.exception, UsageError)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("strat=1", UnknownNameError),
        ("start", UsageError),
        ("start=0", UsageError),
        ("start=6", UsageError),
        ("start=x", UsageError),
    ],
)
def test_what_is_no_condition_is_refused(text: str, error: type[Exception]) -> None:
    assert parse_axes(["start=2", "layout=1.5"]) == {"start": 2.0, "layout": 1.5}
    with pytest.raises(error):
        parse_axes([text])


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"lengths": [1, 2]},
        {"lengths": [10**12, 0, 0, 0, 0, 0]},
        {"broken": [[3, 9]]},
        {"level": 9},
        {"axis": "../clean"},
    ],
)
def test_a_damaged_file_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = suite(tmp_path, start_1=GOOD) / FILE
    document = json.loads(path.read_text(encoding="utf-8"))
    target = document if "schema" in change else document["cells"][0]
    target.update(change)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(RunFolderError):
        read_written(tmp_path)


def test_two_suites_are_compared_cell_by_cell(tmp_path: Path) -> None:
    one = suite(tmp_path / "one", start_1=POOR, layout_1=GOOD)
    two = suite(tmp_path / "two", start_1=GOOD, start_5=GOOD)
    found = compare_suites(one, two)
    assert [cell.name for cell in found.cells] == ["clean", "start=1"]
    better = found.cells[1]
    steps = [b - a for a, b in zip(POOR, GOOD, strict=True)]
    assert better.difference == mean_difference(steps, 5)
    assert better.p is not None
    assert better.p < 0.001
    assert (found.only_first, found.only_other) == (("layout=1",), ("start=5",))
    shown = call(compare, one, two)
    assert shown.exit_code == 0
    assert "Only in the first: layout=1" in shown.stdout
    data = json.loads(call(compare, one, two, "--json").stdout)
    assert data["kind"] == "robustness"
    assert data["cells"][0]["difference"]["estimate"] == 0


def test_suites_of_other_protocols_and_other_things_are_not_compared(tmp_path: Path) -> None:
    one = suite(tmp_path / "one", start_1=GOOD)
    two = suite(tmp_path / "two", start_1=GOOD)
    alone = write_run(tmp_path / "run", [record(0, 1)])
    assert isinstance(call(compare, one, alone).exception, UsageError)
    assert isinstance(call(compare, one, two, "--out", "x.html").exception, UsageError)
    other = tmp_path / "head"
    write_run(other / "clean", [record(c, n) for c, n in enumerate(GOOD)], change=follow_head)
    write_run(other / "start-1", [record(c, n) for c, n in enumerate(GOOD)], change=follow_head)
    read_suite(other, [CellName(axis="start", level=1)], 0).write(other)
    with pytest.raises(RunFolderError, match="revision"):
        compare_suites(one, other)
    assert compare_suites(one, other, force=True).differences
