"""A stored record of a bundle's verification: what was checked, by which version, of which bytes.

A record says nothing of when: the same chains of the same bundle, looked at again by the same
version, give the same bytes. It is worth what its source is worth. Whoever forges a bundle can
write a record as well, so records are read from where their reader keeps his own, or under the
signatures of verifiers whom he knows; never from beside a stranger's bundle.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, get_args

from calvin_eval.checks import Bounds
from calvin_eval.errors import RunFolderError
from calvin_eval.files import write_atomic
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.results import typed
from calvin_eval.results.ledger import LEDGER, Treatment
from calvin_eval.results.signatures import Signature, check_signature, signature_path
from calvin_eval.results.verification import CheckStatus, Verification

RECORD_VERSION: Final = 1

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Ascending chain ids as first and last of each row of neighbours."""

_Count = Annotated[int, Bounds(least=0)]
_MOST_BYTES = 8 * 2**20
_MOST_PROBLEMS = 20
_CHUNK = 2**20


@dataclass(frozen=True, kw_only=True)
class FileDigest:
    """Which file was looked at.

    Attributes:
        sha256: of its bytes.
        bytes: how many there are.
    """

    sha256: str
    bytes: _Count


@dataclass(frozen=True, kw_only=True)
class SignatureFacts:
    """The good signature that lay beside the bundle.

    Attributes:
        sha256: of the signature's file.
        key: that made it.
        signer: whose key it is; null if that was not checked.
    """

    sha256: str
    key: str
    signer: str | None = None


@dataclass(frozen=True, kw_only=True)
class VerificationRecord:
    """What `verify` found in a bundle.

    Attributes:
        record_version: of this form.
        calvin_eval: version that verified.
        bundle: the file.
        signature: beside it; null without a good one.
        status: as `Verification.status`.
        planned: chains that the run was meant to have.
        recorded: chains that have a record.
        verified, deviating, unchecked: which of those that were looked at came out how.
        sample_seed: that drew them; null if they were not drawn.
        average_length: computed from the records; null while the run is incomplete.
        official: whether nothing that the header says speaks against it.
        missing: what the run names by a hash and was not at hand.
        problems: what deviates, at most twenty lines.
        notes: what could not be checked of the run as a whole.
        facts: names of the run's facts by how they were treated.
    """

    record_version: int
    calvin_eval: str
    bundle: FileDigest
    signature: SignatureFacts | None
    status: CheckStatus
    planned: _Count
    recorded: _Count
    verified: Ranges
    deviating: Ranges
    unchecked: Ranges
    sample_seed: int | None = None
    average_length: float | None = None
    official: bool
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    facts: Mapping[str, tuple[str, ...]]

    @property
    def count(self) -> int:
        """How many chains were verified."""
        return sum(last - first + 1 for first, last in self.verified)

    @property
    def every_chain(self) -> bool:
        """Whether all planned chains were verified, and nothing deviates."""
        return self.status == "verified" and self.count == self.recorded == self.planned > 0

    def is_of(self, digest: FileDigest) -> bool:
        """Whether it is about this file."""
        return self.bundle == digest

    def signed(self, bundle: Path, signature: Signature | None) -> VerificationRecord:
        """The same with the signature that lies beside the bundle now.

        Args:
            bundle: the file.
            signature: what it is worth; None if there is none.
        """
        facts = _signature_facts(bundle, signature)
        if signature is None or signature.problem is None:
            return replace(self, signature=facts)
        problem = f"the signature: expected one of this file; found {signature.problem}"
        problems = (problem, *self.problems)[:_MOST_PROBLEMS]
        return replace(self, signature=None, status="deviates", problems=problems)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    def to_bytes(self) -> bytes:
        """The file that is stored."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False)
        return (text + "\n").encode("utf-8", "backslashreplace")

    def write(self, path: Path) -> None:
        """Store it; raises RunFolderError if the disk refuses."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, self.to_bytes())
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error}") from error


