"""A comparison as one HTML file that needs nothing beside it but the videos that it links."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, Template

from calvin_eval.results.compare import Comparison
from calvin_eval.results.compared import ComparedRun

TEMPLATE = "templates/compare.html.j2"


def comparison_html(
    comparison: Comparison, beside: str | os.PathLike[str], home: str | None = None
) -> str:
    """The page.

    Args:
        comparison: what is shown.
        beside: the folder that the page will be in; links to videos are relative to it.
        home: address of the page that it belongs to, if there is one.
    """

    def link(run: ComparedRun, video: str) -> str:
        return quote(Path(os.path.relpath(run.folder / video, beside)).as_posix())

    return _template().render(comparison=comparison, link=link, home=home)


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["signed"] = lambda number, digits=3: f"{number:+.{digits}f}"
    environment.filters["p"] = lambda p: "< 0.0001" if p < 1e-4 else f"{p:.4f}"
    text = files("calvin_eval.results").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(text)
