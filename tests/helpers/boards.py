"""Leaderboards without simulation: bundles made by hand, and what a verifier would say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from forging import forged_bundle

from calvin_eval.results.badge import Badge
from calvin_eval.results.board.board import Row
from calvin_eval.results.board.entry import Entry, Rate
from calvin_eval.results.conclude import conclude
from calvin_eval.results.ledger import Claim
from calvin_eval.results.store import RunFolder
from calvin_eval.results.unbundle import read_bundle
from calvin_eval.results.verification import ChainCheck, Deviation, Verification
from calvin_eval.results.verification_record import (
    FileDigest,
    VerificationRecord,
    make_record,
)
from handmade import Change, record, write_run


def make_bundle(
    place: Path,
    stem: str,
    lengths: Sequence[int],
    *,
    change: Change = lambda header: None,
    finish: Callable[[RunFolder], object] = lambda folder: None,
    **card: Any,
) -> Path:
    """A bundle of chains of these lengths; of -1, an error. Nobody has simulated it."""
    records = [record(i, max(length, 0), error=length < 0) for i, length in enumerate(lengths)]
    folder = write_run(place / f"{stem}-run", records, change=change)
    conclude(RunFolder.open(folder))
    RunFolder.open(folder).update_header(status="finished")
    finish(RunFolder.open(folder))
    return forged_bundle(folder, place / f"{stem}.zip", **{"name": stem, **card})


def judged(status: str = "verified", sampled: int | None = None) -> Any:
    """A judge that finds all chains of every bundle so, or of a sample of so many."""

    def judge(bundle: Path, digest: FileDigest) -> VerificationRecord:
        with read_bundle(bundle) as folder:
            header, records = folder.header(), folder.records()
        looked = records[:sampled]
        deviation = Deviation(what="verdict", expected="no success", found="success at step 9")
        checks = tuple(
            ChainCheck(
                chain=r.chain,
                status=status,  # type: ignore[arg-type]
                deviations=(deviation,) if status == "deviates" else (),
            )
            for r in looked
        )
        result = Verification(
            recorded=len(records), planned=len(header.planned), chains=checks, deviations=(),
            notes=(), claim=Claim.of(header, records),
        )  # fmt: skip
        return make_record(bundle, result, seed=None if sampled is None else 7, version="1.2.3")

    return judge


def nobody(bundle: Path, digest: FileDigest) -> None:
    """A judge that knows of no verification."""


def many_rows(entry: Entry, count: int) -> list[Row]:
    """So many rows like this entry, of three splits, with lengths that differ."""
    rows = []
    for i in range(count):
        split = ("D", "ABC_D", "ABCD_D")[i % 3]
        lengths = tuple((i * 7 + chain * 3) % 6 if chain % 4 else i % 6 for chain in range(40))
        mean = sum(lengths) / len(lengths)
        digest = replace(entry.bundle, sha256=f"{i:064x}")
        made = replace(
            entry, key=f"policy-{i}", name=f"Policy {i}", split=split, bundle=digest,
            section=f"{split}{i % 6}", lengths=lengths, average_length=mean,
            length_interval=Rate(rate=mean, low=mean - 0.3, high=mean + 0.3),
        )  # fmt: skip
        rows.append(
            Row(entry=made, record=None, badge=Badge(level="all", words="all 40 chains verified"))
        )
    return rows
