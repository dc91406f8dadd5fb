"""The displays, driven by hand-made records and a clock that only moves when asked."""

from __future__ import annotations

import io
import logging
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from calvin_eval.console.dashboard import MOST_SHARE, Dashboard
from calvin_eval.console.display import (
    PlainDisplay,
    QuietDisplay,
    make_display,
    print_comparison,
    print_run,
)
from calvin_eval.console.frame import Frame, duration
from calvin_eval.console.tables import Signs
from calvin_eval.console.tally import Speed, Tally
from calvin_eval.results.means import mean_interval
from calvin_eval.results.metrics import summarize
from calvin_eval.results.official import Verdict
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.running.outcome import Run

TASKS = ("open_drawer", "lift_pink_block_slider", "turn_off_led", "rotate_blue_block_right",
         "push_into_drawer")  # fmt: skip
SHARES = {"physics": 0.4, "render": 0.3, "inference": 0.15, "waiting": 0.1, "reset": 0.05}
ASCII = Signs(full="=", half="-", rest=".", dash="-", tick="+", dot="-")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """Seconds, as set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A terminal that remembers what it was given, call by call."""

    encoding = "utf-8"
    gone = False

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise OSError(5, "Input/output error")
        self.writes.append(text)
        return len(text)

    @property
    def frames(self) -> list[str]:
        """The drawings, without control sequences."""
        texts = [CONTROL.sub("", text) for text in self.writes]
        return [text for text in texts if "chains" in text]


@pytest.fixture(autouse=True)
def terminal_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


@pytest.fixture
def root_handler() -> Iterator[tuple[logging.StreamHandler[io.StringIO], Terminal]]:
    terminal = Terminal()
    handler: logging.StreamHandler[io.StringIO] = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    yield handler, terminal
    logging.getLogger().removeHandler(handler)


def record(
    chain: int, length: int, *, tasks: tuple[str, ...] = TASKS, steps: int = 100, error: str = ""
) -> ChainRecord:
    """A chain with so many tasks done, each of so many steps."""
    tried = tasks[:length] if error else tasks[: length + 1]
    subtasks = tuple(
        SubtaskRecord(
            task=task, instruction="do it", success=i < length, steps=steps, seconds=1.0,
            state_hash="00",
        )
        for i, task in enumerate(tried)
    )  # fmt: skip
    return ChainRecord(
        chain=chain,
        initial_state={},
        tasks=tasks,
        subtasks=subtasks,
        status="error" if error else "completed",
        error=error or None,
    )


def run_of(records: list[ChainRecord], planned: int = 0, **changes: object) -> Run:
    run = Run(
        folder=Path("runs/a-policy-D-20260101-120000"),
        records=tuple(records),
        summary=summarize(records, planned or len(records)),
        verdict=Verdict(official=False, reasons=("Planned chains: expected 1000, found 12.",) * 2),
        policy="TorchScript policy.pt (sha256 012345678901, 28.2 MB), rgb_static -> 8 actions",
        advice="render took 62 % of the workers' time: more workers would help",
        interrupted=False,
    )
    return replace(run, **changes)  # type: ignore[arg-type]


def printed(run: Run, width: int, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    print_run(run, Console(file=stream, width=width))
    stream.seek(0)
    return stream.read()


def dashboard(terminal: Terminal, clock: Clock, width: int = 100, height: int = 40) -> Dashboard:
    console = Console(file=terminal, width=width, height=height)
    return Dashboard(console, clock=clock, cost=lambda: 0.0, thread=False)


def lines_of(tally: Tally, now: float, width: int = 100, height: int = 40) -> list[str]:
    frame = Frame(tally, SHARES, width, Signs(), now)
    return [line.plain for line in frame.lines("policy · D", height)]


# Who shows what


def test_a_terminal_gets_the_dashboard_and_everything_else_plain_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert isinstance(make_display(Terminal()), Dashboard)
    assert isinstance(make_display(io.StringIO()), PlainDisplay)
    monkeypatch.setenv("FORCE_COLOR", "1")  # as build services set it: colours, but no cursor
    assert isinstance(make_display(io.StringIO()), PlainDisplay)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(Terminal()), PlainDisplay)


def test_quiet_says_nothing() -> None:
    terminal = Terminal()
    display = make_display(terminal, quiet=True)
    assert isinstance(display, QuietDisplay)
    display.note("hello")
    display.begin(2, [], 1, "policy")
    display.progress(0, 0, 0, 1)
    display.record(0, record(0, 2), SHARES)
    display.end()
    assert terminal.writes == []


