"""Options that several commands share, so that one word means one thing everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click


class Option(click.Option):
    """An option whose help shows its default without brackets of its own, and no older spelling.

    Args:
        old: an older spelling, which still works.
    """

    def __init__(self, *args: Any, old: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shown = list(self.opts)
        if old is not None:
            self.opts.append(old)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help, as click writes them."""
        every, self.opts = self.opts, self._shown
        try:
            record = super().get_help_record(ctx)
        finally:
            self.opts = every
        if record is None:
            return None
        if isinstance(self.show_default, str):  # click puts it in brackets
            described = f"default: ({self.show_default})"
            return record[0], record[1].replace(described, described[:9] + self.show_default)
        return record


option = partial(click.option, cls=Option)
"""Declares an option: `click.option`, for `Option`."""

json_option = option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
"""The option `--json` of a command that shows something."""


def _as_keys(context: Any, option: Any, given: tuple[str, ...]) -> dict[str, str]:
    """`NAME=FEATURE` as a mapping."""
    keys = {}
    for text in given:
        name, sign, feature = text.partition("=")
        if not name or not sign or not feature:
            raise click.BadParameter(f"expected NAME=FEATURE, found {text!r}")
        keys[name] = feature
    return keys


keys_option = option(
    "--key", "keys", metavar="NAME=FEATURE", multiple=True, callback=_as_keys, show_default=False,
    help="Of LeRobot's format: the feature that holds an array, rgb_static=observation.image.",
)  # fmt: skip
"""The option `--key` of a command that reads data sets."""


def out_option(metavar: str, text: str, **settings: Any) -> Callable[[Any], Any]:
    """The option `-o`, `--out` of a command that writes.

    Args:
        metavar: what is written, such as "FILE".
        text: the help.
        settings: of `Option`.
    """
    kind = click.Path(path_type=Path, allow_dash=True)
    return option("-o", "--out", metavar=metavar, type=kind, help=text, **settings)
