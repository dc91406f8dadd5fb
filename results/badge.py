"""What a verification is worth to a reader: a badge, or none and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from calvin_eval.results.verification_record import FileDigest, VerificationRecord

Level: TypeAlias = Literal["all", "sample", "none"]

LEAST_SAMPLE: Final = 50
"""Chains of a sample that earns a badge, or all there are."""


@dataclass(frozen=True, kw_only=True)
class Badge:
    """What a table shows of an entry's verification.

    Attributes:
        level: every chain was verified, a sample was, or neither.
        words: for people.
        why: why there is none, in one sentence; empty if there is one.
        signer: who signed the bundle; empty without a good signature.
        known: whether the signer's name was checked.
    """

    level: Level
    words: str
    why: str = ""
    signer: str = ""
    known: bool = False


def badge_of(record: VerificationRecord | None, digest: FileDigest) -> Badge:
    """The badge that a record earns a file, and nothing else does.

    Args:
        record: of a verification done now, or one that its reader has reason to trust; None if
            there is neither.
        digest: of the file as it is now.
    """
    if record is None:
        return _none("nobody has verified it")
    if not record.is_of(digest):
        return _none("its verification was of other bytes")
    if why := _obstacle(record):
        return _none(why)
    signature = record.signature
    signer = "" if signature is None else signature.signer or signature.key
    known = signature is not None and signature.signer is not None
    if record.every_chain:
        words = f"all {record.count} chains verified"
        return Badge(level="all", words=words, signer=signer, known=known)
    words = f"{record.count} of {record.planned} chains verified"
    if record.sample_seed is None:  # chosen, and who knows by whom
        return _none(f"{words}, but they were not drawn at random")
    if record.count < min(LEAST_SAMPLE, record.planned):
        return _none(f"{words}, which is too few for a sample")
    return Badge(level="sample", words=words, signer=signer, known=known)


def _obstacle(record: VerificationRecord) -> str:
    """Why a record earns its file nothing; empty if nothing speaks against it."""
    if record.status == "deviates":
        return "what it claims is not what its actions give"
    if record.recorded < record.planned:
        return f"only {record.recorded} of {record.planned} planned chains are there"
    if record.status == "unchecked":
        return "some of its chains could not be verified here"
    if record.missing:
        return f"its {' and its '.join(record.missing)} could not be looked at"
    return "its run is not complete" if record.average_length is None else ""


def _none(why: str) -> Badge:
    return Badge(level="none", words="not verified", why=why)