# Counting


@pytest.mark.parametrize("longest", [5, 3, 7])
def test_running_rates_are_those_of_the_result(longest: int) -> None:
    tasks = tuple(f"task_{i}" for i in range(longest))
    records = [record(i, i * i % (longest + 1), tasks=tasks) for i in range(23)]
    records += [record(23, 2, tasks=tasks[:2]), record(24, 1, tasks=tasks, error="boo")]
    tally = Tally(len(records), records)
    summary = summarize(records, len(records))
    rates, intervals = summary.partial_success_rates, summary.partial_success_rate_intervals
    assert rates is not None
    assert intervals is not None
    assert tally.rates() == list(zip(rates.values(), intervals.values(), strict=True))
    known, spread = tally.length(), summary.partial_average_length_interval
    assert known is not None
    assert known[0] == pytest.approx(summary.partial_average_length)
    assert known[1] is not None
    assert spread is not None
    assert known[1].low == pytest.approx(spread.low, abs=0.1)
    assert known[1].high == pytest.approx(spread.high, abs=0.1)


def test_one_chain_has_a_length_and_a_wide_interval() -> None:
    assert Tally(2).length() is None
    assert Tally(2, [record(0, 3)]).length() == (3.0, mean_interval([3], (0, 5)))


def test_errors_count_for_nothing_but_themselves() -> None:
    tally = Tally(4, [record(0, 5)])
    tally.record(0, record(1, 0, error="boo"), 1.0)
    assert (tally.chains, tally.completed, tally.errors) == (2, 1, 1)
    assert [rate for rate, _ in tally.rates()] == [1.0] * 5


def test_time_left_counts_in_steps_and_knows_what_is_half_done() -> None:
    tally = Tally(10, [record(i, 0, steps=100) for i in range(4)], workers=1, now=0.0)
    assert tally.seconds_left(0.0) is None
    tally.progress(0, 4, 0, 1, 5.0)  # loading took five seconds
    tally.progress(0, 4, 0, 49, 10.0)
    assert tally.average_speed(10.0) == 10.0
    assert tally.seconds_left(10.0) == 55.0  # six chains of 100 steps, half of one done
    assert tally.seconds(10.0) == 10.0


def test_speed_follows_what_happens_now() -> None:
    speed, steps = Speed(), 0
    speed.look(0, 60.0)  # loading
    for _ in range(40):
        steps += 10
        speed.look(steps, 0.25)
    assert speed.value == pytest.approx(40.0)
    for _ in range(400):
        steps += 1
        speed.look(steps, 0.25)
    assert speed.value == pytest.approx(4.0, rel=0.01)


def test_a_worker_is_followed_through_its_chain() -> None:
    tally = Tally(10, workers=2, now=0.0)
    assert "starting" in lines_of(tally, 0.0)[9]
    for position, steps in ((0, 30), (0, 30), (2, 7), (2, 5)):
        tally.progress(1, 42, position, steps, 1.0)
    state = tally.workers[1]
    assert (state.chain, state.position, state.steps, state.chain_steps) == (42, 2, 12, 72)
    assert re.search(r"^1 +42 +3 ✓✓ +12 ", lines_of(tally, 1.0)[10])
    tally.progress(1, 42, 0, 0, 2.0)  # the engine begins it anew
    tally.progress(1, 42, 0, 3, 2.0)
    assert (state.position, state.steps, state.chain_steps, state.total) == (0, 3, 3, 75)
    assert "quiet 0:12" in lines_of(tally, 14.0)[10]
    tally.progress(1, 42, 5, 2, 14.0)  # its last word on a chain, wherever that ended
    assert lines_of(tally, 14.0)[10].split() == ["1", "idle"]
    tally.record(1, record(42, 0), 14.0)
    assert lines_of(tally, 14.0)[10].split() == ["1", "idle"]


def test_a_worker_that_nobody_announced_is_shown_too() -> None:
    tally = Tally(10, workers=1)
    tally.progress(1, 0, 0, 5, 1.0)
    assert sorted(tally.workers) == [0, 1]


# The drawing


