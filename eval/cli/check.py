"""`calvin-eval check`: are the conventions between network and simulator right?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval import __version__
from calvin_eval.cli.options import json_option, keys_option, option
from calvin_eval.cli.settings import setting_options
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from calvin_eval.running.checking import Checked

EXIT_FINE, EXIT_FOUND = 0, 1
SCHEMA = 1
CHAINS, DEMONSTRATIONS = 3, 20

_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


@click.command(short_help="Catch a wrong scale, frame or gripper before a long run.")
@option("--ckpt", metavar="POLICY", required=True, help="As for a run.")
@option(
    "--demos", metavar="PATH", type=click.Path(path_type=Path),
    help="A data set in CALVIN's or LeRobot's format, or a recording (.npz).",
)  # fmt: skip
@option(
    "--num-demos", type=click.IntRange(1), default=DEMONSTRATIONS, metavar="N",
    help="Subtasks of it to look at.",
)  # fmt: skip
@option(
    "--num-chains", type=click.IntRange(1), metavar="N",
    help="Without --demos: chains to let the policy act on.",
    show_default=str(CHAINS),
)  # fmt: skip
@option("--chains", metavar="IDS", help="Without --demos: only these chains.")
@setting_options("policy", "split", "assets", "render", "seed", "trust")
@keys_option
@json_option
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_context
def check(
    ctx: click.Context,
    /,
    demos: Path | None,
    as_json: bool,
    overrides: tuple[str, ...],
    **flags: Any,
) -> None:
    """Catch a wrong scale, frame, rotation or gripper before a long run.

    With --demos, the policy is shown demonstrations and its actions are compared with theirs.
    Without, it acts on a few chains, and only the statistics of its actions are looked at. Exits
    with 1 if anything is found that would make scores meaningless.
    """
    from calvin_eval.config.compose import compose_config
    from calvin_eval.running.checking import Demos, check_on_chains, check_on_demonstrations

    count, preset, keys = (flags.pop(name) for name in ("num_demos", "preset", "keys"))
    if preset is not None:
        overrides = (f"policy={preset}", *overrides)
    config = compose_config(overrides, _settings(flags))
    if demos is None:
        result = check_on_chains(config, _note)
    else:
        result = check_on_demonstrations(config, Demos(demos, count, keys), _note)
    if as_json:
        content = {"schema": SCHEMA, "calvin_eval": __version__, **result.as_dict()}
        say(json.dumps(content, indent=2))
    else:
        print_checked(result)
    ctx.exit(EXIT_FINE if result.passed else EXIT_FOUND)


def _settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration keys that flags stand for; a few chains where no number is given."""
    from calvin_eval.config.schema import SHORTHANDS

    keys = {**SHORTHANDS, "ckpt": "ckpt"}
    settings = {keys[name]: value for name, value in flags.items() if value is not None}
    if flags["num_chains"] is None and flags["chains"] is None:
        settings["protocol.num_chains"] = CHAINS
    return settings


def print_checked(result: Checked) -> None:
    """A line for what was looked at, one per finding, and one for what would fix it."""
    say(f"checked {result.actions} actions: {result.source}")
    for finding in result.findings:
        say(finding.severity, nl=False, fg=_COLOURS[finding.severity], bold=True)
        say(f": {finding.sentence}")
        if finding.remedy:
            say(f"  -> {finding.remedy}")
    if not result.findings:
        say("nothing suspicious", fg="green", bold=True)


def _note(text: str) -> None:
    say(text, err=True)
