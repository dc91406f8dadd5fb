"""Results that others published: what is read of them, and what a run is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from calvin_eval.cli.compare import compare
from calvin_eval.cli.gate import gate
from calvin_eval.cli.report import report
from calvin_eval.errors import RunFolderError
from calvin_eval.results.compare import compare_runs
from calvin_eval.results.published import Published, read_published
from calvin_eval.results.upstream import upstream_results
from handmade import record, write_run

RNG = np.random.default_rng(3)
LENGTHS = RNG.choice(6, size=300, p=[0.1, 0.1, 0.1, 0.1, 0.1, 0.5]).tolist()
RESULTS = upstream_results([record(chain, n) for chain, n in enumerate(LENGTHS)])
FLAT = RESULTS["null"]
LOG = "\n".join(
    f"2030-01-01 00:00:0{i % 10} - eval - INFO - Rank {{rank}} finished local seq {i} with "
    f"success={n} | 1/5: 97.5% | 5/5: 51.0% | with avg_len=3.210\nEGL device choice: -1 of 9."
    for i, n in enumerate(LENGTHS[:40])
)
PRINTED = """Results for Epoch 7:
Average successful sequence length: 3.3
Success rates for i instructions in a row:
1: 90.0%
2: 80.0%
3: 70.0%
4: 50.0%
5: 40.0%
open_drawer: 12 / 13 |  SR: 92.3%
"""


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


def run_of(path: Path, lengths: list[int]) -> Path:
    return write_run(path, [record(chain, n) for chain, n in enumerate(lengths)])


@pytest.mark.parametrize("content", [RESULTS, FLAT, LENGTHS, {"epoch=3": FLAT}])
def test_files_of_rates_give_back_the_chains_that_they_are_of(tmp_path: Path, content: Any) -> None:
    found = read_published(write(tmp_path / "results.json", content))
    assert found.average_length == pytest.approx(np.mean(LENGTHS))
    assert found.chains == 300
    assert found.lengths == tuple(sorted(LENGTHS))
    assert [found.rates[i] for i in range(1, 6)] == pytest.approx(
        [np.mean(np.array(LENGTHS) >= i) for i in range(1, 6)]
    )
    assert found.notes == ()
    tasks = {} if isinstance(content, list) else FLAT["task_info"]
    assert {t: vars(c) for t, c in found.tasks.items()} == tasks


def test_logs_of_ranks_are_one_result(tmp_path: Path) -> None:
    for rank in range(3):
        write(tmp_path / "logs" / f"rank_{rank}_eval.log", LOG.format(rank=rank))
    found = read_published(tmp_path / "logs")
    assert (found.name, found.form, found.chains) == ("logs", "3 logs of ranks", 120)
    assert found.average_length == pytest.approx(np.mean(LENGTHS[:40]))
    again = write(tmp_path / "one.log", LOG.format(rank=0) + "\n" + LOG.format(rank=0))
    assert read_published(again).chains == 40, "a line that is there twice counts once"


def test_the_summary_that_upstream_prints(tmp_path: Path) -> None:
    found = read_published(write(tmp_path / "out.txt", "Loading\n" + PRINTED))
    assert (found.average_length, found.chains, found.lengths) == (3.3, None, None)
    assert found.rates == pytest.approx({1: 0.9, 2: 0.8, 3: 0.7, 4: 0.5, 5: 0.4})


def test_percent_are_shares(tmp_path: Path) -> None:
    rates = {"chain_sr": [97.5, 80, 60.5, 40, 20]}
    found = read_published(write(tmp_path / "a.json", rates))
    assert found.rates == pytest.approx({1: 0.975, 2: 0.8, 3: 0.605, 4: 0.4, 5: 0.2})
    assert found.average_length == pytest.approx(2.98)


def test_an_average_that_is_not_that_of_its_rates_is_noted(tmp_path: Path) -> None:
    found = read_published(write(tmp_path / "a.json", {**FLAT, "avg_seq_len": 4.5}))
    assert len(found.notes) == 2
    assert "gives the average length 4.500, and its rates add to" in found.notes[0]
    assert "do not fit" in found.notes[1]
    assert found.chains is None


def test_one_of_several_checkpoints_is_named(tmp_path: Path) -> None:
    worse = {**FLAT, "avg_seq_len": 1.0, "chain_sr": {"1": 0.5, "2": 0.3, "3": 0.2}}
    path = write(tmp_path / "results.json", {"6": FLAT, "7": worse})
    assert read_published(f"{path}:7").average_length == 1.0
    assert read_published(f"{path}:6").name == "results.json:6"
    for name in (f"{path}", f"{path}:8"):
        with pytest.raises(RunFolderError, match=r"as results.json:CHECKPOINT.*it has 6, 7"):
            read_published(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", {"x": 1}, "found dict"),
        ("a.json", "[1,", "expected results in JSON"),
        ("a.json", {"chain_sr": {"1": -0.5}}, "expected success rates for 1, 2"),
        ("a.json", {"chain_sr": {"2": 0.5}}, "expected success rates for 1, 2"),
        ("a.log", "nothing of note", "success=N for every chain"),
        ("none.json", None, "found none at"),
    ],
)
def test_what_is_no_result_is_explained(
    tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(RunFolderError, match=message):
        read_published(path)


def test_a_run_is_held_against_a_file_by_rates_alone(tmp_path: Path) -> None:
    better = [min(5, n + 2) for n in LENGTHS]
    run = run_of(tmp_path / "run", better)
    file = write(tmp_path / "results.json", RESULTS)
    comparison = compare_runs([run, file])
    assert comparison.pairs == ()
    (pair,) = comparison.unpaired
    spread = pair.difference
    assert spread is not None
    assert spread.estimate == pytest.approx(np.mean(LENGTHS) - np.mean(better))
    assert spread.low < spread.estimate < spread.high < 0
    assert [row.position for row in pair.positions] == [1, 2, 3, 4, 5]
    assert all(row.difference is not None for row in pair.positions)
    assert any("nothing is paired" in remark for remark in pair.remarks)
    assert any("run departs from the benchmark. Planned chains" in r for r in pair.remarks)
    stated = json.loads(json.dumps(comparison.to_json()))
    assert stated["unpaired"][0]["paired"] is False
    assert stated["published"][0]["name"] == "results.json"


def test_runs_stay_paired_beside_a_file(tmp_path: Path) -> None:
    a, b = (run_of(tmp_path / name, LENGTHS) for name in ("a", "b"))
    file = write(tmp_path / "results.json", FLAT)
    comparison = compare_runs([a, b, file])
    assert len(comparison.pairs) == len(comparison.unpaired) == 1
    assert comparison.pairs[0].p == 1
    assert len(compare_runs([file, a, b]).unpaired) == 2
    assert "published" not in compare_runs([a, b]).to_json()


def test_without_the_number_of_chains_there_is_no_interval(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", LENGTHS)
    (pair,) = compare_runs([run, write(tmp_path / "out.txt", PRINTED)]).unpaired
    assert pair.difference is None
    assert {row.difference for row in pair.positions} == {None}
    assert any("does not say over how many chains" in remark for remark in pair.remarks)


def test_the_command_prints_and_writes_it(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", LENGTHS)
    file = write(tmp_path / "results.json", RESULTS)
    page = tmp_path / "page.html"
    result = CliRunner().invoke(
        compare, [str(run), str(file), "-o", str(page)], catch_exceptions=False
    )
    assert "results.json against run, unpaired" in result.output
    assert "300 chains" in result.output
    assert "nothing is paired" in " ".join(result.output.split())
    assert "unpaired" in page.read_text()
    assert "1 published results" in page.read_text()


@pytest.mark.parametrize("command", ["report", "gate", "baseline"])
def test_commands_that_need_a_run_say_what_the_file_is(tmp_path: Path, command: str) -> None:
    file, run = write(tmp_path / "results.json", RESULTS), run_of(tmp_path / "run", LENGTHS)
    call: Any = {
        "report": (report, [str(file)]),
        "gate": (gate, [str(file), "--min-avg-len", "1"]),
        "baseline": (gate, [str(run), "--max-drop", "1", "--baseline", str(file)]),
    }[command]
    result = CliRunner().invoke(*call)
    assert isinstance(result.exception, RunFolderError)
    said = str(result.exception)
    assert "found a result file in upstream's form, average length" in said
    assert "calvin-eval compare RUN" in said


def test_one_line_about_it() -> None:
    found = Published(name="a", form="a log", average_length=2, rates={1: 1.0}, chains=3)
    assert str(found) == "a log, average length 2.000 over 3 chains"
