"""`calvin-eval robustness`: how a policy fares when the benchmark changes."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.compared import BAD, GOOD, p_text, table
from calvin_eval.cli.options import option
from calvin_eval.cli.settings import setting_options
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.results.robustness.cells import Cell
    from calvin_eval.results.robustness.suite import Suite
    from calvin_eval.running.robustness import SuitePlan

CHAINS = 100
WIDTH = 0.5

_SETTINGS = (
    "policy", "split", "chains", "assets", "render", "revision", "seed", "resume", "workers",
    "devices", "max_batch", "batch_wait", "retries", "step_timeout", "max_errors", "trust",
    "confine",
)  # fmt: skip


@click.command(short_help="Score a policy under shifts: axes and levels, beside a clean run.")
@option("--ckpt", metavar="POLICY", required=True, help="As for a run.")
@option("--axes", metavar="LIST", help="For example start,language.", show_default="all")
@option(
    "--levels", metavar="LIST", help="For example 1,3,5,empty.", show_default="all of each axis"
)
@option(
    "--num-chains", type=click.IntRange(1), metavar="N", show_default=str(CHAINS),
    help="The first N chains, for every cell; of a list of your own all.",
)  # fmt: skip
@option(
    "--width", type=click.FloatRange(0, 5), default=WIDTH, metavar="TASKS",
    help="A cell stops when its average length is known so well; 0 for never.",
)  # fmt: skip
@option("--shift-seed", type=click.IntRange(0), default=0, metavar="N", help="Of the variants.")
@option(
    "-o", "--out", metavar="FOLDER", help="Folder of all runs.",
    show_default="runs/robustness-POLICY-SPLIT-TIME",
)  # fmt: skip
@setting_options(*_SETTINGS)
@option("--videos", "films", type=click.IntRange(1), metavar="N",
        help="Film N chains, clean and shifted next to each other.")  # fmt: skip
@option("--quiet", is_flag=True, help="No progress, only the result.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_context
def robustness(
    ctx: click.Context, /, quiet: bool, overrides: tuple[str, ...], **flags: Any
) -> None:
    """Score a policy under shifts: a clean run, and axes and levels on the same chains.

    The folder has one run folder for every cell, each an ordinary run; robustness.json and
    robustness.html say what they show together. After an interruption, --out FOLDER --resume
    with the same options goes on.
    """
    from calvin_eval.console.display import make_display
    from calvin_eval.console.terminal import Terminal
    from calvin_eval.running.robustness import run_suite

    plan = _plan(flags, overrides)
    done = run_suite(plan, make_display(sys.stderr, quiet=quiet))
    print_suite(done.suite, Terminal(file=sys.stdout))
    say(f"Files: {done.folder}")
    if done.interrupted:
        say(
            f"interrupted; complete it by the same options and --out {done.folder} --resume",
            err=True,
        )
    ctx.exit(done.exit_code)


def _plan(flags: dict[str, Any], overrides: tuple[str, ...]) -> SuitePlan:
    """What is asked for."""
    from calvin_eval.config.compose import compose_config
    from calvin_eval.config.schema import SHORTHANDS, policy_name
    from calvin_eval.errors import UsageError
    from calvin_eval.running.robustness import SuitePlan, choose_cells

    names = choose_cells(flags.pop("axes"), flags.pop("levels"))
    width, seed, preset = (flags.pop(name) for name in ("width", "shift_seed", "preset"))
    films = flags.pop("films") or 0
    if preset is not None:
        overrides = (f"policy={preset}", *overrides)
    keys = {**SHORTHANDS, "ckpt": "ckpt"}
    given = {keys[name]: value for name, value in flags.items() if value is not None}
    chosen = {*given, *(word.partition("=")[0] for word in overrides)}
    if not chosen & {"protocol.num_chains", "protocol.select", "protocol.chains"}:
        given["protocol.num_chains"] = CHAINS
    config = compose_config(overrides, given)
    refused = {"protocol.shift": config.protocol.shift, "gate": config.gate, "shard": config.shard}
    for key, value in refused.items():
        if value is not None:
            raise UsageError(f"expected {key} to be left out of a robustness suite, found {value}")
    if config.out is None:
        from dataclasses import replace

        moment = datetime.now().strftime("%Y%m%d-%H%M%S")
        name = f"robustness-{policy_name(config.ckpt)}-{config.split}-{moment}"
        config = replace(config, out=str(Path("runs") / name))
    return SuitePlan(config=config, names=names, width=width, seed=seed, films=films)


def print_suite(suite: Suite, console: Console) -> None:
    """The table axis by level, and what the probes say."""
    from rich.text import Text

    span, mean = suite.clean.interval(), suite.clean.mean
    shown = "none completed" if mean is None else f"{mean:.3f}"
    console.print()
    console.print(Text(suite.policy, style="bold"))
    console.print(
        f"Clean: average length {shown} (95 %: {span.low:.3f} to {span.high:.3f}) of "
        f"{suite.clean.completed} of {suite.planned} chains"
    )
    rows = table("axis", "level", "chains", "average length", "95 %", "less clean", "95 %", "p")
    for cell in suite.cells:
        rows.add_row(*_row(cell))
    console.print()
    console.print(rows)
    if any(cell.stopped for cell in suite.cells):
        console.print(
            "* stopped when its interval was narrow enough; the interval holds at every moment"
        )
    if suite.missing:
        console.print(Text(f"Not run: {', '.join(map(str, suite.missing))}", style=BAD))
    if suite.honesty is not None:
        console.print()
        console.print(Text(suite.honesty.sentence, style="bold"))


def _row(cell: Cell) -> tuple[Any, ...]:
    from rich.text import Text

    span, mean, d = cell.lengths.interval(), cell.lengths.mean, cell.difference
    style = "" if d is None else GOOD if d.low > 0 else BAD if d.high < 0 else ""
    chains = f"{cell.lengths.completed}/{cell.planned}{'*' if cell.stopped else ''}"
    return (
        cell.name.axis,
        str(cell.name.level),
        chains,
        "" if mean is None else f"{mean:.3f}",
        f"{span.low:.2f} to {span.high:.2f}",
        "" if d is None else Text(f"{d.estimate:+.3f}", style=style),
        "" if d is None else f"{d.low:+.2f} to {d.high:+.2f}",
        "" if cell.p is None else p_text(cell.p),
    )
