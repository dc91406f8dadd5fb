"""Upstream's `results.json`, for the tools that read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from calvin_eval.errors import RunFolderError
from calvin_eval.protocol import BENCHMARK
from calvin_eval.results.metrics import completed_chains, task_counts
from calvin_eval.results.schema import ChainRecord


def upstream_results(records: Sequence[ChainRecord], epoch: str = "null") -> dict[str, Any]:
    """The metrics in exactly the shape of upstream's results file.

    Only completed chains count. Success rates are those of 1 to 5 tasks in a row, whatever the
    chains are. The file has no place for how complete a run is, so a caller writes none of an
    incomplete run.

    Args:
        records: the chains of one run.
        epoch: the key upstream files a checkpoint's results under; `null` if it has none.

    Raises:
        RunFolderError: no chain is completed, so there is no average.
    """
    chains = completed_chains(records)
    if not chains:
        raise RunFolderError(
            "expected at least one completed chain for upstream's results file, found none. "
            "Resume the run to complete it."
        )
    lengths = [chain.length for chain in chains]
    return {
        epoch: {
            "avg_seq_len": sum(lengths) / len(lengths),
            "chain_sr": {
                str(i): sum(length >= i for length in lengths) / len(lengths)
                for i in range(1, BENCHMARK.chain_length + 1)
            },
            "task_info": {
                task: {"success": count.success, "total": count.total}
                for task, count in task_counts(chains).items()
            },
        }
    }
