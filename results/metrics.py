"""CALVIN's metrics as pure functions of the records.

Only completed chains count. A chain that ended by an error says nothing about the policy: it
is counted under `errors` and nowhere else. While planned chains are missing or broken the
headline (success rates and average length) is withheld; what the completed chains say is there
under names that begin with `partial_`.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from calvin_eval.results.intervals import Interval, wilson
from calvin_eval.results.means import mean_interval
from calvin_eval.results.schema import ChainRecord


@dataclass(frozen=True, kw_only=True)
class Count:
    """Successes among attempts."""

    success: int
    total: int

    @property
    def rate(self) -> float | None:
        """Share of successes, 0..1; None without attempts."""
        return self.success / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's 95 % interval of the share; None without attempts."""
        return wilson(self.success, self.total) if self.total else None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run says, and how much of the run there is to say it.

    Attributes:
        planned: chains the run was meant to have.
        completed: chains that ended by success or failure.
        errors: chains that ended by an error.
        missing: planned chains without a record.
        complete: whether every planned chain (at least one) is completed.
        success_rates: per i = 1.. the share of chains with at least i tasks done in a row,
            among those that have i tasks; None while the run is not complete.
        success_rate_intervals: their 95 % Wilson intervals; None likewise.
        average_length: mean number of tasks done in a row; None likewise.
        average_length_interval: its 95 % interval over chains, by `means`; None likewise.
        partial_success_rates: the same over the completed chains of any run; None without any.
        partial_success_rate_intervals: likewise.
        partial_average_length: likewise.
        partial_average_length_interval: likewise.
        per_task: per task name, sorted; the failed task counts as attempted, later ones do not.
        per_position: per place in the chain 1.., attempts being the chains that got there.
    """

    planned: int
    completed: int
    errors: int
    missing: int
    complete: bool
    success_rates: Mapping[int, float] | None
    success_rate_intervals: Mapping[int, Interval] | None
    average_length: float | None
    average_length_interval: Interval | None
    partial_success_rates: Mapping[int, float] | None
    partial_success_rate_intervals: Mapping[int, Interval] | None
    partial_average_length: float | None
    partial_average_length_interval: Interval | None
    per_task: Mapping[str, Count]
    per_position: Mapping[int, Count]

    def to_json(self) -> dict[str, Any]:
        """JSON values; positions become strings, since JSON has no other keys."""
        data: dict[str, Any] = asdict(self)
        for name, value in data.items():
            if isinstance(value, dict):
                data[name] = {str(key): inner for key, inner in value.items()}
        return data


def summarize(records: Sequence[ChainRecord], planned: int) -> Summary:
    """All metrics of a run; the same for the same records in any order.

    Args:
        records: at most one per chain.
        planned: number of chains the run was meant to have.

    Raises:
        ValueError: a chain occurs twice, or there are more chains than planned.
    """
    _check(records, planned)
    done = completed_chains(records)
    complete = planned > 0 and len(done) == planned
    counts = chain_counts(done)
    lengths = [record.length for record in done]
    rates = {i: count.success / count.total for i, count in counts.items()} or None
    intervals = {i: wilson(count.success, count.total) for i, count in counts.items()} or None
    mean = sum(lengths) / len(lengths) if lengths else None
    spread = mean_interval(lengths, (0, _longest(done))) if lengths else None
    return Summary(
        planned=planned,
        completed=len(done),
        errors=len(records) - len(done),
        missing=planned - len(records),
        complete=complete,
        success_rates=rates if complete else None,
        success_rate_intervals=intervals if complete else None,
        average_length=mean if complete else None,
        average_length_interval=spread if complete else None,
        partial_success_rates=rates,
        partial_success_rate_intervals=intervals,
        partial_average_length=mean,
        partial_average_length_interval=spread,
        per_task=task_counts(done),
        per_position=position_counts(done),
    )


def completed_chains(records: Sequence[ChainRecord]) -> list[ChainRecord]:
    """The records that count."""
    return [record for record in records if record.status == "completed"]


def chain_counts(records: Sequence[ChainRecord]) -> dict[int, Count]:
    """Per i = 1..: completed chains with at least i tasks done, among those with i tasks."""
    chains = completed_chains(records)
    return {
        i: Count(
            success=sum(chain.length >= i for chain in chains),
            total=sum(len(chain.tasks) >= i for chain in chains),
        )
        for i in range(1, _longest(chains) + 1)
    }


def position_counts(records: Sequence[ChainRecord]) -> dict[int, Count]:
    """Per place in the chain 1..: successes among the completed chains that got there."""
    chains = completed_chains(records)
    return {
        i: Count(
            success=sum(chain.length >= i for chain in chains),
            total=sum(len(chain.subtasks) >= i for chain in chains),
        )
        for i in range(1, _longest(chains) + 1)
    }


def task_counts(records: Sequence[ChainRecord]) -> dict[str, Count]:
    """Per task name, sorted: successes among attempts in completed chains."""
    subtasks = [subtask for chain in completed_chains(records) for subtask in chain.subtasks]
    total = Counter(subtask.task for subtask in subtasks)
    success = Counter(subtask.task for subtask in subtasks if subtask.success)
    return {task: Count(success=success[task], total=total[task]) for task in sorted(total)}


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Environment steps of the successful attempts at a task.

    Attributes:
        count: number of these attempts, at least 1.
        median: of their steps.
        mean: of their steps.
        mean_interval: its 95 % bootstrap interval.
    """

    count: int
    median: float
    mean: float
    mean_interval: Interval


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean and its 95 % bootstrap interval."""

    value: float
    interval: Interval


def steps_to_success(
    records: Sequence[ChainRecord], *, seed: int = 0, resamples: int = 2000
) -> dict[str, Steps]:
    """Per task name, sorted, of tasks that were done at least once in completed chains."""
    steps: dict[str, list[int]] = defaultdict(list)
    for chain in completed_chains(records):
        for subtask in chain.subtasks:
            if subtask.success:
                steps[subtask.task].append(subtask.steps)
    found = {}
    for task, values in sorted(steps.items()):
        rng = np.random.default_rng([seed, zlib.crc32(task.encode())])  # whatever else ran
        mean = _bootstrap_ratio([(value, 1) for value in values], rng, resamples)
        found[task] = Steps(
            count=len(values),
            median=float(np.median(values)),
            mean=mean.value,
            mean_interval=mean.interval,
        )
    return found


def failure_positions(records: Sequence[ChainRecord]) -> dict[int, int]:
    """Per place in the chain 1..: completed chains that failed there."""
    chains = completed_chains(records)
    failed = Counter(c.length + 1 for c in chains if c.length < len(c.tasks))
    return {i: failed[i] for i in range(1, _longest(chains) + 1)}


def transition_counts(records: Sequence[ChainRecord]) -> dict[tuple[str | None, str], Count]:
    """Per task done and task asked for next, in completed chains: successes among attempts.

    The first task of a chain comes after None.
    """
    total: Counter[tuple[str | None, str]] = Counter()
    success: Counter[tuple[str | None, str]] = Counter()
    for chain in completed_chains(records):
        before: str | None = None
        for subtask in chain.subtasks:
            total[before, subtask.task] += 1
            success[before, subtask.task] += subtask.success
            before = subtask.task
    ordered = sorted(total, key=lambda pair: (pair[0] or "", pair[1]))
    return {pair: Count(success=success[pair], total=total[pair]) for pair in ordered}


def seconds_per_step(
    records: Sequence[ChainRecord], *, seed: int = 0, resamples: int = 2000
) -> Mean | None:
    """Wall time of the completed chains over their environment steps; None without any step.

    The interval is that of the machine in that hour: nothing else in a record depends on it.
    """
    pairs = [(c.seconds, sum(s.steps for s in c.subtasks)) for c in completed_chains(records)]
    pairs = [(seconds, steps) for seconds, steps in pairs if steps]
    return _bootstrap_ratio(pairs, np.random.default_rng(seed), resamples) if pairs else None


def _bootstrap_ratio(
    pairs: Sequence[tuple[float, int]], rng: np.random.Generator, resamples: int
) -> Mean:
    """Sum over sum, and its percentile bootstrap, resampling pairs; their order is no matter."""
    values = np.array(sorted(pairs), dtype=np.float64)
    draws = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=resamples)
    above, below = (draws @ values).T
    low, high = np.quantile(above / below, (0.025, 0.975))
    total = values.sum(axis=0)
    return Mean(
        value=float(total[0] / total[1]), interval=Interval(low=float(low), high=float(high))
    )


def _longest(chains: Sequence[ChainRecord]) -> int:
    return max((len(chain.tasks) for chain in chains), default=0)


def _check(records: Sequence[ChainRecord], planned: int) -> None:
    twice = [chain for chain, n in Counter(r.chain for r in records).items() if n > 1]
    if twice:
        raise ValueError(f"expected each chain once, found {sorted(twice)} more than once")
    if len(records) > planned:
        raise ValueError(f"expected at most {planned} planned chains, found {len(records)}")
