from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from calvin_eval.cli.report import report
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.report import REPORTS, render_report, write_reports
from calvin_eval.results.report.gallery import chain_rows, failures_with_video, find_videos
from calvin_eval.results.report.svg import Value, axis_top, level, plot
from calvin_eval.results.report.text import cell, code, counted, duration, ranges
from calvin_eval.results.report.view import make_view
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.store import RunFolder
from handmade import document_of

MakeRun = Callable[..., RunFolder]
START = "start of the chain"
EN_DASH = "\N{EN DASH}"


class Page(HTMLParser):
    """What a page says: its tags with their attributes, and the tables as texts of cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._cell = False
        self._raw = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True
        elif tag in ("script", "style"):
            self._raw = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        elif tag == self._raw:
            self._raw = ""
        if tag in ("b", "dt", "dd", "p"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self._raw:
            return
        self.text += data
        if self._cell:
            self.tables[-1][-1][-1] += data

    def table(self, first: str) -> list[list[str]]:
        """The rows of the table whose first heading this is, as stripped texts."""
        (found,) = [table for table in self.tables if table[0][0].strip() == first]
        return [[cell.strip() for cell in row] for row in found[1:]]

    def links(self) -> set[str]:
        return {
            value for _, attributes in self.tags
            for name in ("href", "src") if (value := attributes.get(name)) is not None
        }  # fmt: skip


def page(folder: RunFolder) -> Page:
    return Page((folder.path / "report.html").read_text(encoding="utf-8"))


def raw_chains(folder: RunFolder) -> list[dict[str, Any]]:
    """The completed chains, read without any of our code."""
    lines = (folder.path / "chains.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line)["record"] for line in lines]
    return [record for record in records if record["status"] == "completed"]


def done(record: dict[str, Any]) -> int:
    length: int = sum(subtask["success"] for subtask in record["subtasks"])
    return length


def wilson_text(success: int, total: int) -> str:
    interval = stats.binomtest(success, total).proportion_ci(method="wilson")
    return f"{100 * interval.low:.1f}{EN_DASH}{100 * interval.high:.1f}"


@pytest.mark.slow
def test_the_headline_equals_a_recount(make_run: MakeRun) -> None:
    folder = make_run(1000)
    view = write_reports(folder, judge=True)
    lengths = [done(record) for record in raw_chains(folder)]
    text = " ".join(page(folder).text.split())
    assert f"{np.mean(lengths):.3f} average length" in text
    for i in range(1, 6):
        n = sum(length >= i for length in lengths)
        assert f"{i} in a row {100 * n / 1000:.1f} % {wilson_text(n, 1000)}" in text
    assert view.headline is not None
    error = 1.96 * np.std(lengths) / np.sqrt(1000)
    assert view.headline.interval.low == pytest.approx(np.mean(lengths) - error, abs=error / 10)
    assert "Official Comparable with published results." in text
    markdown = (folder.path / "report.md").read_text(encoding="utf-8")
    assert (
        f"| **{np.mean(lengths):.3f}** | **{100 * np.mean(np.array(lengths) >= 1):.1f} %** |"
        in (markdown)
    )
    assert "**Official**" in markdown


@pytest.fixture
def gappy(make_run: MakeRun) -> RunFolder:
    """200 chains, one missing and one broken, with a report."""
    folder = make_run(200, missing=(3,), errors={5: "boom"})
    write_reports(folder)
    assert len(raw_chains(folder)) == 198
    return folder


def test_the_table_of_tasks_equals_a_recount(gappy: RunFolder) -> None:
    outcomes: dict[str, list[bool]] = defaultdict(list)
    steps: dict[str, list[int]] = defaultdict(list)
    for record in raw_chains(gappy):
        for subtask in record["subtasks"]:
            outcomes[subtask["task"]].append(subtask["success"])
            if subtask["success"]:
                steps[subtask["task"]].append(subtask["steps"])
    found = page(gappy).table("Task")
    assert {row[0] for row in found} == set(outcomes)
    for name, _, rate, interval, success, total, median, mean, _ in found:
        assert (int(success), int(total)) == (sum(outcomes[name]), len(outcomes[name]))
        assert rate == f"{100 * np.mean(outcomes[name]):.1f}"
        assert interval == wilson_text(int(success), int(total))
        assert median == (f"{np.median(steps[name]):g}" if steps[name] else "")
        assert mean == (f"{np.mean(steps[name]):.1f}" if steps[name] else "")
    rates = [float(row[2]) for row in found]
    assert rates == sorted(rates, reverse=True)


def test_the_table_of_positions_equals_a_recount(gappy: RunFolder) -> None:
    positions = page(gappy).table("Position")
    assert [row[0] for row in positions] == list("12345")
    for place, reached, success, rate, interval, failed, share, of_all in positions:
        i = int(place) - 1
        there = [r["subtasks"][i]["success"] for r in raw_chains(gappy) if len(r["subtasks"]) > i]
        assert (int(reached), int(success)) == (len(there), sum(there))
        assert int(failed) == len(there) - sum(there)
        assert rate == f"{100 * np.mean(there):.1f}"
        assert interval == wilson_text(sum(there), len(there))
        assert share == f"{100 * int(failed) / 198:.1f}"
        assert of_all == wilson_text(int(failed), 198)


def test_the_table_of_transitions_equals_a_recount(gappy: RunFolder) -> None:
    pairs: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for record in raw_chains(gappy):
        before = START
        for subtask in record["subtasks"]:
            pairs[before, subtask["task"]].append(subtask["success"])
            before = subtask["task"]
    failures = Counter({pair: tried.count(False) for pair, tried in pairs.items()})
    rows = page(gappy).table("After")
    assert [int(row[2]) for row in rows] == [n for _, n in failures.most_common(10)]
    for before, task, failed, tried, share, usual in rows:
        assert int(failed) == failures[before, task]
        assert int(tried) == len(pairs[before, task])
        assert share == f"{100 * int(failed) / int(tried):.0f}"
        always = [done for (_, name), tried in pairs.items() if name == task for done in tried]
        assert usual == f"{100 * (1 - np.mean(always)):.0f}"


def test_every_chain_is_listed(gappy: RunFolder) -> None:
    listed = {row[0]: row for row in page(gappy).table("Chain")}
    assert set(listed) == {str(i) for i in range(200) if i != 3}
    assert listed["5"][2].startswith("error")
    for record in raw_chains(gappy):
        row = listed[str(record["chain"])]
        assert row[1] == f"{done(record)} of 5"
        assert row[4] == str(sum(subtask["steps"] for subtask in record["subtasks"]))
        failed_task = "" if done(record) == 5 else record["tasks"][done(record)]
        assert row[2].endswith(failed_task)
        assert bool(row[2]) == bool(failed_task)


def test_every_transition_is_in_the_matrix(make_run: MakeRun) -> None:
    folder = make_run(40)
    view = make_view(folder)
    pairs: dict[str, list[bool]] = defaultdict(list)
    for record in raw_chains(folder):
        before = START
        for subtask in record["subtasks"]:
            pairs[f"{before} → {subtask['task']}"].append(subtask["success"])
            before = subtask["task"]
    assert view.matrix is not None
    titles = {cell.title: cell for cell in view.matrix.cells}
    assert len(titles) == len(pairs)
    for pair, tried in pairs.items():
        failed = tried.count(False)
        share = f"{100 * failed / len(tried):.0f}"
        cell = titles[f"{pair}: {failed} of {len(tried)} failed ({share}\N{NO-BREAK SPACE}%)"]
        assert cell.key == (pair if failed else "")
        assert (cell.level > 0) == (failed > 0)
        row = (cell.y + cell.size / 2 - view.matrix.origin) / view.matrix.pitch - 0.5
        column = (cell.x + cell.size / 2 - view.matrix.origin) / view.matrix.pitch - 0.5
        names = (view.matrix.rows[round(row)][1], view.matrix.columns[round(column)][1])
        assert " → ".join(names) == pair


def test_csv_reads_back(make_run: MakeRun) -> None:
    folder = make_run(50)
    view = write_reports(folder)
    with open(folder.path / "tasks.csv", newline="", encoding="utf-8") as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert set(rows) == {row.name for row in view.tasks}
    for task in view.tasks:
        row = rows[task.name]
        assert (int(row["success"]), int(row["total"])) == (task.count.success, task.count.total)
        assert float(row["rate"]) == pytest.approx(task.count.success / task.count.total, rel=1e-5)
        ci = stats.binomtest(task.count.success, task.count.total).proportion_ci(method="wilson")
        assert float(row["rate_low"]) == pytest.approx(ci.low, abs=1e-5)
        assert float(row["rate_high"]) == pytest.approx(ci.high, abs=1e-5)
        assert (row["steps_median"] == "") == (task.count.success == 0)


@pytest.mark.parametrize("gap", [{"missing": (4, 7)}, {"errors": {4: "boom"}}])
def test_a_partial_run_has_no_headline_unless_asked(make_run: MakeRun, gap: dict[str, Any]) -> None:
    folder = make_run(30, **gap)
    view = write_reports(folder)
    average = f"{np.mean([done(record) for record in raw_chains(folder)]):.3f}"
    for name in ("report.html", "report.md"):
        text = (folder.path / name).read_text(encoding="utf-8")
        assert "Headline withheld" in text
        assert average not in text
        assert view.withheld in text
        assert "Partial result" not in text
    assert "in a row" not in page(folder).text

    write_reports(folder, partial=True)
    for name in ("report.html", "report.md"):
        text = (folder.path / name).read_text(encoding="utf-8")
        assert "Headline withheld" not in text
        assert average in text
        assert "Partial result" in text
        assert "partial average length" in text
        assert view.withheld in text


def test_asking_for_partial_results_changes_no_complete_run(make_run: MakeRun) -> None:
    folder = make_run(10)
    whole = render_report(make_view(folder), ".html")
    assert "partial" not in Page(whole).text.lower()
    assert whole == render_report(make_view(folder, partial=True), ".html")


def test_a_run_without_any_chain_has_a_report(make_run: MakeRun) -> None:
    folder = make_run(5, missing=(0, 1, 2, 3, 4))
    write_reports(folder, partial=True)
    text = page(folder).text
    assert "Headline withheld" in text
    assert "No chain is completed yet" in text
    assert "No task was attempted" in text
    assert (folder.path / "tasks.csv").read_text().count("\n") == 1


HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></title></pre><svg onload=alert(1)>",
    "`</code>`` **bold** [x](javascript:alert(1)) | @everyone &amp; {{ 7 * 7 }}\n# heading",
    "half a pair \udc80",
)


@pytest.mark.parametrize("evil", HOSTILE)
def test_hostile_text_stays_text(make_run: MakeRun, evil: str) -> None:
    tidy = evil.encode("utf-8", "replace").decode()  # a header on disk is UTF-8 anyway
    changes = {
        "policy": {**document_of()["policy"], "description": tidy, tidy: tidy},
        "config": {**document_of()["config"], "ckpt": tidy, "split": tidy},
        "verdict": {"official": False, "reasons": [tidy]},
        tidy: {"x": [tidy]},
    }
    folder = make_run(2, missing=(0, 1), changes=changes)
    bad = SubtaskRecord(task="a", instruction=evil, success=False, steps=1, seconds=0.0,
                        state_hash="0")  # fmt: skip
    failed = ChainRecord(chain=0, initial_state={}, tasks=("a", "b"), subtasks=(bad,),
                         status="completed")  # fmt: skip
    crashed = ChainRecord(chain=1, initial_state={}, tasks=("b",), subtasks=(), status="error",
                          error=f"Traceback\n{evil}")  # fmt: skip
    with folder.journal() as journal:
        journal.append(failed)
        journal.append(crashed)
    (folder.path / "videos").mkdir()
    (folder.path / "videos" / "chain0000.mp4").touch()
    profile = {"shares": {tidy: 1.0}, "advice": tidy, "workers": [tidy], "wall_seconds": tidy}
    folder.write_json("profile.json", profile)
    write_reports(folder, partial=True)

    found = page(folder)
    tags = Counter(tag for tag, _ in found.tags)
    assert (tags["script"], tags["style"], tags["img"], tags["title"] > 1) == (1, 1, 0, True)
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert found.text.count(tidy) >= 5
    assert not any(link.startswith("javascript:") for link in found.links())

    markdown = (folder.path / "report.md").read_text(encoding="utf-8")
    assert code(tidy) in markdown
    outside = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", markdown)
    for trace in ("alert(1)", "everyone", "# heading", "half a pair"):
        assert trace not in outside

    with open(folder.path / "tasks.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["task"] == "a"


def test_code_spans_cannot_be_left() -> None:
    assert code("a") == "`a`"
    assert code("a`b") == "`` a`b ``"
    assert code("``") == "``` `` ```"
    assert code("a|b\n| c") == "`a|b | c`"
    assert cell("a|b\n| c") == r"`a\|b \| c`"
    assert code("") == "` `"


def test_the_page_needs_no_network_and_one_file(make_run: MakeRun) -> None:
    folder = make_run(20)
    (folder.path / "videos").mkdir()
    (folder.path / "videos" / "chain0001_sub1.webm").touch()
    write_reports(folder)
    found = page(folder)
    policy = [a["content"] for t, a in found.tags if t == "meta" and "http-equiv" in a]
    assert len(policy) == 1
    assert str(policy[0]).startswith("default-src 'none'")
    for link in found.links() - {"data:,"}:
        if not link.startswith("#"):
            assert (folder.path / link).exists(), link
    assert not any(tag in ("link", "script") and "src" in a for tag, a in found.tags)
    text = (folder.path / "report.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text


def test_videos_are_found_by_name_and_linked(make_run: MakeRun) -> None:
    folder = make_run(20)
    failed = [r["chain"] for r in raw_chains(folder) if done(r) < 5]
    whole, parts, moving = failed[:3]
    videos = folder.path / "videos"
    videos.mkdir()
    names = [f"chain{parts:04d}_sub10.mp4", f"chain{parts:04d}_sub2.mp4", f"chain{whole:04d}.mp4",
             f"chain{whole:04d}_sub1.mp4", f"chain{moving:04d}.gif",
             f"chain{whole:04d}.gif", f"chain{parts:04d}_sub10.gif"]  # fmt: skip
    for name in (*names, "chain1.mp4", "chain0001.mp4.tmp", "notes.txt", "chain9999.mp4"):
        (videos / name).touch()
    found = find_videos(folder.path)
    assert [video.part for video in found[parts]] == [2, 10, 10]
    assert [video.part for video in found[whole]] == [None, None, 1]
    assert set(found) == {whole, parts, moving, 9999}
    write_reports(folder)
    tags = page(folder).tags
    shown = [a["src"] for tag, a in tags if tag == "video"]
    assert sorted(map(str, shown)) == sorted(f"videos/{name}" for name in (names[0], names[2]))
    assert [a["src"] for tag, a in tags if tag == "img"] == [f"videos/{names[4]}"]
    assert all(a["preload"] == "none" for tag, a in tags if tag == "video")
    assert {f"videos/{name}" for name in names} <= page(folder).links()


def test_the_gallery_begins_with_one_of_each_task(make_run: MakeRun) -> None:
    folder = make_run(100)
    videos = folder.path / "videos"
    videos.mkdir()
    for chain in range(100):
        (videos / f"chain{chain:04d}.mp4").touch()
    rows = failures_with_video(chain_rows(folder.records(), find_videos(folder.path)))
    failed = [r["tasks"][done(r)] for r in raw_chains(folder) if done(r) < 5]
    kinds = len(set(failed))
    assert Counter(row.task for row in rows) == Counter(failed)
    assert len({row.task for row in rows[:kinds]}) == kinds
    assert rows[0].task == Counter(failed).most_common(1)[0][0]


def test_reports_are_the_same_each_time(make_run: MakeRun) -> None:
    folder = make_run(25, errors={2: "boom"})
    write_reports(folder)
    before = {name: (folder.path / name).read_bytes() for name in REPORTS}
    write_reports(RunFolder.open(folder.path))
    assert {name: (folder.path / name).read_bytes() for name in REPORTS} == before


def test_a_stored_verdict_is_no_better_than_the_run(make_run: MakeRun) -> None:
    stated = {"verdict": {"official": True, "reasons": []}}
    verdict = make_view(make_run(3, missing=(1,), changes=stated)).verdict
    assert verdict is not None
    assert not verdict.official


def chains_of(planned: list[int]) -> dict[str, Any]:
    return {**document_of()["chains"], "planned": planned}


def test_a_header_that_disagrees_with_the_journal_is_refused(make_run: MakeRun) -> None:
    folder = make_run(4, changes={"chains": chains_of([0, 1])})
    with pytest.raises(RunFolderError, match="at most 2 planned chains, found 4"):
        make_view(folder)


def test_a_header_without_planned_chains_is_refused(make_run: MakeRun) -> None:
    changes = {"chains": {**chains_of([]), "planned": None}}
    with pytest.raises(RunFolderError, match=r"chains\.planned to be a list; found None"):
        make_view(make_run(1, changes=changes))


def test_plots_place_values() -> None:
    from calvin_eval.results.intervals import Interval

    values = [
        Value(label=str(i), share=share, interval=Interval(low=share - 0.1, high=share + 0.1))
        for i, share in enumerate((0.2, 0.9))
    ]
    drawn = plot(values)
    first, second = drawn.marks
    zero, whole = drawn.grid[0][0], drawn.grid[-1][0]
    assert [text for _, text in drawn.grid] == ["0", "25", "50", "75", "100"]
    assert (zero - first.y) / (zero - whole) == pytest.approx(0.2, abs=1e-3)
    assert (zero - second.low) / (zero - whole) == pytest.approx(0.8, abs=1e-3)
    assert second.high == whole
    assert drawn.line.split() == [f"{m.x:g},{m.y:g}" for m in drawn.marks]
    assert len(drawn.band.split()) == 4
    assert axis_top([0.1, 0.17]) == 0.2
    assert axis_top([0.19]) == 0.4
    assert axis_top([0.99]) == 1.0
    assert [level(share) for share in (0, 0.05, 0.1, 0.11, 0.5, 0.75, 0.76, 1)] == [
        0, 1, 1, 2, 3, 4, 5, 5
    ]  # fmt: skip


def test_words() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == f"0{EN_DASH}2, 5, 7{EN_DASH}8"
    assert ranges([]) == ""
    texts = [counted(1, "chain"), counted(0, "error"), *map(duration, (4.24, 200, 7500))]
    expected = ["1 chain", "0 errors", "4.2 s", "3 min 20 s", "2 h 05 min"]
    assert [text.replace("\N{NO-BREAK SPACE}", " ") for text in texts] == expected


def call(*arguments: object) -> str:
    result = CliRunner().invoke(report, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_the_command_writes_what_can_be_computed_and_keeps_the_header(make_run: MakeRun) -> None:
    folder = make_run(12)
    header = (folder.path / "header.json").read_bytes()
    out = call(folder.path)
    assert (folder.path / "header.json").read_bytes() == header
    average = np.mean([done(record) for record in raw_chains(folder)])
    assert f"{average:.3f}" in out
    assert "Not comparable" in out
    assert "Planned chains: expected 1000, found 12." in out
    summary = folder.read_json("summary.json")
    assert summary["average_length"] == pytest.approx(average)
    assert summary["verdict"]["official"] is False
    assert all((folder.path / name).is_file() for name in REPORTS)


def test_the_command_withholds_the_headline_of_a_partial_run(make_run: MakeRun) -> None:
    folder = make_run(12, missing=(0,))
    average = f"{np.mean([done(record) for record in raw_chains(folder)]):.3f}"
    out = call(folder.path)
    assert "Headline withheld" in out
    assert "1 missing" in out
    assert average not in out
    out = call(folder.path, "--partial")
    assert "Partial result" in out
    assert average in out
    assert folder.read_json("summary.json")["average_length"] is None


def test_out_writes_one_file_with_links_that_lead_back(make_run: MakeRun, tmp_path: Path) -> None:
    folder = make_run(3)
    before = sorted(path.name for path in folder.path.iterdir())
    (tmp_path / "sub").mkdir()
    out = tmp_path / "sub" / "mine.html"
    call(folder.path, "--out", out)
    assert sorted(path.name for path in folder.path.iterdir()) == before
    assert (out.parent / "../run/header.json").resolve() == folder.path / "header.json"
    links = Page(out.read_text(encoding="utf-8")).links()
    assert "../run/header.json" in links
    call(folder.path, "--out", tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text().startswith("task,success,total")
    with pytest.raises(UsageError, match=r"\.html, \.md or \.csv, found '\.pdf'"):
        call(folder.path, "--out", tmp_path / "mine.pdf")
    with pytest.raises(UsageError, match="expected a file that can be written"):
        call(folder.path, "--out", tmp_path / "none" / "mine.md")


@pytest.mark.slow
def test_the_command_needs_neither_simulator_nor_torch(make_run: MakeRun) -> None:
    folder = make_run(3)
    script = (
        "import sys; from calvin_eval.cli.report import report\n"
        "report([sys.argv[1]], standalone_mode=False)\n"
        "print('loaded:', sorted({'torch', 'pybullet', 'hydra', 'jinja2'} & set(sys.modules)))"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, str(folder.path)], capture_output=True, text=True, check=True
    )
    assert child.stdout.splitlines()[-1] == "loaded: ['jinja2']"
