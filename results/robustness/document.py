"""`robustness.json` as it is read again, and a gate on it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from calvin_eval.checks import Bounds
from calvin_eval.errors import RunFolderError, UnknownNameError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.results import typed
from calvin_eval.results.gate_spec import TOP, Check, Decision
from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.robustness.stopping import Lengths
from calvin_eval.results.robustness.suite import FILE, SCHEMA
from calvin_eval.shifts import AXES

_Count = Annotated[int, Bounds(least=0)]
_MOST_CHAINS: Final = 100_000


@dataclass(frozen=True, kw_only=True)
class WrittenCell:
    """A cell of the file, as far as others go by it.

    Attributes:
        axis, level: its name.
        planned: chains that it was meant to have.
        lengths: how many completed chains had length 0, 1, ... 5.
        broken: of each chain that ended by an error, the least and the greatest length it may have.
        sequential: whether the number of chains was not fixed in advance.
    """

    axis: str
    level: Any
    planned: _Count
    lengths: tuple[_Count, ...]
    broken: tuple[tuple[_Count, _Count], ...]
    sequential: bool

    def __post_init__(self) -> None:
        """Raise UsageError for what no suite can have measured."""
        if self.axis not in AXES or self.level not in AXES[self.axis].levels:
            raise UsageError(f"expected an axis and its level, found {self.axis}={self.level}")
        fine = all(low <= high <= TOP for low, high in self.broken)
        chains = sum(self.lengths) + len(self.broken)
        if not fine or len(self.lengths) != TOP + 1 or chains > min(self.planned, _MOST_CHAINS):
            raise UsageError(
                f"{self.name}: expected up to {self.planned} chains of 0 to {TOP} tasks, "
                f"found {list(self.lengths)} and {list(self.broken)}"
            )

    @property
    def name(self) -> CellName:
        """Axis and level."""
        return CellName(axis=self.axis, level=self.level)

    @property
    def counted(self) -> Lengths:
        """The lengths, for intervals."""
        return Lengths(counts=self.lengths, broken=self.broken, sequential=self.sequential)


@dataclass(frozen=True, kw_only=True)
class Written:
    """The file, as far as others go by it.

    Attributes:
        schema: version of its form.
        protocol: of the clean run, see `protocol_facts`.
        stop_width: at which interval a cell stopped.
        cells: of the suite.
        missing: cells that were planned and have no chain.
    """

    schema: int
    protocol: Mapping[str, Any]
    stop_width: float
    cells: tuple[WrittenCell, ...]
    missing: tuple[str, ...]


def is_suite(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a suite's folder, or its file."""
    path = Path(path)
    return path.name == FILE if path.is_file() else (path / FILE).is_file()


def read_written(path: str | os.PathLike[str]) -> Written:
    """Read a suite's file, named itself or by its folder.

    Raises:
        RunFolderError: there is none, or one that this version cannot read.
    """
    path = Path(path)
    file = path if path.is_file() else path / FILE
    try:
        data = parse_json(file.read_bytes())
    except OSError as error:
        raise RunFolderError(
            f"expected a robustness suite with a file {FILE} at {path}: {error.strerror}"
        ) from error
    except DocumentError as error:
        raise RunFolderError(f"{file}: expected a robustness suite: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise RunFolderError(f"{file}: expected a suite of schema {SCHEMA}, found {found!r}")
    try:
        return typed.read(Written, data)
    except (typed.MismatchError, UsageError) as error:
        raise RunFolderError(f"{file}: damaged suite: {error}") from error


def parse_axes(texts: Sequence[str]) -> dict[str, float]:
    """Read `camera=2.0` and the like.

    Raises:
        UnknownNameError: no such axis.
        UsageError: anything else that cannot be read.
    """
    found: dict[str, float] = {}
    for text in texts:
        axis, _, value = text.partition("=")
        if axis not in AXES:
            raise UnknownNameError("axis of shifts", axis, [*AXES])
        try:
            least = float(value)
        except ValueError:
            least = -1.0
        if axis in found or not 0 < least <= TOP:
            raise UsageError(
                f"expected AXIS=LENGTH, each axis once, with a length above 0 and up to {TOP}; "
                f"found {text!r}"
            )
        found[axis] = least
    return found


def decide_suite(
    path: str | os.PathLike[str], least: Mapping[str, float], confidence: float
) -> Decision:
    """Hold a suite against least average lengths: each must be reached at every graded level.

    Args:
        path: of the suite.
        least: by axis.
        confidence: of all decisions together.

    Raises:
        RunFolderError: there is no suite that can be read.
        UsageError: the suite has no graded level of an axis, or the confidence is none.
    """
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence: expected a number from 0.5 and below 1, found {confidence}")
    written = read_written(path)
    wanted: list[tuple[str, float, Lengths]] = []
    for axis, threshold in least.items():
        cells = [c for c in written.cells if c.axis == axis and c.name.graded]
        absent = [name for name in written.missing if _is_graded(name, axis)]
        if not cells and not absent:
            raise UsageError(f"expected a suite with levels of {axis}, found none in {path}")
        wanted += [(str(cell.name), threshold, cell.counted) for cell in cells]
        nothing = Lengths(counts=(0,) * (TOP + 1), sequential=True)
        wanted += [(name, threshold, nothing) for name in absent]
    level = 1 - (1 - confidence) / len(wanted)
    checks = tuple(_check(*entry, level) for entry in wanted)
    chosen = [cell for cell in written.cells if cell.axis in least and cell.name.graded]
    return Decision(
        checks=checks,
        confidence=confidence,
        sequential=False,
        planned=sum(cell.planned for cell in chosen),
        used=sum(sum(cell.lengths) + len(cell.broken) for cell in chosen),
        remarks=tuple(f"{name} was planned and not run." for name in written.missing),
    )


def _is_graded(name: str, axis: str) -> bool:
    found, _, level = name.partition("=")
    return found == axis and level.isdecimal()


def _check(name: str, threshold: float, lengths: Lengths, level: float) -> Check:
    span = lengths.interval(level)
    return Check(
        name=f"average length at {name}",
        threshold=threshold,
        estimate=lengths.mean,
        low=span.low,
        high=span.high,
        level=level,
        used=f"{lengths.completed} chains",
        method="betting confidence sequence" if lengths.sequential else "Gaffke",
    )
