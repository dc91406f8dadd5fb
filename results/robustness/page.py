"""A robustness suite as one HTML file that needs nothing beside it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from calvin_eval.errors import RunFolderError
from calvin_eval.files import write_atomic
from calvin_eval.foreign.text import printable
from calvin_eval.results.robustness.curves import BAR_ROW, BAR_WIDTH, curve, profile
from calvin_eval.results.robustness.looks import Looks, looks_of
from calvin_eval.results.robustness.suite import PAGE, Suite
from calvin_eval.shifts import AXES

_TEMPLATE = "templates/robustness.html.j2"
_STYLE = "report/templates/style.css"


def write_page(folder: Path, suite: Suite, looks: Looks | None = None) -> Path:
    """Write `robustness.html` into the suite's folder, and return its path.

    Raises:
        RunFolderError: it cannot be written.
    """
    path = folder / PAGE
    try:
        write_atomic(path, suite_html(suite, looks).encode())
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from error
    return path


def suite_html(suite: Suite, looks: Looks | None = None) -> str:
    """The page.

    Args:
        suite: that was run.
        looks: pictures and films of it, if there are any.
    """
    bars = profile(suite)
    looks = looks or Looks()
    return _template().render(
        suite=suite,
        policy=printable(suite.policy),
        axes=AXES,
        curves={axis.axis: curve(suite, axis) for axis in suite.axes},
        bars=bars,
        looks=looks_of(suite, looks),
        films=looks.films,
        bar_box=(BAR_WIDTH, BAR_ROW * len(bars) + 12),
        style=Markup(_resource(_STYLE)),
    )


def _resource(name: str) -> str:
    return files("calvin_eval.results").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["signed"] = lambda number, digits=2: f"{number:+.{digits}f}"
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    environment.filters["p"] = lambda p: "< 0.0001" if p < 1e-4 else f"{p:.4f}"
    return environment.from_string(_resource(_TEMPLATE))