def busy_tally(workers: int, errors: int = 3) -> Tally:
    done = [record(i, i % 6) for i in range(400)]
    done += [record(400 + i, 0, error="boo") for i in range(errors)]
    tally = Tally(1000, done, workers, now=0.0)
    for worker in range(workers):
        tally.progress(worker, 500 + worker, worker % 5, 100 + worker, 3.0)
    tally.look(3.0)
    return tally


@pytest.mark.parametrize("width", [60, 100, 160])
@pytest.mark.parametrize("workers", [1, 2, 8, 9, 40])
@pytest.mark.parametrize("signs", [Signs(), ASCII])
def test_a_drawing_keeps_to_the_terminal(width: int, workers: int, signs: Signs) -> None:
    tally = busy_tally(workers)
    for height in range(1, 41):
        lines = Frame(tally, SHARES, width, signs, 5000.0).lines("policy " * 30, height)
        assert len(lines) <= height
        assert max(cell_len(line.plain) for line in lines) <= width
        text = "\n".join(line.plain for line in lines)
        assert "403/1000 chains" in text
        assert signs is not ASCII or text.isascii()


def test_everything_is_in_a_drawing_with_room() -> None:
    text = "\n".join(lines_of(busy_tally(4), 3.5)).replace("\N{EN DASH}", "-")
    for wanted in (
        "policy · D", "4 workers", "403/1000 chains", "0:03", "left", "success %",
        "83.2", "79-87", "length", "2.49", "2.32-2.66", "3 chains ended by an error",
        "physics 40 %", "render 30 %", "inference 15 %", "waiting 10 %", "other 5 %", "steps/s",
    ):  # fmt: skip
        assert wanted in text
    assert len(re.findall(r"^[0-3] +50[0-3] ", text, flags=re.MULTILINE)) == 4


def test_the_lines_keep_their_places_when_the_first_chain_ends() -> None:
    tally = Tally(10, workers=2)
    before = lines_of(tally, 0.0)
    tally.progress(0, 0, 0, 5, 1.0)
    tally.record(0, record(0, 5), 1.0)
    assert len(lines_of(tally, 1.0)) == len(before)


def test_many_workers_share_three_lines() -> None:
    tally = busy_tally(12)
    tally.record(3, record(503, 1), 3.0)
    tally.progress(7, 507, 2, 50, 100.0)
    tally.look(100.0)
    text = "\n".join(lines_of(tally, 100.0))
    assert "subtasks 123·51234512" in text
    assert "1 busy, 10 quiet, 1 idle" in text
    assert "slowest  worker 0," in text


def test_a_narrow_terminal_keeps_the_largest_shares() -> None:
    shares = {"physics": 0.006, "render": 0.02, "inference": 0.02, "waiting": 0.9, "reset": 0.054}
    tally = busy_tally(2)
    (line,) = (
        text.plain
        for text in Frame(tally, shares, 60, Signs(), 3.0).lines("", 40)
        if "steps/s  " in text.plain and "worker" not in text.plain
    )
    assert "waiting 90 %" in line
    assert "physics" not in line


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.9, 61, 3600, 90061)] == [
        "0:00", "0:59", "1:01", "1:00:00", "25:01:01",
    ]  # fmt: skip


# The dashboard


def test_it_draws_at_most_four_times_a_second(clock: Clock) -> None:
    terminal = Terminal()
    display = dashboard(terminal, clock)
    display.begin(10, [], 2)
    for _ in range(1000):
        display.progress(0, 0, 0, 1)
        display.tick()
        clock.now += 0.01
    assert 38 <= len(terminal.frames) <= 41
    display.end()


def test_it_draws_less_often_where_drawing_is_slow(clock: Clock) -> None:
    terminal, ticks = Terminal(), count()
    console = Console(file=terminal, width=100, height=40)
    display = Dashboard(console, clock=clock, cost=lambda: 0.02 * next(ticks), thread=False)
    display.begin(10, [], 2)
    for _ in range(4000):
        display.tick()
        clock.now += 0.01
    drawn = len(terminal.frames)
    assert drawn > 5
    assert 0.02 * (drawn - 1) <= MOST_SHARE * 40
    display.end()


def test_counting_never_draws(clock: Clock) -> None:
    terminal = Terminal()
    display = dashboard(terminal, clock)
    display.begin(10, [], 2)
    written = len(terminal.writes)
    for chain in range(9):
        clock.now += 1
        display.progress(0, chain, 0, 1)
        display.record(0, record(chain, 3), SHARES)
    assert len(terminal.writes) == written
    display.tick()
    assert "9/10 chains" in terminal.frames[-1]
    display.end()


