"""`calvin-eval merge`: the shards of a run, as one run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from calvin_eval.cli.options import option, out_option


@click.command(short_help="Put the shards of a run together.")
@click.argument(
    "runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path)
)  # fmt: skip
@out_option("FOLDER", "Run folder of the whole run.", required=True)
@option("--overwrite", is_flag=True, help="Move an older run of that name aside.")
@click.pass_context
def merge(ctx: click.Context, runs: tuple[Path, ...], out: Path, overwrite: bool) -> None:
    """Put the shards of a run together: the folders RUN... that were made with --shard i/n.

    All n shards must be there, finished, and of the same run: same configuration, assets, chains,
    instructions, policy, renderer and software. Otherwise nothing is written. The result is the
    run that would have been made without --shard.
    """
    from calvin_eval.console.display import print_run
    from calvin_eval.console.terminal import Terminal
    from calvin_eval.running.merging import merge_shards

    run = merge_shards(runs, out, overwrite=overwrite)
    print_run(run, Terminal(file=sys.stdout))
    ctx.exit(run.exit_code)
