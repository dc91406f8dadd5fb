"""`calvin-eval diagnose`: why a run's failures failed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.options import json_option, option
from calvin_eval.cli.verify import progress
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from calvin_eval.results.diagnosis import Diagnosis

EXIT_UNDIAGNOSED = 3


@click.command(short_help="Find why a run's failures failed.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@option("--assets", metavar="PACK", help="Where the run's asset pack is.")
@option("--chain-list", metavar="FILE", help="The run's own chain list.")
@option("--workers", type=click.IntRange(0), metavar="N", show_default="one per core",
        help="Processes.")  # fmt: skip
@option("--no-expert", "alone", is_flag=True,
        help="Do not let the expert try from where failures began and ended.")  # fmt: skip
@option("--frames", is_flag=True, help="Show every failure in pictures on the page.")
@option("--videos", type=click.IntRange(1), metavar="N", help="Film N failures beside the expert, "
        "the most typical first.")  # fmt: skip
@json_option
@click.pass_context
def diagnose(ctx: click.Context, /, run: Path, as_json: bool, **options: Any) -> None:
    """Find why the failed subtasks of RUN, a run folder or a bundle, failed.

    Simulates every chain again from its actions: no policy is needed. A run folder gets the result
    as diagnosis.json and diagnosis.html; a bundle stays as it is. Exits with 3 if chains could not
    be looked at.
    """
    from calvin_eval.rollouts.verify.inputs import Sources
    from calvin_eval.running.diagnosing import Wanted, diagnose_path

    sources = Sources(assets=options["assets"], chains=options["chain_list"])
    wanted = Wanted(
        expert=not options["alone"], frames=options["frames"], videos=options["videos"] or 0
    )
    found = diagnose_path(
        run, sources, bar=progress, workers=options["workers"], wanted=wanted,
        note=lambda text: say(text, err=True),
    )  # fmt: skip
    if as_json:
        say(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        show_diagnosis(found, run)
    if found.undiagnosed:
        ctx.exit(EXIT_UNDIAGNOSED)


def show_diagnosis(found: Diagnosis, run: Path) -> None:
    """Print the tables, and where the page of a run folder is."""
    from calvin_eval.console.diagnosis import print_diagnosis
    from calvin_eval.console.terminal import Terminal
    from calvin_eval.results.report.diagnosis import DIAGNOSIS_HTML

    print_diagnosis(found, Terminal(file=sys.stdout, highlight=False))
    if run.is_dir():
        say(f"Page: {run / DIAGNOSIS_HTML}")
