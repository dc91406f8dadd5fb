"""Whether a bundle can be an entry of a leaderboard: a verdict in one paragraph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.badge import Badge, badge_of
from calvin_eval.results.board.board import split_name
from calvin_eval.results.board.entry import Entry, message_of, read_entry
from calvin_eval.results.metrics import completed_chains
from calvin_eval.results.report.text import code
from calvin_eval.results.unbundle import read_bundle
from calvin_eval.results.verification_record import (
    FileDigest,
    VerificationRecord,
    digest_of,
)

Outcome: TypeAlias = Literal["good", "bad", "open"]
Chains: TypeAlias = Mapping[int, tuple[str, ...]]
"""Per completed chain the hashes of its states, which only the same actions give."""

CLOSED: Final = "closed"
MOST_BYTES: Final = 100 * 10**6
"""Of a bundle, unless said otherwise: what Git forges take in one file."""

_SHARED = 0.1  # of the chains, beyond which two entries are one policy's
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: `schema`, `verification`, `size`, `licence` or `duplicates`.
        outcome: good, bad, or open: nobody could tell here.
        text: a sentence in Markdown, in which foreign text is a code span.
    """

    what: str
    outcome: Outcome
    text: str


@dataclass(frozen=True, kw_only=True)
class EntryCheck:
    """What was found of a bundle.

    Attributes:
        file: its name.
        entry: what it says; None if it cannot be read.
        badge: what its verification is worth; None likewise.
        findings: in the order in which they were made.
    """

    file: str
    entry: Entry | None
    badge: Badge | None
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """Bad if anything is, else open if anything is."""
        outcomes = {finding.outcome for finding in self.findings}
        return "bad" if "bad" in outcomes else "open" if "open" in outcomes else "good"

    def markdown(self) -> str:
        """One paragraph."""
        verdict = {
            "good": "Can be an entry.", "bad": "Cannot be an entry.", "open": "Not decided here.",
        }[self.outcome]  # fmt: skip
        said = [f"**{verdict}** {code(self.file)}"]
        if self.entry is not None:
            said.append(_claim(self.entry))
        first = sorted(self.findings, key=lambda f: ("bad", "open", "good").index(f.outcome))
        return " ".join([*said, *(f"{finding.text}" for finding in first)]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """JSON values; of the entry, what tells it from others."""
        entry = self.entry
        shown = ("key", "name", "split", "average_length", "official", "departures")
        return {
            "file": self.file,
            "outcome": self.outcome,
            "entry": None if entry is None else {name: getattr(entry, name) for name in shown},
            "badge": None if self.badge is None else asdict(self.badge),
            "findings": [asdict(finding) for finding in self.findings],
        }


def check_entry(
    bundle: Path,
    *,
    judge: Callable[[Path, FileDigest], VerificationRecord | None],
    others: Sequence[Path] = (),
    most_bytes: int = MOST_BYTES,
) -> EntryCheck:
    """Look at everything that an entry needs.

    Args:
        bundle: the file.
        judge: says what is known of its verification.
        others: bundles of the leaderboard, among which there must be none like it.
        most_bytes: how large it may be.

    Raises:
        UsageError, RunFolderError: there is no such file.
    """
    digest = digest_of(bundle)
    size = _size(digest, most_bytes)
    try:
        entry, _ = read_entry(bundle, digest)
        record = judge(bundle, digest)
    except CalvinEvalError as error:
        text = f"It cannot be read: {code(message_of(error, bundle))}."
        schema = Finding(what="schema", outcome="bad", text=text)
        return EntryCheck(file=bundle.name, entry=None, badge=None, findings=(schema, size))
    badge = badge_of(record, digest)
    schema = Finding(what="schema", outcome="good", text="Bundle and model card are sound.")
    findings = (
        schema, _verification(badge, record), size, _licence(entry),
        _duplicates(bundle, entry, others),
    )  # fmt: skip
    return EntryCheck(file=bundle.name, entry=entry, badge=badge, findings=findings)


def _claim(entry: Entry) -> str:
    name = f"says of {code(entry.name)}, trained on {split_name(entry.split)}:"
    official = "by the official protocol" if entry.official else "not by the official protocol"
    if entry.average_length is None or entry.length_interval is None:
        return f"{name} {entry.completed} of {entry.planned} chains, so no average length."
    spread = f"{entry.length_interval.low:.2f} to {entry.length_interval.high:.2f}"
    reasons = entry.departures
    why = f" ({_some([code(r.rstrip('.')) for r in reasons])})" if reasons else ""
    return (
        f"{name} an average length of {entry.average_length:.3f} (95 %: {spread}) over "
        f"{entry.planned} chains, {official}{why}."
    )


def _verification(badge: Badge, record: VerificationRecord | None) -> Finding:
    if badge.level != "none":
        signed = f", signed by {code(badge.signer)}" if badge.known else ""
        text = f"Verification: {badge.words}{signed}."
        return Finding(what="verification", outcome="good", text=text)
    problems = () if record is None else record.problems
    bad = bool(problems) or (record is not None and record.recorded < record.planned)
    first = f", first {code(problems[0])}" if problems else ""
    text = f"No badge: {badge.why}{first}."
    return Finding(what="verification", outcome="bad" if bad else "open", text=text)


def _size(digest: FileDigest, most: int) -> Finding:
    megabytes, limit = digest.bytes / 1e6, most / 1e6
    if digest.bytes <= most:
        return Finding(what="size", outcome="good", text=f"It has {megabytes:.1f} MB.")
    text = f"It has {megabytes:.1f} MB, and may have {limit:.1f}: choose fewer videos."
    return Finding(what="size", outcome="bad", text=text)


def _licence(entry: Entry) -> Finding:
    licence = entry.model.licence
    if licence == CLOSED:
        return Finding(what="licence", outcome="good", text="Its weights are closed.")
    try:
        known = canonicalize_license_expression(licence)
    except InvalidLicenseExpression:
        text = (
            f"The licence of its weights, {code(licence)}, is no SPDX expression such as "
            f"{code('Apache-2.0')}, and not {code(CLOSED)}."
        )
        return Finding(what="licence", outcome="bad", text=text)
    return Finding(what="licence", outcome="good", text=f"Its weights are under {code(known)}.")


def _duplicates(bundle: Path, entry: Entry, others: Sequence[Path]) -> Finding:
    ours = read_states(bundle)
    names, same = [], []
    for other in others:
        if other.resolve() == bundle.resolve():
            continue
        try:
            if digest_of(other) == entry.bundle:
                same.append(f"it is the same file as {code(other.name)}")
                continue
            theirs = read_states(other)
        except CalvinEvalError:
            continue  # it is no entry, and not ours to report
        shared = sum(ours[chain] == theirs.get(chain) for chain in ours)
        names.append(other.name)
        if shared > _SHARED * len(ours):
            same.append(
                f"{shared} of its {len(ours)} chains went exactly as in {code(other.name)}, "
                "which only the same actions give"
            )
    if same:
        return Finding(what="duplicates", outcome="bad", text=f"Not new: {_some(same)}.")
    text = f"None of {len(names)} other entries is like it." if names else "No others to compare."
    return Finding(what="duplicates", outcome="good", text=text)


def read_states(bundle: Path) -> Chains:
    """The hashes of all states that a bundle's records have.

    Raises:
        UsageError, RunFolderError: it is damaged.
    """
    with read_bundle(bundle) as folder:
        done = completed_chains(folder.records())
    return {chain.chain: tuple(s.state_hash for s in chain.subtasks) for chain in done}


def _some(words: Sequence[str]) -> str:
    more = f"; and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return "; ".join(words[:_SHOWN]) + more
