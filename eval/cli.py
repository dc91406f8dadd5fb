"""The `calvin-eval` command.

Imports of the simulator, of Hydra and of torch wait until a command needs them: `--help` has to
answer at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import click

from calvin_eval import __version__
from calvin_eval.cli_assets import assets
from calvin_eval.errors import CalvinEvalError

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130

_EXAMPLES = """\b
Examples:
  calvin-eval --ckpt builtin:random --split D --num-chains 20
  calvin-eval --ckpt policy.pt --split ABC_D --assets official --out runs/mine
  calvin-eval --ckpt my_policy.py:MyPolicy --split D --chains 3,17,40-49
  calvin-eval --ckpt builtin:still protocol.steps=60 --print-config
"""


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


@click.group(
    cls=_RunByDefault,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXAMPLES,
)
@click.version_option(__version__, prog_name="calvin-eval")
def cli() -> None:
    """Evaluate a robot policy on the CALVIN benchmark.

    Without a command, the options of a run are expected: chains of five instructions are rolled
    out in the bit-exact simulator and scored.
    """


# Flags are shorthands for configuration keys; what is not given is left to the configuration.
_FLAGS = {
    "ckpt": "ckpt",
    "split": "split",
    "num_chains": "protocol.num_chains",
    "chains": "protocol.select",
    "assets": "sim.assets",
    "render": "sim.render",
    "revision": "sim.revision",
    "out": "out",
    "seed": "seed",
    "overwrite": "overwrite",
    "trust": "policy.trust",
}


@cli.command("run")
@click.option("--ckpt", metavar="POLICY", help="A path, builtin:NAME, module:Class, file.py:Class.")
@click.option("--split", metavar="SPLIT", help="D, ABC_D, ABCD_D (all in scene D), A, B or C.  [D]")
@click.option("--num-chains", type=int, metavar="N", help="Only the first N chains of the list.")
@click.option("--chains", metavar="IDS", help="Only these chains, for example 3,17,40-49.")
@click.option("--assets", metavar="PACK", help="builtin, official, or a checkout.  [builtin]")
@click.option("--render", metavar="BACKEND", help="auto, egl, tiny or none.  [auto]")
@click.option("--revision", metavar="NAME", help="pinned or head, of calvin_env.  [pinned]")
@click.option("--out", metavar="FOLDER", help="Run folder.  [runs/POLICY-SPLIT-TIME]")
@click.option("--seed", type=int, metavar="N", help="Of the policy.  [0]")
@click.option(
    "--overwrite", is_flag=True, default=None, help="Move an older run of that name aside."
)
@click.option("--trust", is_flag=True, default=None, help="Allow a checkpoint that can run code.")
@click.option("--print-config", is_flag=True, help="Show the resolved configuration and stop.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_context
def run_command(
    ctx: click.Context, /, print_config: bool, overrides: tuple[str, ...], **flags: Any
) -> None:
    """Run chains and score them; any configuration key may be set as KEY=VALUE."""
    from calvin_eval.config import compose_config

    given = {_FLAGS[name]: value for name, value in flags.items() if value is not None}
    config = compose_config(overrides, given)
    if print_config:
        import yaml

        click.echo(yaml.safe_dump(config.as_dict(), sort_keys=False), nl=False)
        return
    from rich.console import Console

    from calvin_eval.display import make_display, print_run
    from calvin_eval.evaluate import run_evaluation

    run = run_evaluation(config, make_display(sys.stderr))
    print_run(run, Console(file=sys.stdout))
    ctx.exit(run.exit_code)


cli.add_command(assets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (see the README for their meanings)."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        code = cli.main(args=list(sys.argv[1:] if arguments is None else arguments),
                        prog_name="calvin-eval", standalone_mode=False)  # fmt: skip
    except CalvinEvalError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; finished chains are in the run folder", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
