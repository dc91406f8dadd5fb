"""Results that others published: shown apart, as reported, with what is not plausible in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from calvin_eval.checks import Bounds
from calvin_eval.errors import UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.protocol import OFFICIAL
from calvin_eval.results import typed

_SHIPPED: Final = Path(__file__).with_name("published.json")
_MOST_BYTES: Final = 4 * 2**20
_ROUNDING: Final = 0.0076
"""How far an average of two decimals may be from the sum of five rates of 0.1 %."""

_Count = Annotated[int, Bounds(least=0)]
_Share = Annotated[float, Bounds(least=0)]


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A row of a paper or a page.

    Attributes:
        name: of the method.
        split: what it was trained on.
        average_length: as printed.
        rates: for 1.. tasks in a row, percent; empty if unknown.
        paper: address; null if unknown.
        seen: address of the page that the numbers were read from.
        steps: budget for each task in the published evaluation code; null if unknown.
        spread: as printed after a plus-minus sign; null without.
        remarks: what is known of how it was evaluated.
    """

    name: str
    split: Literal["D", "ABC_D", "ABCD_D"]
    average_length: _Share
    rates: tuple[_Share, ...] = ()
    paper: str | None = None
    seen: str
    steps: _Count | None = None
    spread: _Share | None = None
    remarks: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know: what does not fit, departures, what is not known."""
        return (*self._implausible(), *self.remarks)

    def _implausible(self) -> Iterator[str]:
        total = sum(self.rates) / 100
        if self.rates and abs(self.average_length - total) > _ROUNDING + (self.spread or 0.0):
            yield f"The rates add to {total:.3f}, not to the average length."
        elif self.rates and abs(self.average_length - total) > _ROUNDING:
            yield f"The rates add to {total:.3f}, which is within the spread."
        if any(after > before for before, after in itertools.pairwise(self.rates)):
            yield "A rate is higher than the one before, which cannot be."
        if max((*self.rates, 0.0)) > 100 or self.average_length > 5:
            yield "A number is greater than it can be."
        if self.steps is not None and self.steps != OFFICIAL.steps:
            yield f"{self.steps} steps for each task, not {OFFICIAL.steps}."


@dataclass(frozen=True, kw_only=True)
class ReportedFile:
    """A file of such rows."""

    rows: tuple[Reported, ...]


def read_reported(path: Path | None = None) -> tuple[Reported, ...]:
    """The rows of a file, by split the highest average first.

    Args:
        path: of a JSON file `{"rows": [...]}`; None for the rows that are shipped.

    Raises:
        UsageError: there is none, or it is another.
    """
    place = path or _SHIPPED
    try:
        rows = typed.read(ReportedFile, parse_json(place.read_bytes(), most=_MOST_BYTES)).rows
    except OSError as error:
        raise UsageError(f"expected published results in {place}: {error.strerror}") from error
    except (DocumentError, typed.MismatchError) as error:
        raise UsageError(f"{place}: expected published results: {error}") from error
    for row in rows:
        for address in (row.paper, row.seen):
            if address is not None and urlsplit(address).scheme not in ("http", "https"):
                raise UsageError(f"{place}: expected a web address, found {address!r}")
    return tuple(sorted(rows, key=lambda row: (row.split, -row.average_length, row.name)))
