"""`calvin-eval train`: a policy from demonstrations."""

from __future__ import annotations

import sys

import click

from calvin_eval.cli.options import option
from calvin_eval.console.saying import say


@click.command(short_help="Train a vision-language-action policy.")
@option("--quiet", is_flag=True, help="No progress, only the result.")
@option("--print-config", is_flag=True, help="Show the resolved configuration and stop.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.pass_context
def train(
    ctx: click.Context, /, overrides: tuple[str, ...], quiet: bool, print_config: bool
) -> None:
    """Train a vision-language-action policy on data in CALVIN's format.

    \b
      calvin-eval train data=PATH out=DIR                  a tiny model, from nothing
      calvin-eval train data=PATH out=DIR model=paligemma  a pretrained one
      calvin-eval train out=DIR resume=true                go on after Ctrl-C
      calvin-eval --ckpt DIR --split D                     evaluate the result
      calvin-eval train audit PATH...                      what project files train, as a table

    model is tiny, kosmos, llava, paligemma, qwen, smolvlm, or a project file of RoboVLMs,
    PATH.json. The keys are RoboVLMs', such as learning_rate=1e-4 train_setup.lora_enable=true;
    --print-config lists them all, and docs/train.md says what they mean.
    """  # noqa: D301  # click reads \b
    if overrides[:1] == ("audit",):
        _audit(overrides[1:])
        return

    from calvin_eval.config.training import compose_training

    config = compose_training(overrides)
    if print_config:
        import yaml

        say(yaml.safe_dump(config.project, sort_keys=False), nl=False)
        for key, reason in config.idle.items():
            say(f"# has no effect (as in the original): {key}: {reason}")
        return

    from calvin_eval.running.training import print_training, run_training

    try:
        outcome = run_training(config, quiet=quiet)
    except KeyboardInterrupt:
        say(f"interrupted; nothing new was saved in {config.out}", err=True)
        ctx.exit(130)
    if outcome.main:
        from calvin_eval.console.terminal import Terminal

        print_training(outcome, Terminal(file=sys.stdout))
    ctx.exit(130 if outcome.interrupted else 0)


def _audit(paths: tuple[str, ...]) -> None:
    """Print what configurations train.

    Raises:
        UsageError: no configuration there.
    """
    from calvin_eval.console.terminal import Terminal
    from calvin_eval.errors import UsageError
    from calvin_eval.running.audit import audit, find_configs, print_audits

    if not paths:
        raise UsageError("expected calvin-eval train audit PATH...: files or folders; found none")
    # A table in a file or a pipe is as wide as it is.
    width = None if sys.stdout.isatty() else max(200, Terminal().width)
    print_audits([audit(path) for path in find_configs(paths)], Terminal(width=width))