def make_record(
    bundle: Path, result: Verification, *, seed: int | None, version: str
) -> VerificationRecord:
    """The record of what was just found.

    Args:
        bundle: the file, as it was verified.
        result: what was found.
        seed: that drew the chains; None if they were not drawn.
        version: of the calvin-eval that verified.
    """
    claim = result.claim
    facts: dict[str, list[str]] = {treatment: [] for treatment in get_args(Treatment)}
    for entry in LEDGER:
        facts[entry.treatment] += entry.facts
    ids = {status: [check.chain for check in result.of(status)] for status in get_args(CheckStatus)}
    return VerificationRecord(
        record_version=RECORD_VERSION,
        calvin_eval=version,
        bundle=digest_of(bundle),
        signature=_signature_facts(bundle, result.signature),
        status=result.status,
        planned=result.planned,
        recorded=result.recorded,
        verified=ranges_of(ids["verified"]),
        deviating=ranges_of(ids["deviates"]),
        unchecked=ranges_of(ids["unchecked"]),
        sample_seed=seed,
        average_length=None if claim is None else claim.average_length,
        official=claim is not None and claim.official,
        missing=result.missing,
        problems=result.problems()[:_MOST_PROBLEMS],
        notes=result.notes,
        facts={treatment: tuple(names) for treatment, names in facts.items()},
    )


def _signature_facts(bundle: Path, signature: Signature | None) -> SignatureFacts | None:
    """What is known of a good signature; None of any other."""
    if signature is None or not signature.good or signature.key is None:
        return None
    digest = digest_of(signature_path(bundle))
    return SignatureFacts(sha256=digest.sha256, key=signature.key, signer=signature.signer)


def read_record(path: Path) -> VerificationRecord:
    """Read a record.

    Raises:
        RunFolderError: there is none, or it is not one of this version.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise RunFolderError(f"cannot read the record {path}: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise RunFolderError(f"{path}: expected a record of a verification, found more than 8 MiB")
    try:
        record = typed.read(VerificationRecord, parse_json(data))
    except (DocumentError, typed.MismatchError) as error:
        raise RunFolderError(f"{path}: expected a record of a verification: {error}") from error
    if record.record_version != RECORD_VERSION:
        raise RunFolderError(
            f"{path}: expected record version {RECORD_VERSION}, found {record.record_version}; "
            "verify the bundle again"
        )
    if problem := _impossible(record):
        raise RunFolderError(f"{path}: {problem}; verify the bundle again")
    return record


def find_record(
    folder: Path, digest: FileDigest, signers: Path | None = None
) -> VerificationRecord | None:
    """The record of a bundle among those that a reader keeps.

    Args:
        folder: with records of that name which `record_name` gives.
        digest: of the bundle.
        signers: OpenSSH's file of those whose records count; None if all that lie there do.

    Returns:
        None if there is none of this very file, none that reads, or none that counts.
    """
    path = folder / record_name(digest)
    if not path.is_file():
        return None
    if signers is not None:
        signature = check_signature(path, signers)
        if signature is None or not signature.good or signature.signer is None:
            return None
    try:
        record = read_record(path)
    except RunFolderError:
        return None
    return record if record.is_of(digest) else None


def record_name(digest: FileDigest) -> str:
    """Under which name a folder keeps the record of a bundle."""
    return f"{digest.sha256}.json"


def digest_of(path: str | os.PathLike[str]) -> FileDigest:
    """The digest of a file; raises RunFolderError if it cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from error
    return FileDigest(sha256=digest.hexdigest(), bytes=size)


def ranges_of(ids: Iterable[int]) -> Ranges:
    """Chain ids, in any order, as ranges."""
    found: list[tuple[int, int]] = []
    for number in sorted(set(ids)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def _impossible(record: VerificationRecord) -> str:
    """Why no verification can have found this; empty if one can."""
    for name in ("verified", "deviating", "unchecked"):
        rows: Ranges = getattr(record, name)
        if any(first < 0 or last < first for first, last in rows):
            return f"expected ascending ranges of chains, found others under {name}"
        if any(after[0] <= before[1] for before, after in pairwise(rows)):
            return f"expected ranges without overlap, found others under {name}"
    if record.count > record.recorded or record.recorded > record.planned:
        return "expected no more verified chains than recorded, and no more of those than planned"
    troubled = bool(record.problems or record.deviating)
    if record.status == "verified" and (troubled or record.unchecked or not record.verified):
        return "expected a verified bundle without deviations, found some"
    return ""
