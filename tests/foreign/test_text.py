"""Text of strangers is shown, and neither a terminal nor a spreadsheet obeys it."""

from __future__ import annotations

import ast
import csv
import io
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live
from rich.table import Table
from rich.text import Text

from calvin_eval.cli.main import main
from calvin_eval.console.display import PlainDisplay, make_display
from calvin_eval.console.saying import say
from calvin_eval.console.terminal import Terminal
from calvin_eval.foreign.text import csv_cell, one_line, printable
from handmade import record, write_run

HARMFUL = "\x1b[2J\x1b[8m\x9b1A\x07\x7f\r\u202ex\udc80\u2028"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("grüße 日本 é…", "grüße 日本 é…"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x9b1A\x00\r", r"\x9b1A\x00\r"),
        ("\u202eevil\u2028", r"\u202eevil\u2028"),
        ("\udc80", r"\udc80"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    for char in printable(text).replace("\n", "").replace("\t", ""):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
    line = one_line(text, 50)
    assert len(line.splitlines()) <= 1
    assert len(line) < 100


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_is_a_formula(start: str) -> None:
    stream = io.StringIO()
    csv.writer(stream).writerow([csv_cell(f"{start}cmd|' /C calc'!A0")])
    (row,) = csv.reader(io.StringIO(stream.getvalue()))
    assert row[0][0] in "'\\"


def escapes(text: str) -> bool:
    return any(char in text for char in "\x1b\x9b\x07\x7f\r\u202e\u2028")


def test_a_console_shows_text_in_every_kind_of_print() -> None:
    stream = io.StringIO()
    console = Terminal(file=stream, width=200, color_system=None)
    table = Table(HARMFUL, title=HARMFUL)
    table.add_row(HARMFUL)
    console.print(table)
    console.print(HARMFUL, markup=False)
    console.print(Text(HARMFUL, style="bold red"))
    console.print(Text.assemble((HARMFUL, "bold")), soft_wrap=True)
    console.out(HARMFUL)
    assert not escapes(stream.getvalue())
    assert stream.getvalue().count(r"\x1b[2J") == 7


def test_a_console_still_obeys_rich() -> None:
    stream = io.StringIO()
    console = Terminal(file=stream, width=80, force_terminal=True, color_system="standard")
    with Live(Text("one", style="red"), console=console, auto_refresh=False) as live:
        live.update(Text("two"), refresh=True)
    assert "\x1b[31mone" in stream.getvalue()
    assert "\x1b[?25l" in stream.getvalue()


def test_displays_show_notes_and_titles() -> None:
    stream = io.StringIO()
    display = make_display(stream)
    assert isinstance(display, PlainDisplay)
    display.note(HARMFUL)
    display.begin(2, [], 1, HARMFUL)
    display.end()
    assert not escapes(stream.getvalue())


def test_lines_logs_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    say(HARMFUL)
    say(HARMFUL, err=True, fg="red")
    printed = capsys.readouterr()
    assert not escapes(printed.out + printed.err)
    script = (
        "import logging, warnings; from calvin_eval.console.saying import guard_logs; "
        "guard_logs(); logging.warning('a\\x1b[2J'); warnings.warn('b\\x1b[2J')"
    )
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert r"WARNING: a\x1b[2J" in child.stderr
    assert r"UserWarning: b\x1b[2J" in child.stderr
    assert "\x1b" not in child.stderr


def test_commands_show_what_a_stranger_wrote(tmp_path: Path, capsys) -> None:
    def change(header: dict[str, Any]) -> None:
        header["policy"]["description"] = "policy " + HARMFUL.replace("\udc80", "")

    run = write_run(tmp_path / "run", [record(0, 2), record(1, 5)], change=change)
    for command in ("report", "gate", "verify", "compare"):
        arguments = {
            "gate": ["--min-avg-len", "3"],
            "compare": [str(run)],
            "verify": ["--all"],
        }.get(command, [])
        main([command, str(run), *arguments])
        printed = capsys.readouterr()
        assert not escapes(printed.out + printed.err), command
        shown = r"\x1b[2J" in printed.out + printed.err
        assert shown or command in ("verify", "gate"), command
    for name in ("report.md", "tasks.csv"):
        assert not escapes((run / name).read_text(encoding="utf-8")), name


def test_what_a_terminal_is_given_goes_through_one_place() -> None:
    for path in sorted((Path(__file__).parents[2] / "eval").rglob("*.py")):
        if path.name in ("terminal.py", "saying.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("click.echo", "click.secho", "Console"), path


def test_names_of_tasks_are_names(tmp_path: Path) -> None:
    for name in ("=cmd|' /C calc'!A0", "a\x1b[2J", "two words", "", "@x", "-1", "x" * 101):
        with pytest.raises(ValueError, match="a name of letters"):
            replace(record(0, 1), tasks=(name,), subtasks=())
