"""The shards of a run, merged and judged as any run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calvin_eval.results.conclude import conclude
from calvin_eval.results.merge import merge_runs
from calvin_eval.results.provenance import provenance
from calvin_eval.results.report import write_reports
from calvin_eval.running.outcome import Run


def merge_shards(runs: Sequence[Path], out: Path, *, overwrite: bool = False) -> Run:
    """Make one run of its shards, with metrics, verdict and report.

    Args:
        runs: folders of all shards.
        out: the folder of the run.
        overwrite: move an older run of that name aside.

    Raises:
        UsageError, RunFolderError: see `merge_runs`.
    """
    folder = merge_runs(runs, out, provenance=provenance(), overwrite=overwrite)
    result = conclude(folder)
    write_reports(folder, judge=True)
    return Run(
        folder=folder.path,
        records=result.records,
        summary=result.summary,
        verdict=result.verdict,
        policy=folder.header().policy.description,
        advice=f"merged from {len(runs)} shards",
        interrupted=False,
    )
