"""`calvin-eval gate`: pass, fail or undecided, for build services."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.options import option
from calvin_eval.console.saying import say
from calvin_eval.foreign.text import printable

if TYPE_CHECKING:
    from calvin_eval.results.gate_spec import Decision, Undecided

SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
"""Names a file whose Markdown the build service shows."""


@click.command(short_help="Hold a run against conditions: pass, fail or undecided.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@option("--min-avg-len", type=float, metavar="X", help="Minimum average length.")
@option("--max-drop", type=float, metavar="X", help="Maximum allowed drop from the baseline.")
@option(
    "--min-task", multiple=True, metavar="TASK=RATE", help="Minimum success rate; repeat.",
)  # fmt: skip
@option(
    "--max-cause", multiple=True, metavar="CAUSE=SHARE",
    help="Maximum share of chains that fail by a cause, after calvin-eval diagnose; repeat.",
)  # fmt: skip
@option(
    "--min-robustness", multiple=True, metavar="AXIS=X",
    help="Of a robustness suite: minimum average length at every level; repeat.",
)  # fmt: skip
@option(
    "--baseline", metavar="RUN|CARD", type=click.Path(path_type=Path),
    help="A run folder, paired where the chains are the same, or a checkpoint card.",
)  # fmt: skip
@option("--confidence", type=float, default=0.95, metavar="P")
@option(
    "--undecided", type=click.Choice(["pass", "fail", "code"]), default="code",
    help="What an undecided gate counts as; code is exit code 4.",
)  # fmt: skip
@option(
    "--junit", metavar="FILE", type=click.Path(path_type=Path), show_default="RUN/junit.xml",
    help="Where the JUnit file goes.",
)  # fmt: skip
@option("--force", is_flag=True, help="Allow a baseline of another protocol; it will say so.")
@click.pass_context
def gate(ctx: click.Context, /, run: Path, **options: Any) -> None:
    """Hold a run against conditions: exit code 0 pass, 1 fail, 4 undecided.

    A condition is decided only if the whole confidence interval lies on one side of it. Writes
    junit.xml, prints Markdown, and appends that to the job summary of GitHub Actions.
    """
    from calvin_eval.errors import UsageError
    from calvin_eval.results.gate import decide_run, read_baseline
    from calvin_eval.results.gate_spec import GateSpec, parse_causes, parse_tasks
    from calvin_eval.results.junit import write_junit

    if options["min_robustness"]:
        _gate_suite(ctx, run, options)
        return
    path = options["baseline"]
    if path is not None and options["max_drop"] is None:
        raise UsageError(
            "expected --max-drop beside --baseline, found none: nothing would be compared with it"
        )
    spec = GateSpec(
        min_avg_len=options["min_avg_len"],
        max_drop=options["max_drop"],
        min_task=parse_tasks(options["min_task"]),
        max_cause=parse_causes(options["max_cause"]),
        confidence=options["confidence"],
    )
    baseline = read_baseline(path) if path is not None else None
    decision = decide_run(run, spec, baseline, force=options["force"])
    undecided: Undecided = options["undecided"]
    write_junit(decision, run, options["junit"], undecided)
    show_decision(decision, run.resolve().name, undecided)
    ctx.exit(decision.exit_code(undecided))


def _gate_suite(ctx: click.Context, run: Path, options: dict[str, Any]) -> None:
    """Hold a robustness suite against its own kind of condition."""
    from calvin_eval.errors import UsageError
    from calvin_eval.results.junit import write_junit
    from calvin_eval.results.robustness.document import decide_suite, parse_axes

    of_a_run = ("min_avg_len", "max_drop", "min_task", "max_cause", "baseline")
    if any(options[name] not in (None, ()) for name in of_a_run):
        raise UsageError(
            "expected --min-robustness alone: it is of a suite, and other conditions are of a run. "
            "Name the suite's folder clean for those"
        )
    decision = decide_suite(run, parse_axes(options["min_robustness"]), options["confidence"])
    folder = run if run.is_dir() else run.parent
    undecided: Undecided = options["undecided"]
    write_junit(decision, folder, options["junit"], undecided)
    show_decision(decision, folder.resolve().name, undecided)
    ctx.exit(decision.exit_code(undecided))


def show_decision(decision: Decision, name: str, undecided: Undecided = "code") -> None:
    """Print a decision as Markdown, and append it to the job summary of a build service.

    Args:
        decision: the gate's.
        name: of the run.
        undecided: what an undecided gate counts as.

    Raises:
        UsageError: the job summary cannot be written.
    """
    from calvin_eval.results.junit import markdown

    text = printable(markdown(decision, name, undecided))
    say(text, nl=False)
    add_to_summary(text)


def add_to_summary(text: str) -> None:
    """Append Markdown to the job summary of a build service, where there is one.

    Raises:
        UsageError: it cannot be written.
    """
    from calvin_eval.results.junit import write_text

    if summary := os.environ.get(SUMMARY_VARIABLE):
        write_text(Path(summary), f"{text}\n", append=True)