def test_a_resumed_run_counts_what_was_done_before(clock: Clock) -> None:
    terminal = Terminal()
    display = dashboard(terminal, clock)
    display.begin(10, [record(i, 5) for i in range(3)], 2, "policy · D")
    display.tick()
    assert "3/10 chains" in terminal.frames[-1]
    assert "100.0" in terminal.frames[-1]
    clock.now += 10
    display.record(0, record(3, 0), SHARES)
    display.end()
    assert "4/10 chains   0:10" in terminal.frames[-1]


def test_notes_stand_above_the_live_area(clock: Clock) -> None:
    terminal = Terminal()
    display = dashboard(terminal, clock)
    display.note("before it [all]")
    display.begin(10, [], 2)
    display.tick()
    display.note("chain 12: simulator worker died; trying again")
    noted = terminal.frames[-1]
    assert noted.index("chain 12: simulator") < noted.index("0/10 chains")
    display.end()
    assert "before it [all]" in "".join(terminal.writes)


def test_the_terminal_is_left_as_it_was(
    clock: Clock, root_handler: tuple[logging.StreamHandler[io.StringIO], Terminal]
) -> None:
    handler, terminal = root_handler
    before = sys.stdout, sys.stderr
    display = dashboard(terminal, clock)
    for run in range(2):
        display.begin(10, [], 2)
        display.tick()
        logging.getLogger("policy").warning("logged in run %d", run)
        print("printed in run", run, file=sys.stderr)
        for text in ("logged", "printed"):  # each together with a drawing below it
            (shown,) = (f for f in terminal.frames if f"{text} in run {run}" in f)
            assert "0/10 chains" in shown.split(f"{text} in run")[1]
        display.end()
        assert (sys.stdout, sys.stderr) == before
        assert handler.stream is terminal
        text = "".join(terminal.writes)
        assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    display.end()  # a second time does no harm


def test_without_colours_there_are_none(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    display = dashboard(terminal, clock)
    display.begin(10, [record(0, 5), record(1, 0, error="boo")], 2)
    display.tick()
    display.end()
    colours = re.findall(r"\x1b\[(?:\d+;)*(?:3|9)\d(?:;\d+)*m", "".join(terminal.writes))
    assert colours == []


def test_a_terminal_that_went_away_does_not_end_the_run(clock: Clock) -> None:
    terminal = Terminal()
    display = dashboard(terminal, clock)
    display.begin(10, [], 2)
    display.tick()
    terminal.gone = True
    display.note("anybody there?")
    display.record(0, record(0, 1), SHARES)
    display.end()


@pytest.mark.processes
def test_its_thread_ends_with_the_run() -> None:
    terminal = Terminal()
    display = Dashboard(Console(file=terminal, width=100, height=40))
    display.begin(1, [], 1)
    display.record(0, record(0, 1), SHARES)
    display.end()
    assert "1/1 chains" in terminal.frames[-1]
    assert "dashboard" not in [thread.name for thread in threading.enumerate()]


# Plain lines


def test_a_log_gets_a_line_every_ten_seconds_and_the_last_one(clock: Clock) -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, clock=clock)
    display.note("policy: p")
    display.begin(10, [record(0, 5), record(1, 1)], 2, "p.pt")
    for chain in range(2, 7):
        for _ in range(40):
            clock.now += 0.125
            display.progress(0, chain, 0, 1)
        display.record(0, record(chain, chain % 6), SHARES)
    display.note("chain 7: simulator worker died; trying again")
    display.record(0, record(7, 0, error="boo"), SHARES)
    display.end()
    text = stream.getvalue()
    assert "\r" not in text
    assert text.endswith("\n")
    assert text.isascii()
    lines = text.splitlines()
    assert lines[0] == "policy: p"
    assert lines[1] == (
        "p.pt:  20% |###             | 2/10 chains [00:00<?, 1..5: 100 50 50 50 50 %, "
        "length 3.00 (0.35-4.95)]"
    )
    assert [re.findall(r"\d+/10", line) for line in lines[2:4]] == [["3/10"], ["5/10"]]
    assert lines[4] == "chain 7: simulator worker died; trying again"
    assert lines[5].startswith("p.pt:  80% |############=   | 8/10 chains [00:25<00:08, 1..5: 86 ")
    assert lines[5].endswith("1 error, 8 steps/s]")
    assert len(lines) == 6


