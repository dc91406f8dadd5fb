"""The `calvin-eval` command.

Imports of the simulator, of Hydra and of torch wait until a command needs them: `--help` has to
answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from calvin_eval import __version__
from calvin_eval.cli.assets import assets
from calvin_eval.cli.bundle import bundle, export
from calvin_eval.cli.card import card
from calvin_eval.cli.check import check
from calvin_eval.cli.compare import compare
from calvin_eval.cli.dataset import dataset
from calvin_eval.cli.diagnose import diagnose
from calvin_eval.cli.doctor import doctor
from calvin_eval.cli.ending import (
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    abandon_output,
    check_folder,
    close_output,
    open_streams,
    report_defect,
    shown,
    tell,
)
from calvin_eval.cli.gate import gate
from calvin_eval.cli.leaderboard import leaderboard
from calvin_eval.cli.merge import merge
from calvin_eval.cli.options import option
from calvin_eval.cli.presets import presets
from calvin_eval.cli.record import record
from calvin_eval.cli.report import report
from calvin_eval.cli.robustness import robustness
from calvin_eval.cli.serve import serve
from calvin_eval.cli.settings import NAMES, setting_options
from calvin_eval.cli.track import track
from calvin_eval.cli.train import train
from calvin_eval.cli.verify import verify
from calvin_eval.cli.video import video
from calvin_eval.console.saying import OutputGone, guard_logs, say
from calvin_eval.errors import CalvinEvalError, UsageError
from calvin_eval.rollouts.interrupts import ending_signals
from calvin_eval.running.launch import find_launch

_EXAMPLES = """\b
Examples:
  calvin-eval --ckpt builtin:random --split D --num-chains 20
  calvin-eval --ckpt policy.pt --split ABC_D --assets official --out runs/mine
  calvin-eval --ckpt my_policy.py:MyPolicy --split D --chains 3,17,40-49
  calvin-eval --ckpt builtin:still protocol.steps=60 --print-config
"""


_GROUPS = {
    "Run": "run robustness check serve merge",
    "Inspect": "report diagnose video verify",
    "Compare and gate": "compare gate card",
    "Share": "bundle export leaderboard track",
    "Data": "record dataset assets",
    "Train": "train",
    "System": "doctor presets",
}
"""Headings of the help, and the commands below them."""


class _RunByDefault(click.Group):
    """A group in which `calvin-eval --ckpt …` means `calvin-eval run --ckpt …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {*self.commands, "--help", "-h", "--version"}
        if args and args[0] not in known:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Options of a run"):
            options = [option.get_help_record(ctx) for option in run_command.get_params(ctx)]
            formatter.write_dl([option for option in options if option])
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, in the groups in which a user meets them."""
        width = formatter.width - 6 - max(map(len, self.commands))
        for title, names in _GROUPS.items():
            with formatter.section(title):
                commands = [(name, self.commands[name]) for name in names.split()]
                formatter.write_dl(
                    [(name, command.get_short_help_str(width)) for name, command in commands]
                )


@click.group(
    cls=_RunByDefault,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog=_EXAMPLES,
)
@click.version_option(__version__, prog_name="calvin-eval")
def cli() -> None:
    """Evaluate a robot policy on the CALVIN benchmark.

    Without a command, the options of a run are expected: chains of five instructions are rolled
    out in the bit-exact simulator and scored.
    """


@cli.command("run", short_help="Run chains and score them.")
@option(
    "--ckpt", metavar="POLICY", multiple=True,
    help="A path, builtin:NAME, module:Class, file.py:Class, ws://HOST:PORT. More than one, or a "
    "glob, runs each.",
)  # fmt: skip
@setting_options(*NAMES)
@option("--from-dataset", metavar="DIR", help="Single tasks from the states of a data set.")
@option("--seeds", metavar="LIST", help="A run for each, 0,1,2 or 0-4, with mean and spread.")
@option("--diagnose", "diagnosed", is_flag=True, help="Find why failures failed, at the end.")
@option("--quiet", is_flag=True, help="No progress, only the result.")
@option("--print-config", is_flag=True, help="Show the resolved configuration and stop.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    print_config: bool,
    quiet: bool,
    ckpt: tuple[str, ...],
    preset: str | None,
    overrides: tuple[str, ...],
    **flags: Any,
) -> None:
    """Run chains and score them; any configuration key may be set as KEY=VALUE."""
    from calvin_eval.config.compose import compose_configs
    from calvin_eval.config.schema import SHORTHANDS
    from calvin_eval.config.values import chains_of_dataset, seeds_of

    seeds, from_dataset = flags.pop("seeds"), flags.pop("from_dataset")
    diagnosed = flags.pop("diagnosed")
    given = {SHORTHANDS[name]: value for name, value in flags.items() if value is not None}
    if preset is not None:
        overrides = (f"policy={preset}", *overrides)
    chosen = {*given, *(word.partition("=")[0] for word in overrides)}
    if from_dataset is not None:
        given |= chains_of_dataset(from_dataset, chosen)
    launch = None if print_config or "shard" in chosen else find_launch(os.environ)
    if launch is not None and "out" not in chosen:
        given["out"] = launch.default_out
    if seeds is not None and "seed" in chosen:
        raise UsageError("expected --seed or --seeds, found both")
    configs = compose_configs(overrides, given, ckpt, seeds_of(seeds) if seeds is not None else ())
    if print_config:
        from calvin_eval.config.listing import render_configs

        say(render_configs(configs), nl=False)
        return
    from calvin_eval.cli.execute import execute

    ctx.exit(execute(configs, launch, quiet=quiet, diagnosed=diagnosed))


for command in (
    assets, bundle, card, check, compare, dataset, diagnose, doctor, export, gate, leaderboard,
    merge, presets, record, report, robustness, serve, track, train, verify, video,
):  # fmt: skip
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see docs/running.md for their meanings)."""
    open_streams()
    guard_logs()
    with ending_signals():
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
    return close_output() or code


def _run(arguments: list[str]) -> int:
    output = sys.stdout
    try:
        check_folder()
        code = cli.main(args=arguments, prog_name="calvin-eval", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except CalvinEvalError as error:
        tell(f"error: {error}")
        return error.exit_code
    except click.ClickException as error:
        tell(shown(error))
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        tell("interrupted; complete the run by --out FOLDER --resume")
        return EXIT_INTERRUPTED
    except OutputGone as gone:
        return abandon_output(gone.reason)
    except SystemExit:
        if sys.stdout is output:
            raise
        return abandon_output(None)  # click could not print the help, and has replaced it
    except Exception as error:
        return report_defect(error)


if __name__ == "__main__":
    sys.exit(main())
