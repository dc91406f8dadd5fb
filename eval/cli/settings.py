"""The options that stand for configuration keys: `config.schema.SHORTHANDS` names the key of each.

A default that is shown is the configuration's own, in `conf/`; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from calvin_eval.cli.options import option
from calvin_eval.protocol import OFFICIAL, REVISIONS
from calvin_eval.sim.drawing.options import BACKENDS

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def _number_or(word: str) -> Callable[[str], int | str]:
    """A reader of a whole number or a word, as the type of an option."""

    def number(value: str) -> int | str:
        found: int | str = value if value == word else click.INT(value)
        return found

    return number


def _flag(name: str, text: str) -> Callable[[CommandT], CommandT]:
    return option(f"--{name}", is_flag=True, default=None, help=text, show_default=False)


def _value(name: str, metavar: str, text: str, **more: Any) -> Callable[[CommandT], CommandT]:
    return option(f"--{name}", metavar=metavar, help=text, **more)


_BACKENDS = f"{', '.join(BACKENDS[:-1])} or {BACKENDS[-1]}."
_OPTIONS: dict[str, Callable[[Any], Any]] = {
    "policy": option(
        "--policy", "preset", metavar="PRESET",
        help="How a published policy is wrapped and run, or PATH.yaml; see presets.",
    ),
    "split": _value(
        "split", "SPLIT", "D, ABC_D, ABCD_D (all in scene D), A, B or C.", show_default="D"
    ),
    "num_chains": _value("num-chains", "N", "Only the first N chains of the list.", type=int),
    "chains": _value("chains", "IDS", "Only these chains, for example 3,17,40-49."),
    "assets": _value(
        "assets", "PACK", "builtin, official, or a checkout.", show_default="builtin"
    ),
    "realtime": _value(
        "realtime", "STEPS", "Simulate inference latency: a number of steps, or measured.",
        type=_number_or("measured"), is_flag=False, flag_value="measured",
    ),
    "shift": option(
        "--shift", metavar="AXIS=LEVEL", multiple=True, callback=lambda *given: given[-1] or None,
        help="Change the benchmark, such as start=3; see docs/shifts.md.",
    ),
    "render": _value("render", "BACKEND", _BACKENDS, show_default="auto"),
    "revision": _value(
        "revision", "NAME", f"{' or '.join(REVISIONS)}, of calvin_env.",
        show_default=OFFICIAL.revision,
    ),
    "out": option(
        "-o", "--out", metavar="FOLDER", help="Run folder.",
        show_default="runs/POLICY-SPLIT-TIME",
    ),
    "seed": _value("seed", "N", "Policy seed.", type=int, show_default="0"),
    "overwrite": _flag("overwrite", "Move an older run of that name aside."),
    "resume": _flag("resume", "Complete the run that --out names."),
    "shard": _value("shard", "I/N", "Only every N-th chain from the I-th; see merge."),
    "workers": _value(
        "workers", "N", "Simulator processes.", type=_number_or("auto"), show_default="auto"
    ),
    "devices": _value("devices", "LIST", "cpu, or cuda:0,cuda:1: a policy process each."),
    "max_batch": _value(
        "max-batch", "N", "Requests in one call of the policy.", type=int, show_default="32"
    ),
    "batch_wait": _value(
        "batch-wait", "SECONDS", "Max wait for requests.", type=float, show_default="0.01"
    ),
    "retries": _value(
        "retries", "N", "Per chain, after a crash or hang.", type=int, show_default="2"
    ),
    "step_timeout": _value(
        "step-timeout", "SECONDS", "What counts as a hang.", type=float, show_default="600"
    ),
    "max_errors": _value("max-errors", "N", "Stop after so many error records.", type=int),
    "video": _value(
        "video", "WHICH", "all, failures, successes, none, or the first N.", show_default="none"
    ),
    "gate": _value("gate", "RULE", "Stop when decided, e.g. min-avg-len=3.5."),
    "baseline": _value("baseline", "RUN", "Baseline for the gate's max-drop."),
    "expect": _value("expect", "CARD", "Run a checkpoint card's chains first and compare."),
    "trust": _flag("trust", "Allow a checkpoint that can run code."),
    "confine": _flag("confine", "Keep its process from files and the network."),
}  # fmt: skip
NAMES = tuple(_OPTIONS)
"""Options that stand for a configuration key, in the order of the help; `policy` names a preset."""


def setting_options(*names: str) -> Callable[[CommandT], CommandT]:
    """The options of these names, in this order, for a command that composes a configuration."""

    def add(command: CommandT) -> CommandT:
        for name in reversed(names):
            command = _OPTIONS[name](command)
        return command

    return add
