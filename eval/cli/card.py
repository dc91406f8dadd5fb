"""`calvin-eval card`: what is published beside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import click

from calvin_eval.cli.options import out_option
from calvin_eval.console.saying import say

NAME = "card.json"


@click.command(short_help="Write what is published beside a checkpoint.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@out_option("FILE", "The card; - for stdout.", show_default=f"RUN/{NAME}", old="--output")
def card(run: Path, out: Path | None) -> None:
    """Write a card of a complete run: score, protocol, and its first 50 chains in detail.

    Whoever gets the checkpoint with its card runs `calvin-eval --ckpt … --expect card.json`, and
    learns within minutes whether their machine gives the same.
    """
    from calvin_eval.errors import UsageError
    from calvin_eval.results.card import make_card

    text = json.dumps(make_card(run).to_json(), indent=2, ensure_ascii=False) + "\n"
    if out == Path("-"):
        say(text, nl=False)
        return
    path = out or run / NAME
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name another file") from error
    say(f"Card: {path}")
