"""How the command line ends: in one line and with the right code, whatever it is started with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.cli import main as cli
from calvin_eval.errors import UsageError
from calvin_eval.rollouts.interrupts import ASKING_TO_END
from calvin_eval.running import run as running

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "calvin_eval"]
# Called in the child's place before it starts, as a shell's >&- would be.
CLOSERS = {"stdout": [1], "stderr": [2], "both": [1, 2], "all": [0, 1, 2]}


def stderr_of(code: int, child: subprocess.CompletedProcess[str]) -> str:
    assert child.returncode == code, child.stderr
    assert "Traceback" not in child.stderr
    assert child.stderr.count("\n") <= 1
    return child.stderr


@pytest.mark.slow
@pytest.mark.parametrize("which", CLOSERS)
def test_closed_streams_are_no_error(tmp_path: Path, which: str) -> None:
    """Nothing is printed, and nothing printed lands in a file that took a stream's place."""
    start = "; ".join(f"exec {number}>&-" for number in CLOSERS[which])
    arguments = "--ckpt builtin:still --split D --num-chains 1 protocol.steps=3 --workers 1 --quiet"
    command = f"{start}; exec {sys.executable} -m calvin_eval {arguments} --out {tmp_path}/run"
    child = subprocess.run(["sh", "-c", command], cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert child.returncode == 0
    assert (tmp_path / "run/chains.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "run/summary.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "w") as full:
        child = subprocess.run(
            [*COMMAND, "presets"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert "No space left on device" in stderr_of(2, child)


def test_a_reader_that_went_away() -> None:
    for arguments in (["presets"], ["presets", "--json"], ["--help"]):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            child = subprocess.run(
                [*COMMAND, *arguments], stdout=pipe, stderr=subprocess.PIPE, text=True
            )
        assert child.stderr == ""
        assert child.returncode == 130


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    command = f"cd {folder} && rmdir {folder} && exec {sys.executable} -m calvin_eval presets"
    child = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert "change to another one" in stderr_of(2, child)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    child = subprocess.run(
        [*map(os.fsencode, COMMAND), b"report", os.fsencode(tmp_path) + b"/\xff"],
        capture_output=True, text=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )  # fmt: skip
    assert r"\udcff, found none: is this a run folder?" in stderr_of(2, child)


def test_a_defect_is_one_line_a_file_and_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(**options: object) -> int:
        raise RuntimeError("first line\nsecond \x1b[2J" + "x" * 10_000)

    monkeypatch.setattr(cli.cli, "main", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cli.main(["presets"]) == 70
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert r"RuntimeError: first line\nsecond \x1b[2Jxxx" in err
    assert len(err) < 1000
    (log,) = tmp_path.iterdir()
    assert str(log) in err
    assert "in broken" in log.read_text()


def test_errors_are_cut_where_they_would_fill_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def usage(**options: object) -> int:
        raise UsageError("x" * 100_000)

    monkeypatch.setattr(cli.cli, "main", usage)
    assert cli.main([]) == 2
    assert "96007 characters" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ASKING_TO_END)
def test_signals_that_ask_for_the_end_do_what_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, kind: signal.Signals
) -> None:
    defaults = {number: signal.SIG_DFL for number in ASKING_TO_END}  # not so under nohup
    wanted = {**defaults, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    monkeypatch.setattr(cli.cli, "main", lambda **options: signal.raise_signal(kind))
    try:
        assert cli.main([]) == 130
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    monkeypatch.setattr(cli.cli, "main", lambda **options: signal.raise_signal(signal.SIGHUP) or 0)  # type: ignore[func-returns-value]
    try:
        assert cli.main([]) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


SHORT = ("--ckpt", "builtin:still", "--split", "D", "--num-chains", "1", "--quiet")


@pytest.mark.slow
def test_ctrl_c_while_videos_are_drawn_leaves_the_videos_out_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(running.VideoPool):
        def close(self, **how: Any) -> None:
            waits = how.get("wait", True)
            super().close(wait=False)
            if waits and not self.stopped_before:
                self.stopped_before = True
                raise KeyboardInterrupt

        stopped_before = False

    monkeypatch.setattr(running, "VideoPool", Interrupted)
    arguments = (*SHORT, "protocol.steps=3", "--workers=0", "--render=tiny", "video.which=all")
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert "1 chain" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/header.json").read_text())["status"] == "finished"
    for name in ("summary.json", "report.html"):
        assert (tmp_path / "run" / name).exists()


@pytest.mark.slow
def test_a_complete_run_is_never_called_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = running.InlineEngine.run

    def interrupted(self: Any, *arguments: Any) -> None:
        run(self, *arguments)
        self.interrupted = True

    monkeypatch.setattr(running.InlineEngine, "run", interrupted)
    arguments = (*SHORT, "protocol.steps=3", "--workers=0")
    assert cli.main([*arguments, "--out", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run/header.json").read_text())["status"] == "finished"
