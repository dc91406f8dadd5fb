"""Every calvin-eval command in README and docs is one that the command line understands.

Options and their values are parsed by the commands themselves; a run's configuration, presets and
overrides included, is composed as the run would compose it. `test_docs_executed` runs those
that need nothing but this machine.
"""

from __future__ import annotations

import click
import pytest
from docs_commands import calls, words_of

from calvin_eval.cli.main import cli
from calvin_eval.config.compose import compose_configs
from calvin_eval.config.schema import SHORTHANDS

CALLS = sorted(set(calls()))


def context_of(words: list[str]) -> tuple[click.Command, click.Context]:
    """The command that is called, and its parsed arguments.

    Raises:
        click.UsageError: the command line would refuse them.
    """
    context = click.Context(cli, info_name="calvin-eval")
    command: click.Command = cli
    if words[0] not in cli.commands:
        words = ["run", *words]
    while isinstance(command, click.Group):
        _, found, words = command.resolve_command(context, words)
        assert found is not None
        command = found
    return command, command.make_context(command.name, list(words), parent=context)


def test_there_are_commands_on_most_pages() -> None:
    assert len(CALLS) > 90
    assert len({page for page, _ in CALLS}) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("page", "arguments"), CALLS)
def test_a_command_is_understood(page: str, arguments: str) -> None:
    command, context = context_of(words_of(arguments))
    if command.name != "run":
        return
    values = dict(context.params)
    overrides = [word for word in values.pop("overrides") if not word.startswith("policy.argum")]
    if (preset := values.pop("preset")) is not None and preset != "mine.yaml":
        overrides.insert(0, f"policy={preset}")
    given = {SHORTHANDS[name]: value for name, value in values.items()
             if name in SHORTHANDS and value is not None}  # fmt: skip
    assert values["ckpt"] or page == "presets.md"
    given["ckpt"] = "builtin:still" if "/" not in "".join(values["ckpt"]) else "x:Y"
    compose_configs(overrides, given, ())


def test_what_the_command_line_refuses_is_found() -> None:
    with pytest.raises(click.UsageError, match="No such option"):
        context_of(words_of("report runs/mine --partail"))
    with pytest.raises(click.UsageError, match="Missing"):
        context_of(words_of("bundle runs/mine"))
