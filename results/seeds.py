"""Several seeds of one policy on the same chains: mean and spread of what they give."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calvin_eval.results.metrics import Summary


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How a number differs from seed to seed.

    Attributes:
        mean: of the seeds' numbers.
        deviation: their standard deviation, of a sample (n - 1); None of a single one.
        low: the lowest.
        high: the highest.
    """

    mean: float
    deviation: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one number or more."""
        return cls(
            mean=statistics.fmean(values),
            deviation=statistics.stdev(values) if len(values) > 1 else None,
            low=min(values),
            high=max(values),
        )


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """What the complete runs of a policy with different seeds give.

    The chains are the same in all of them, so this is the policy's own chance and nothing else:
    the intervals over chains stand in each run.

    Attributes:
        seeds: of the runs that count, ascending.
        left_out: of those that are not complete.
        average_length: of their average lengths; None if no run is complete.
        success_rates: of their rates, by the number of tasks in a row.
    """

    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    average_length: Spread | None
    success_rates: Mapping[int, Spread]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        rates = {str(i): asdict(spread) for i, spread in self.success_rates.items()}
        return {**asdict(self), "success_rates": rates}


def spread_of_seeds(summaries: Mapping[int, Summary | None]) -> SeedSpread:
    """Mean and spread over runs of one policy.

    Args:
        summaries: by seed; None for a run that failed.
    """
    done = {seed: s for seed, s in sorted(summaries.items()) if s is not None and s.complete}
    lengths = [s.average_length for s in done.values() if s.average_length is not None]
    rates = [s.success_rates for s in done.values() if s.success_rates is not None]
    return SeedSpread(
        seeds=tuple(done),
        left_out=tuple(sorted({*summaries} - {*done})),
        average_length=Spread.of(lengths) if lengths else None,
        success_rates={i: Spread.of([r[i] for r in rates]) for i in (rates[0] if rates else ())},
    )