def test_a_finished_log_ends_with_all_chains(clock: Clock) -> None:
    stream = io.StringIO()
    display = PlainDisplay(stream, clock=clock)
    for _ in range(2):  # two checkpoints, one after the other
        display.begin(1, [], 1)
        display.record(0, record(0, 2), SHARES)
        display.end()
    assert [line[:9] for line in stream.getvalue().splitlines()] == ["  0% |   ", "100% |###"] * 2


# The result


def results(count: int = 200) -> list[ChainRecord]:
    many = [f"rotate_and_push_block_number_{i:02}" for i in range(30)]
    return [
        record(i, i % 6, tasks=tuple(many[(i + j) % 30] for j in range(5))) for i in range(count)
    ]


@pytest.mark.parametrize("width", [60, 100, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_result_keeps_to_the_width_and_loses_nothing(width: int, encoding: str) -> None:
    run = run_of(results())
    text = printed(run, width, encoding)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    words = text.split()
    for rate in (run.summary.success_rates or {}).values():
        assert f"{100 * rate:.1f}" in words
    assert f"{run.summary.average_length:.3f}" in words
    for task, tried in run.summary.per_task.items():
        assert task in words
        assert f"{tried.success}/{tried.total}" in words
    assert "200 chains" in text
    assert "Not comparable with published results" in text
    assert text.count("Planned chains: expected 1000, found 12.") == 2
    assert "Render took 62 %" in text
    assert text.endswith("Files: runs/a-policy-D-20260101-120000\n")


def test_tasks_are_ranked_down_the_columns() -> None:
    run = run_of([record(i, 5 if i % 3 else i % 5) for i in range(40)])
    narrow = [line.split()[0] for line in printed(run, 60).splitlines() if "/" in line[20:]]
    ranked = sorted(TASKS, key=lambda task: (-(run.summary.per_task[task].rate or 0), task))
    assert narrow[:5] == ranked
    many = run_of(results())
    columns = [line for line in printed(many, 160).splitlines() if "number" in line]
    assert len(columns) == 10
    cells = [re.findall(r"(\d+) %", line) for line in columns]
    down = [int(line[column]) for column in range(3) for line in cells]
    assert down == sorted(down, reverse=True)


def test_a_run_with_errors_withholds_its_headline() -> None:
    trace = "Traceback (most recent call last):\n  File x\nZeroDivisionError: division by zero"
    lost = "given up after 3 attempts: simulator worker died: exit code 1; last output:\nrubbish"
    records = [record(0, 2), record(1, 0, error=trace), record(2, 0, error=lost)]
    records += [record(i, 0, error="\n") for i in range(3, 5)]
    text = printed(run_of(records, 6), 100)
    assert "partial result of 1 chain out of 6" in text
    assert "Incomplete: 1 of 6 chains completed, 4 ended by an error, 1 missing." in text
    assert "chain 1: ZeroDivisionError: division by zero" in text
    assert "chain 2: given up after 3 attempts: simulator worker died" in text
    assert "rubbish" not in text
    assert "and 1 more" in text


def test_a_run_of_nothing_but_errors_has_no_tables() -> None:
    text = printed(run_of([record(0, 0, error="boo")]), 60)
    assert "Incomplete" in text
    assert "success %" not in text


def test_an_official_run_says_so() -> None:
    text = printed(run_of(results(6), verdict=Verdict(official=True, reasons=())), 100)
    assert "Official: comparable with published results." in text
    assert "Not comparable" not in text


@pytest.mark.parametrize("width", [60, 100, 160])
def test_checkpoints_are_compared_the_best_first(width: int) -> None:
    good = run_of(results(100), folder=Path("runs/checkpoint_000200-D-20260101-120000"))
    bad = run_of([record(i, 0) for i in range(50)], folder=Path("runs/checkpoint_000100"))
    none = run_of([record(0, 0, error="boo")], folder=Path("runs/broken"))
    stream = io.StringIO()
    print_comparison([none, bad, good], Console(file=stream, width=width))
    text = stream.getvalue()
    assert max(cell_len(line) for line in text.splitlines()) <= width
    names = ["checkpoint_000200-D-20260101-120000", "checkpoint_000100", "broken"]
    places = [text.index(name) for name in names]
    assert places == sorted(places)
    assert "0 of 1" in text
    assert f"{good.summary.average_length:.3f}" in text
