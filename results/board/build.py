"""Building a leaderboard's site from bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.badge import badge_of
from calvin_eval.results.board.board import Board, Refusal, Row, Section, arrange
from calvin_eval.results.board.entry import Entry, message_of, opened_chains, read_entry
from calvin_eval.results.board.pages import Pages
from calvin_eval.results.board.reported import Reported
from calvin_eval.results.board.site import COMPARE, ENTRIES, INDEX, RECORDS, REPORTED, Site
from calvin_eval.results.compare import Comparison, compare_pair
from calvin_eval.results.compared import ComparedRun
from calvin_eval.results.verification_record import (
    FileDigest,
    VerificationRecord,
    digest_of,
    record_name,
)

Judge: TypeAlias = Callable[[Path, FileDigest], VerificationRecord | None]
"""Given a bundle and its digest: the record of its verification, done now or trusted; or None."""

_MOST_OPEN = 4


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a build did.

    Attributes:
        board: what the site shows.
        written: files that were new or differed.
        kept: files that were as they should be.
    """

    board: Board
    written: int
    kept: int


def build_site(
    bundles: Sequence[Path],
    target: Path,
    *,
    judge: Judge,
    version: str,
    title: str,
    reported: Sequence[Reported] = (),
) -> Built:
    """Write a leaderboard's site.

    Args:
        bundles: the entries; the same file twice is refused once.
        target: the site's folder, new or of an earlier build.
        judge: says what is known of a bundle's verification.
        version: of this calvin-eval.
        title: of the site.
        reported: what others published.

    Raises:
        UsageError: something else lies in the folder.
        RunFolderError: the disk refuses.
    """
    site = Site.open(target, version)
    places, rows, refused = _gather(bundles, site, judge)
    board = replace(arrange(title, rows, refused), reported=tuple(reported))
    pages = Pages(board)
    for section in board.sections:
        for row in section.rows:
            _write_entry(site, pages, section, row)
        _write_pairs(site, section, places)
    site.write("index.html", pages.index())
    site.write_json(INDEX, _index(board))
    told = [{**asdict(row), "notes": row.notes} for row in board.reported]
    site.write_json(REPORTED, {"verified": False, "rows": told})
    site.clean()
    return Built(board=board, written=site.written, kept=site.kept)


def _gather(
    bundles: Sequence[Path], site: Site, judge: Judge
) -> tuple[dict[str, Path], list[Row], list[Refusal]]:
    """Where each entry's bundle is, by its key; the entries; and what is not one."""
    known, rows, refused = site.known(), [], []
    places: dict[str, Path] = {}
    seen: dict[FileDigest, str] = {}
    for bundle in sorted(bundles, key=lambda path: (path.name, str(path))):
        try:
            digest = digest_of(bundle)
            if digest in seen:
                refused.append(Refusal(file=bundle.name, why=f"the same file as {seen[digest]}"))
                continue
            seen[digest] = bundle.name
            row = _row(bundle, digest, known.get(digest), site, judge)
        except CalvinEvalError as error:
            refused.append(Refusal(file=bundle.name, why=message_of(error, bundle)))
            continue
        if row.record is not None and row.record.status == "deviates":
            problem = next(iter(row.record.problems), "it deviates")
            refused.append(Refusal(file=bundle.name, why=f"{row.badge.why}: {problem}"))
        elif row.entry.key in places:
            refused.append(Refusal(file=bundle.name, why="an entry of that name is there"))
        else:
            places[row.entry.key] = bundle
            rows.append(row)
    return places, rows, refused


def _row(
    bundle: Path, digest: FileDigest, known: Entry | None, site: Site, judge: Judge
) -> Row:  # fmt: skip
    record = judge(bundle, digest)
    entry = None if known is None else replace(known, file=bundle.name)
    if entry is None or not (site.path / _report(entry)).is_file():
        entry, report = read_entry(bundle, digest)
        if record is None or record.status != "deviates":
            site.write(_report(entry), report)
    else:
        site.keep(_report(entry))
    return Row(entry=entry, badge=badge_of(record, digest), record=record)


def _report(entry: Entry) -> str:
    return f"{ENTRIES}/{entry.key}/report.html"


def _write_entry(site: Site, pages: Pages, section: Section, row: Row) -> None:
    place = f"{ENTRIES}/{row.entry.key}"
    if row.record is not None:
        site.write(f"{RECORDS}/{record_name(row.entry.bundle)}", row.record.to_bytes())
    site.write(f"{place}/index.html", pages.entry(section, row))
    site.write_json(f"{place}/entry.json", {**_state(row), "entry": asdict(row.entry)})


class _OpenRuns:
    """The runs of bundles that were used last, unpacked: comparing reads more than their chains.

    Args:
        stack: closes them all.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._open: dict[Path, tuple[ComparedRun, ExitStack]] = {}

    def get(self, bundle: Path, name: str) -> ComparedRun:
        """The run of a bundle; at most `_MOST_OPEN` stay unpacked."""
        if bundle in self._open:
            found = self._open.pop(bundle)
        else:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open)))[1].close()
            own = self._stack.enter_context(ExitStack())
            found = own.enter_context(opened_chains(bundle, name)), own
        self._open[bundle] = found  # the newest is closed last
        return found[0]


def _write_pairs(site: Site, section: Section, places: Mapping[str, Path]) -> None:
    """A page for each two that are held side by side."""
    with ExitStack() as stack:
        _write_each_pair(site, section, places, _OpenRuns(stack))


def _write_each_pair(
    site: Site, section: Section, places: Mapping[str, Path], runs: _OpenRuns
) -> None:
    for first, other in section.pairs():
        name = f"{COMPARE}/{first.entry.key}--{other.entry.key}"
        bundles = [row.entry.bundle.sha256 for row in (first, other)]
        if site.has(name, bundles=bundles):
            site.keep(f"{name}.html", f"{name}.json")
            continue
        one, two = (runs.get(places[row.entry.key], row.entry.name) for row in (first, other))
        comparison = Comparison(runs=(one, two), pairs=(compare_pair(one, two),))
        site.write(f"{name}.html", Pages.comparison(comparison))
        site.write_json(f"{name}.json", {"bundles": bundles, **comparison.to_json()})


def _state(row: Row) -> dict[str, Any]:
    return {
        "badge": asdict(row.badge),
        "standing": None if row.standing is None else asdict(row.standing),
        "record": None if row.record is None else f"{RECORDS}/{record_name(row.entry.bundle)}",
    }


def _index(board: Board) -> dict[str, Any]:
    shown = ("key", "name", "average_length", "length_interval", "rates", "official", "date")
    sections = [
        {
            "id": section.id,
            "split": section.split,
            "rules": section.rules,
            "official": section.official,
            "departures": section.shared,
            "groups": section.groups,
            "entries": [
                {
                    **{name: asdict(row.entry)[name] for name in shown},
                    "departures": row.own,
                    "bundle": row.entry.bundle.sha256,
                    **_state(row),
                }
                for row in section.rows
            ],
        }
        for section in board.sections
    ]
    refused = [asdict(refusal) for refusal in board.refused]
    return {"title": board.title, "sections": sections, "refused": refused}
