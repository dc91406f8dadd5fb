"""The report of a run, for people: `report.html`, `report.md` and `tasks.csv`."""

from calvin_eval.results.report.build import (
    HTML,
    MARKDOWN,
    REPORTS,
    TASKS,
    render_report,
    write_reports,
)

__all__ = ["HTML", "MARKDOWN", "REPORTS", "TASKS", "render_report", "write_reports"]
