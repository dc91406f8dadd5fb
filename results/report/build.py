"""From a run folder to the files of its report."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from functools import cache
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from calvin_eval.errors import UsageError
from calvin_eval.foreign.text import csv_cell, printable
from calvin_eval.results.report.facts import part_label
from calvin_eval.results.report.gallery import MOST_CARDS
from calvin_eval.results.report.text import cell, code, counted, percent, soft, span
from calvin_eval.results.report.transitions import START
from calvin_eval.results.report.view import ReportView, make_view
from calvin_eval.results.store import RunFolder

HTML, MARKDOWN, TASKS = "report.html", "report.md", "tasks.csv"
REPORTS = (HTML, MARKDOWN, TASKS)
"""The files of a report, in the run folder."""

_TEMPLATES = Path(__file__).parent / "templates"
_COLUMNS = (
    "task", "success", "total", "rate", "rate_low", "rate_high", "steps_median", "steps_mean",
    "steps_mean_low", "steps_mean_high",
)  # fmt: skip


def write_reports(folder: RunFolder, *, partial: bool = False, judge: bool = False) -> ReportView:
    """Write `report.html`, `report.md` and `tasks.csv` into a run folder, each atomically.

    Args:
        folder: the run, finished or not.
        partial: show the headline of the completed chains, marked as partial, even while others
            are missing; no difference to a complete run.
        judge: compute the verdict again; without, it is the header's own.

    Returns:
        What the report says.

    Raises:
        RunFolderError: the folder is damaged, or the disk refuses.
    """
    view = make_view(folder, partial=partial, judge=judge)
    for name in REPORTS:
        folder.write_text(name, render_report(view, Path(name).suffix))
    return view


def render_report(view: ReportView, suffix: str, base: str = "") -> str:
    """The text of one file of a report.

    Args:
        view: what it says.
        suffix: `.html`, `.md` or `.csv`.
        base: where the run folder is, relative to the file: empty, or a path with slashes.

    Raises:
        UsageError: another suffix.
    """
    if suffix not in (".html", ".md", ".csv"):
        raise UsageError(
            f"expected a report to end in .html, .md or .csv, found {suffix or 'no ending'!r}; "
            "give --out a file name with one of these endings"
        )
    if suffix == ".csv":
        text = tasks_csv(view)
    else:
        text = _fill(f"report{suffix}.j2", view, f"{quote(base.rstrip('/'))}/" if base else "")
    # Half a surrogate pair, as in a path that is no UTF-8, cannot be written.
    return text.encode("utf-8", "replace").decode("utf-8")


def page_parts() -> dict[str, str]:
    """What a page of ours has in it: `style`, `script`, and `script_hash` for its own policy."""
    script = _source("report.js")
    return {
        "script": Markup(script),  # ours, and under its hash in the page's own security policy
        "script_hash": _csp_hash(script),
        "style": Markup(_source("style.css")),
    }


def template(name: str) -> Template:
    """One of the report's templates."""
    return _environment().get_template(name)


def _fill(name: str, view: ReportView, base: str) -> str:
    text = template(name).render(
        view=view,
        base=base,
        **page_parts(),
        most_cards=MOST_CARDS,
        start=START,
    )
    # A page shows what it is given; Markdown is also read on terminals.
    text = printable(text) if name.endswith(".md.j2") else text
    return text.strip("\n") + "\n"


def tasks_csv(view: ReportView) -> str:
    """The table of tasks, as `csv` reads it back; empty fields where there is no number."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in view.tasks:
        rate, steps = row.count.interval, row.steps
        numbers = [row.count.rate, *((rate.low, rate.high) if rate else (None, None))]
        if steps is not None:
            spread = steps.mean_interval
            numbers += [steps.median, steps.mean, spread.low, spread.high]
        else:
            numbers += [None] * 4
        cells = ["" if number is None else f"{number:.6g}" for number in numbers]
        writer.writerow([csv_cell(row.name), row.count.success, row.count.total, *cells])
    return out.getvalue()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        # Markdown has no escaping: there, foreign text goes through `code`.
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "cell": cell,
        "code": code,
        "counted": counted,
        "part_label": part_label,
        "percent": percent,
        "soft": soft,
        "span": span,
        "url": quote,
    }
    return environment


@cache
def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _csp_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
