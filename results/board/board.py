"""What a leaderboard shows, before it is put into pages: sections, order, badges, refusals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from calvin_eval.results.badge import Badge
from calvin_eval.results.board.entry import Entry
from calvin_eval.results.board.order import Standing, standings
from calvin_eval.results.board.reported import Reported
from calvin_eval.results.verification_record import VerificationRecord

SPLITS: Final = {"ABC_D": "ABC→D", "ABCD_D": "ABCD→D", "D": "D→D"}
"""Splits of the benchmark by what a table calls them, in the order of the page."""

MOST_PAIRED: Final = 12
"""Entries of a section of which all pairs have a page; of more, neighbours and the first do."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """An entry as a board shows it.

    Attributes:
        entry: what its bundle says.
        badge: what its verification is worth.
        record: of that; None without any.
        standing: where it stands; None if it is not ordered.
        own: departures that its section does not name for it; of one without a place, all.
    """

    entry: Entry
    badge: Badge
    record: VerificationRecord | None
    standing: Standing | None = None
    own: tuple[str, ...] = ()

    @property
    def ranked(self) -> bool:
        """Whether it may be ordered: verified, and complete."""
        return self.badge.level != "none" and self.entry.average_length is not None


@dataclass(frozen=True, kw_only=True)
class Section:
    """Entries that ran the same chains under the same rules.

    Attributes:
        id: of the section, for links.
        split: what the policies were trained on.
        rules: in words.
        official: whether every entry follows the official protocol.
        shared: departures that all entries with a place share; without any, all entries.
        rows: the ordered ones, the best first, then those that are not ordered.
    """

    id: str
    split: str
    rules: str
    official: bool
    shared: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def ranked(self) -> tuple[Row, ...]:
        """The ordered rows."""
        return tuple(row for row in self.rows if row.standing is not None)

    @property
    def columns(self) -> int:
        """How many rates its rows have at most."""
        return max(len(row.entry.rates) for row in self.rows)

    @property
    def groups(self) -> int:
        """How many groups can be told apart."""
        return max((row.standing.group for row in self.rows if row.standing), default=0)

    def pairs(self) -> list[tuple[Row, Row]]:
        """Of which two rows there is a page, side by side."""
        rows = self.ranked
        if len(rows) <= MOST_PAIRED:
            return [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :]]
        found = {(0, i) for i in range(1, len(rows))} | {(i, i + 1) for i in range(len(rows) - 1)}
        return [(rows[i], rows[j]) for i, j in sorted(found)]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A file that is not shown, and why."""

    file: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """Everything that the site shows of entries.

    Attributes:
        title: of the site.
        sections: in the order of the page.
        refused: files that are not shown.
        reported: what others published, shown apart.
    """

    title: str
    sections: tuple[Section, ...]
    refused: tuple[Refusal, ...]
    reported: tuple[Reported, ...] = ()

    @property
    def count(self) -> int:
        """How many rows the page has."""
        return len(self.rows) + len(self.reported)

    @property
    def reported_splits(self) -> tuple[str, ...]:
        """The splits of what others published."""
        found = {row.split for row in self.reported}
        return tuple(split for split in SPLITS if split in found)

    @property
    def rows(self) -> tuple[Row, ...]:
        """All entries."""
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are entries of."""
        return tuple(dict.fromkeys(section.split for section in self.sections))

    def of(self, split: str) -> tuple[Section, ...]:
        """The sections of a split."""
        return tuple(section for section in self.sections if section.split == split)

    def siblings(self, entry: Entry) -> tuple[Row, ...]:
        """Other entries of the same policy, by its card: on other chains, shifted, or again."""
        short = entry.model.short_name
        return tuple(
            row for row in self.rows
            if row.entry.key != entry.key and row.entry.model.short_name == short
        )  # fmt: skip


def arrange(title: str, rows: Iterable[Row], refused: Iterable[Refusal]) -> Board:
    """A board of these entries."""
    by_section: dict[str, list[Row]] = {}
    for row in rows:
        by_section.setdefault(row.entry.section, []).append(row)
    sections = [_section(name, found) for name, found in by_section.items()]
    return Board(
        title=title,
        sections=tuple(sorted(sections, key=_place)),
        refused=tuple(sorted(refused, key=lambda refusal: refusal.file)),
    )


def split_name(split: str) -> str:
    """What a table calls a split."""
    return SPLITS.get(split, split)


def _place(section: Section) -> tuple[int, str, bool, int, str, str]:
    known = [*SPLITS, section.split].index(section.split)
    return (known, section.split, not section.official, len(section.shared), section.rules,
            section.id)  # fmt: skip


def _section(name: str, rows: Sequence[Row]) -> Section:
    ranked = sorted((row for row in rows if row.ranked), key=_order)
    others = sorted((row for row in rows if not row.ranked), key=_order)
    lengths = [row.entry.lengths for row in ranked]
    top = len(ranked[0].entry.rates) if ranked else 0
    places = standings(lengths, top) if ranked else ()
    placed = [replace(row, standing=at) for row, at in zip(ranked, places, strict=True)]
    first = rows[0].entry
    alike = placed or others
    shared = [
        s for s in alike[0].entry.departures if all(s in row.entry.departures for row in alike)
    ]
    every = [
        *(replace(r, own=tuple(s for s in r.entry.departures if s not in shared)) for r in alike),
        *(replace(row, own=row.entry.departures) for row in others if placed),
    ]
    return Section(
        id=name[:12], split=first.split, rules=first.rules, shared=tuple(shared),
        official=all(row.entry.official for row in rows), rows=tuple(every),
    )  # fmt: skip


def _order(row: Row) -> tuple[float, str, str]:
    return -(row.entry.average_length or 0.0), row.entry.name, row.entry.key
