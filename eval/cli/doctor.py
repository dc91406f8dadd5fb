"""`calvin-eval doctor`: is everything here that a run needs?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from calvin_eval import __version__
from calvin_eval.cli.options import json_option, option
from calvin_eval.console.saying import say
from calvin_eval.sim.drawing.options import BACKENDS

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.doctor.findings import CheckResult

EXIT_OK, EXIT_UNSOUND = 0, 1
SCHEMA = 1

_WIDE = 1000

_COLUMN = 13  # wide enough for every name, and two spaces
_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}
_SYMBOLS = {"ok": "✓", "warning": "!", "error": "✗"}
_ASCII = {"ok": "+", "warning": "!", "error": "x"}


@click.command(short_help="Check the machine, packages, assets and renderer.")
@option(
    "--assets",
    metavar="PACK",
    default="builtin",
    help="The pack that a run would use: builtin, official or a path.",
)
@option(
    "--render",
    type=click.Choice(BACKENDS),
    default="auto",
    help="The renderer that a run would use.",
)
@json_option
@click.pass_context
def doctor(ctx: click.Context, assets: str, render: str, as_json: bool) -> None:
    """Check the machine, the packages, the assets and the renderer, and replay a stored trace.

    Exits with 1 if anything is found that would fail or spoil a run.
    """
    from calvin_eval.doctor.diagnosis import examine

    findings = examine(assets, render)
    counts = print_json(findings) if as_json else print_report(findings, _stdout())
    ctx.exit(EXIT_UNSOUND if counts["error"] else EXIT_OK)


def print_json(findings: Iterable[CheckResult]) -> Counter[str]:
    """All findings as one JSON object; returns how many there are of each status."""
    entries = [finding.as_dict() for finding in findings]
    counts = Counter(entry["status"] for entry in entries)
    content = {
        "schema": SCHEMA,
        "calvin_eval": __version__,
        "sound": not counts["error"],
        "findings": entries,
    }
    say(json.dumps(content, indent=2))
    return counts


def print_report(findings: Iterable[CheckResult], console: Console) -> Counter[str]:
    """Every finding as soon as it is made, then the verdict; returns how many of each status."""
    counts: Counter[str] = Counter()
    for finding in findings:
        counts[finding.status] += 1
        _print_finding(finding, console)
    console.print()
    errors, warnings = counts["error"], counts["warning"]
    if errors:
        console.print(f"[bold red]Not ready:[/] {_count(errors, 'error')} to fix first.")
    elif warnings:
        console.print(f"[bold yellow]Ready,[/] with {_count(warnings, 'warning')}.")
    else:
        console.print("[bold green]Ready.[/]")
    return counts


def _print_finding(finding: CheckResult, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    style = _STYLES[finding.status]
    symbol = (_ASCII if console.options.ascii_only else _SYMBOLS)[finding.status]
    row = Table.grid(padding=0)
    row.add_column(width=2)
    row.add_column(width=_COLUMN)
    row.add_column(overflow="fold")
    row.add_row(f"[{style}]{symbol}[/]", f"[bold]{finding.name}[/]", escape(finding.detail))
    console.print(row)
    arrow = "->" if console.options.ascii_only else "→"
    for line in finding.remedy.splitlines():
        # Never wrapped by us: what is copied from the terminal has to be one line.
        indent = " " * (2 + _COLUMN)
        console.print(f"{indent}[{style}]{arrow}[/] {escape(line)}", soft_wrap=True)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _stdout() -> Console:

    # Lines are broken for terminals only: in a log or a pipe, one finding is one line.
    width = None if sys.stdout.isatty() else _WIDE
    from calvin_eval.console.terminal import Terminal

    return Terminal(file=sys.stdout, highlight=False, width=width)
