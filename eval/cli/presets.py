"""`calvin-eval presets`: how published policies were evaluated."""

from __future__ import annotations

import json

import click

from calvin_eval.cli.options import json_option
from calvin_eval.console.saying import say


@click.command("presets", short_help="List the presets for --policy.")
@json_option
def presets(as_json: bool) -> None:
    """List the presets for --policy: protocol, stages and source of published variants."""
    from dataclasses import asdict

    from calvin_eval.config.presets import read_presets

    found = read_presets()
    if as_json:
        say(json.dumps([asdict(preset) for preset in found], indent=2))
        return
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("name", "steps", "executes", "actions", "source"):
        table.add_column(title, overflow="fold", no_wrap=title != "source")
    for preset in found:
        executed = "all" if preset.execute is None else str(preset.execute)
        repository = preset.source.partition(",")[0]
        steps = preset.steps.replace("env_steps", "steps")
        table.add_row(preset.name, steps, executed, preset.commands, repository)
    from calvin_eval.console.terminal import Terminal

    console = Terminal()
    console.print(table)
    console.print("calvin-eval --policy NAME --print-config shows all that a preset sets.")
