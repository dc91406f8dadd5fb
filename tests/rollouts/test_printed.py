"""What policies print is kept, bounded, and quoted where a chain ends by an error."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from command_line import runner
from waiting import wait_until

from calvin_eval.cli.main import cli
from calvin_eval.results.journal import read_journal
from calvin_eval.results.schema import PRINTED, ChainRecord
from calvin_eval.rollouts.chain import ChainOutcome
from calvin_eval.rollouts.policy_errors import policy_code
from calvin_eval.rollouts.policy_log import PolicyLog
from calvin_eval.rollouts.printed import Lines, PrintedByProcess, PrintedHere, speaking

TRACE = "Traceback\nE: x"


class TestTheLog:
    def test_lines_wait_for_the_file(self, tmp_path: Path) -> None:
        log = PolicyLog()
        log.add("policy", "early 🤖")
        log.keep(tmp_path / "policy.log")
        log.add("policy", "late")
        assert (tmp_path / "policy.log").read_text("utf-8") == "[policy] early 🤖\n[policy] late\n"
        log.close()

    def test_nothing_is_written_where_nothing_is_printed(self, tmp_path: Path) -> None:
        log = PolicyLog()
        log.keep(tmp_path / "policy.log")
        log.close()
        assert not (tmp_path / "policy.log").exists()

    def test_the_first_and_the_last_lines_are_kept(self, tmp_path: Path) -> None:
        log = PolicyLog(most=100)
        log.keep(tmp_path / "policy.log")
        for number in range(1000):
            log.add("p", f"line {number:03}")
        log.close()
        lines = (tmp_path / "policy.log").read_text().splitlines()
        assert lines[:7] == [f"[p] line {n:03}" for n in range(7)]
        assert lines[7] == "[... 986 lines are left out ...]"
        assert lines[8:] == [f"[p] line {n:03}" for n in range(993, 1000)]

    def test_a_resumed_run_adds_to_it(self, tmp_path: Path) -> None:
        for text in ("first", "second"):
            log = PolicyLog()
            log.keep(tmp_path / "policy.log")
            log.add("p", text)
            log.close()
        assert (tmp_path / "policy.log").read_text() == "[p] first\n[p] second\n"

    def test_a_folder_that_is_gone_ends_nothing(self, tmp_path: Path) -> None:
        log = PolicyLog()
        log.keep(tmp_path / "gone" / "policy.log")
        log.add("p", "text")
        log.close()


class TestLines:
    def test_bytes_become_lines(self) -> None:
        found: list[str] = []
        lines = Lines(found.append)
        for data in (b"one\ntw", b"o\n", b"10 %\r50 %\r100 %\r\n", b"\xff\n", b"end"):
            lines.feed(data)
        lines.finish()
        assert found == ["one", "two", "100 %", "\ufffd", "end"]

    def test_a_line_without_end_is_cut(self) -> None:
        found: list[str] = []
        Lines(found.append).feed(b"x" * 10_000)
        assert [len(line) for line in found] == [4096, 4096]

    def test_ten_lines_are_quoted(self) -> None:
        lines = Lines(lambda line: None)
        lines.feed(b"".join(b"%d\n" % n for n in range(30)))
        assert lines.last.split() == [str(n) for n in range(20, 30)]


def test_a_process_is_read_to_its_end_and_no_further() -> None:
    found: list[str] = []
    reading, writing = os.pipe()
    printed = PrintedByProcess(reading, found.append)
    os.write(writing, b"one\ntwo\nthr")
    assert printed.last() == "one\ntwo"  # all that is there, without waiting for the thread
    os.write(writing, b"ee\n")
    os.close(writing)
    wait_until(lambda: found == ["one", "two", "three"], "the end was read")
    printed.close()
    printed.close()


def test_what_holds_the_pipe_open_does_not_hold_the_run() -> None:
    reading, writing = os.pipe()
    printed = PrintedByProcess(reading, lambda line: None)
    os.write(writing, b"half")
    printed.close()
    assert printed.last() == "half"
    os.close(writing)


def test_only_the_policy_is_listened_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = PolicyLog()
    log.keep(tmp_path / "policy.log")
    before = sys.stdout
    prints = PrintedHere(log)
    print("ours")
    with policy_code():
        print("theirs")
        other = threading.Thread(target=print, args=("another thread",))
        other.start()
        other.join()
    with speaking():
        print("to stderr", file=sys.stderr)
    assert prints.last() == "theirs\nto stderr"
    prints.close()
    log.close()
    assert sys.stdout is before
    assert capsys.readouterr() == ("ours\ntheirs\nanother thread\n", "to stderr\n")
    text = (tmp_path / "policy.log").read_text()
    assert text == "[this process] theirs\n[this process] to stderr\n"


def test_a_stream_without_such_letters_gets_escapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PolicyLog()
    with (tmp_path / "out").open("w", encoding="ascii") as narrow:
        monkeypatch.setattr(sys, "stdout", narrow)
        prints = PrintedHere(log)
        with speaking():
            print("fine \N{ROBOT FACE}")
        assert prints.last() == "fine \N{ROBOT FACE}"
        prints.close()
    assert (tmp_path / "out").read_text() == "fine \\U0001f916\n"


def test_an_error_quotes_what_was_printed() -> None:
    record = ChainRecord(
        chain=1,
        initial_state={},
        tasks=("a",),
        subtasks=(),
        status="error",
        error="Traceback\nE: x",
    )
    outcome = ChainOutcome(record=record, actions=(), seconds={})
    assert outcome.quoting("") is outcome
    quoted = outcome.quoting("loading\nloaded").record
    assert quoted.error == f"{TRACE}\n\n{PRINTED}\nloading\nloaded"
    assert quoted.cause == "E: x"


NOISY = """
print("imported \\N{ROBOT FACE}")

class Model:
    requirements = {}

    def __init__(self):
        with open("made", "a") as file:
            file.write("once ")

    def reset(self):
        print("reset")

    def step(self, obs, goal):
        raise ValueError("no idea")
"""


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_run_keeps_what_its_policy_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", "POSIX")
    monkeypatch.setenv("PYTHONUTF8", "0")
    arguments = ["--ckpt", "noisy.py:Model", "--num-chains", "1", "--workers", workers]
    result = runner().invoke(cli, [*arguments, "--out", "run", "engine.ask_twice=false"])
    assert result.exit_code == 3, result.output
    name = "this process" if workers == "0" else "policy"
    text = (tmp_path / "run" / "policy.log").read_text("utf-8")
    assert text == f"[{name}] imported \N{ROBOT FACE}\n[{name}] reset\n"
    (record,) = read_journal(tmp_path / "run" / "chains.jsonl")
    assert record.error is not None
    assert record.error.endswith(f"{PRINTED}\nimported \N{ROBOT FACE}\nreset")
    assert record.cause == "ValueError: no idea"
    assert (tmp_path / "made").read_text() == "once "
