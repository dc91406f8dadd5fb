"""`calvin-eval card`: what is published beside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import click

from calvin_eval.console.saying import say

NAME = "card.json"


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True),
    help="Where to; - for stdout.  [RUN/card.json]",
)  # fmt: skip
def card(run: Path, output: Path | None) -> None:
    """Write a card of a complete run: score, protocol, and its first 50 chains in detail.

    Whoever gets the checkpoint with its card runs `calvin-eval --ckpt … --expect card.json`, and
    is told within minutes whether their machine gives the same.
    """
    from calvin_eval.errors import UsageError
    from calvin_eval.results.card import make_card

    text = json.dumps(make_card(run).to_json(), indent=2, ensure_ascii=False) + "\n"
    if output == Path("-"):
        say(text, nl=False)
        return
    path = output or run / NAME
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name another file") from error
    say(f"Card: {path}")
