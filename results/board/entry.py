"""One entry of a leaderboard: what a bundle says, computed from its records and never read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from calvin_eval.checks import Bounds
from calvin_eval.foreign.text import printable
from calvin_eval.results.bundle import CARD
from calvin_eval.results.comparability import CHAINS, protocol_facts
from calvin_eval.results.compared import ComparedRun, read_run
from calvin_eval.results.conclude import facts_from_header, summarize_run
from calvin_eval.results.diagnosis import read_diagnosis
from calvin_eval.results.header import Header
from calvin_eval.results.intervals import Interval
from calvin_eval.results.metrics import Summary, completed_chains
from calvin_eval.results.model_card import ModelCard, parse_model_card
from calvin_eval.results.official import official_verdict
from calvin_eval.results.report.build import render_report
from calvin_eval.results.report.view import make_view
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.unbundle import read_bundle
from calvin_eval.results.verification_record import FileDigest

_Count = Annotated[int, Bounds(least=0)]

_IMAGES: Final = "renderer.backend"
_KEY_LETTERS = 60
_UNPACKED = re.compile(r"\S*/calvin-eval-\w+/run\b")  # where `read_bundle` unpacks


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The share of chains with at least so many tasks in a row, 0..1, and its 95 % interval."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A bundle's content, as far as a leaderboard shows it.

    Attributes:
        key: name of its folder in the site.
        file: the bundle's name.
        bundle: digest of the bundle.
        name: of the policy, by its card.
        split: what it was trained on.
        section: hash of what entries must share to be ordered: rules, assets, chains.
        rules: those, in words, for people.
        planned, completed, errors: chains.
        average_length: mean number of tasks in a row; null while the run is incomplete.
        length_interval: its 95 % interval; null likewise.
        rates: for 1.. tasks in a row; empty likewise.
        lengths: tasks in a row of every planned chain, by id; empty likewise.
        official: whether it follows the official protocol.
        departures: in what it does not, one sentence each.
        remarks: what should be known besides.
        step_milliseconds: wall time of a step of a chain, as the run says; null without any.
        shift: what is changed about the benchmark; null for nothing.
        realtime: whether the world went on while the policy decided.
        date: when the run was started, as it says.
        version: of calvin-eval that made the run.
        causes: failures by cause, as the bundle's diagnosis says; null without one.
        card: the model card, as it was given.
    """

    key: str
    file: str
    bundle: FileDigest
    name: str
    split: str
    section: str
    rules: str
    planned: _Count
    completed: _Count
    errors: _Count
    average_length: float | None
    length_interval: Rate | None
    rates: tuple[Rate, ...]
    lengths: tuple[_Count, ...]
    official: bool
    departures: tuple[str, ...]
    remarks: tuple[str, ...]
    step_milliseconds: float | None
    shift: str | None
    realtime: bool
    date: str
    version: str
    causes: Mapping[str, _Count] | None
    card: Mapping[str, Any]

    @property
    def model(self) -> ModelCard:
        """The model card."""
        return parse_model_card(dict(self.card), self.file)


def read_entry(bundle: Path, digest: FileDigest) -> tuple[Entry, str]:
    """The entry of a bundle, and its report as HTML.

    Args:
        bundle: the file; unpacked for this moment only.
        digest: of it.

    Raises:
        RunFolderError: it is damaged (as BundleError), or not of this version.
    """
    with read_bundle(bundle) as folder:
        return _entry(folder, bundle.name, digest), _report(folder)


def message_of(error: Exception, bundle: Path) -> str:
    """What is wrong with a bundle, without the folders that it lies or was unpacked in here."""
    return _UNPACKED.sub(bundle.name, str(error).replace(str(bundle), bundle.name))


@contextmanager
def opened_chains(bundle: Path, name: str) -> Iterator[ComparedRun]:
    """The chains of a bundle, to be compared under a name while the context lasts."""
    with read_bundle(bundle) as folder:
        yield ComparedRun(**{**vars(read_run(folder.path)), "name": name})


def _entry(folder: RunFolder, file: str, digest: FileDigest) -> Entry:
    header, records = folder.header(), folder.records()
    card = parse_model_card(folder.read_json(CARD), f"{file}, {CARD}")
    summary = summarize_run(header, records)
    verdict = official_verdict(facts_from_header(header, summary))
    spread = summary.average_length_interval
    return Entry(
        key=f"{card.short_name[:_KEY_LETTERS].strip('.-')}-{digest.sha256[:12]}",
        file=file,
        bundle=digest,
        name=card.name,
        split=header.config.split,
        section=_section(header),
        rules=_rules(header),
        planned=summary.planned,
        completed=summary.completed,
        errors=summary.errors,
        average_length=summary.average_length,
        length_interval=None if spread is None else _rate(summary.average_length or 0.0, spread),
        rates=_rates(summary),
        lengths=tuple(r.length for r in records) if summary.complete else (),
        official=verdict.official,
        departures=verdict.reasons,
        remarks=verdict.remarks,
        step_milliseconds=_step_milliseconds(records),
        shift=header.protocol.shift,
        realtime=header.protocol.realtime.latency is not None,
        date=header.started_utc[:10],
        version=header.provenance.calvin_eval or "",
        causes=_causes(folder),
        card=card.to_json(),
    )


def _rates(summary: Summary) -> tuple[Rate, ...]:
    rates, spreads = summary.success_rates or {}, summary.success_rate_intervals or {}
    return tuple(_rate(rates[i], spreads[i]) for i in sorted(rates))


def _rate(rate: float, spread: Interval) -> Rate:
    return Rate(rate=rate, low=spread.low, high=spread.high)


def _step_milliseconds(records: list[ChainRecord]) -> float | None:
    done = completed_chains(records)
    steps = sum(s.steps for chain in done for s in chain.subtasks)
    return 1000 * sum(chain.seconds for chain in done) / steps if steps else None


def _section(header: Header) -> str:
    """Entries with the same are held against each other, chain by chain.

    Who drew the images is a departure of its own, and a policy may need none.
    """
    facts = {key: value for key, value in protocol_facts(header).items() if key != _IMAGES}
    shared = {**facts, "split": header.config.split, "planned": sorted(header.planned)}
    text = json.dumps(shared, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _rules(header: Header) -> str:
    facts = protocol_facts(header)
    parts = [
        f"scene {header.scene}",
        f"{header.assets.name} assets",
        f"revision {header.revision}",
        f"{len(header.planned)} chains of the list {header.chains.list} ({facts[CHAINS][:8]})",
        f"{header.protocol.steps} steps for each task",
        *([f"shifted by {header.protocol.shift}"] if header.protocol.shift else []),
    ]
    return ", ".join(parts)


def _causes(folder: RunFolder) -> dict[str, int] | None:
    """Failures by cause; causes without any are left out."""
    diagnosis = read_diagnosis(folder)
    if diagnosis is None:
        return None
    return {cause: count for cause, count in diagnosis.causes.items() if count}


def _report(folder: RunFolder) -> str:
    """The run's report as one page that links to nothing beside it."""
    view = make_view(folder, judge=True)
    return printable(render_report(view.alone(), ".html"))
