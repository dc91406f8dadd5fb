"""The command line as a whole: groups of the help, shared options, defaults that are shown."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from command_line import runner

from calvin_eval.cli import main
from calvin_eval.cli.main import cli, run_command
from calvin_eval.cli.settings import NAMES
from calvin_eval.config.compose import compose_config
from calvin_eval.config.schema import SHORTHANDS


def commands(group: click.Group = cli, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(commands())


def test_every_command_is_in_one_group_of_the_help() -> None:
    grouped = [name for names in main._GROUPS.values() for name in names.split()]
    assert sorted(grouped) == sorted(cli.commands)
    shown = runner().invoke(cli, ["--help"]).stdout
    lines = [line.strip() for line in shown.split("\nRun:\n")[1].splitlines()]
    for name in grouped:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        assert not line.endswith("..."), "give it a short_help"


def value(key: str) -> object:
    config = compose_config([], {"ckpt": "builtin:still"})
    if key == "sim.revision":  # a rule of the protocol
        return config.protocol.revision
    found: object = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "policy"])
def test_a_default_that_is_shown_is_the_configurations(name: str) -> None:
    (option,) = [o for o in run_command.params if o.name == name]
    assert isinstance(option, click.Option)
    default = value(SHORTHANDS[name])
    if isinstance(option.show_default, str) and name != "out":
        assert option.show_default == f"{default:g}" if isinstance(default, float) else str(default)
    else:
        assert default in (None, False)


@pytest.mark.parametrize("name", COMMANDS)
def test_one_word_means_one_thing(name: str) -> None:
    for option in COMMANDS[name].params:
        spellings = [*option.opts, *option.secondary_opts]
        if "--json" in spellings:
            assert isinstance(option, click.Option)
            assert option.is_flag
        assert ("--out" in spellings) == ("-o" in spellings)
        assert "--output" not in spellings or "--out" in spellings


def test_older_spellings_work_and_are_not_shown() -> None:
    shown = runner().invoke(cli, ["card", "--help"]).stdout
    assert "-o, --out FILE" in shown
    assert "--output" not in shown
    assert "--html" not in runner().invoke(cli, ["compare", "--help"]).stdout
    for arguments in (["card", "nowhere", "--output", "-"], ["card", "nowhere", "-o", "-"]):
        error = runner().invoke(cli, arguments).exception
        assert "nowhere" in str(error), "the option itself is understood"
