"""What a leaderboard knows of its entries' verification: records that count, and new ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from calvin_eval.errors import UsageError
from calvin_eval.results.signatures import Signature, check_signature
from calvin_eval.results.verification_record import (
    FileDigest,
    VerificationRecord,
    find_record,
    record_name,
)
from calvin_eval.rollouts.verify.inputs import Sources
from calvin_eval.running.verifying import Progress, Scope, record_of, verify_path


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """Verifies the entries of a leaderboard, each file once.

    Attributes:
        records: folder of the records that count; new ones are written into it.
        scope: which chains are looked at; None verifies nothing, and only reads records.
        again: verify whatever records there are.
        record_signers: OpenSSH's file of those whose records count; None if all in the folder do.
        signers: OpenSSH's file of those whose signatures of bundles are known by name.
        assets: where the runs' asset pack is.
        workers: processes; None takes one per core.
        progress: shows how far a verification is.
    """

    records: Path
    scope: Scope | None
    progress: Progress
    again: bool = False
    record_signers: Path | None = None
    signers: Path | None = None
    assets: str | None = None
    workers: int | None = None

    def __call__(self, bundle: Path, digest: FileDigest) -> VerificationRecord | None:
        """The record of a bundle; None if there is none and nothing is verified.

        Raises:
            UsageError, RunFolderError: the bundle is damaged, or the disk refuses.
        """
        signature = self._signature(bundle)
        known = None if self.again else find_record(self.records, digest, self.record_signers)
        if known is not None or self.scope is None:
            return None if known is None else known.signed(bundle, signature)
        found = verify_path(
            bundle, self.scope, sources=Sources(assets=self.assets), workers=self.workers,
            progress=self.progress,
        )  # fmt: skip
        record = record_of(bundle, found)
        if self.record_signers is None:  # where only signed records count, ours would not
            record.write(self.records / record_name(digest))
        return record.signed(bundle, signature)

    def _signature(self, bundle: Path) -> Signature | None:
        """The signature beside a bundle, by its signer's name if that is known."""
        if self.signers is not None:
            known = check_signature(bundle, self.signers)
            if known is None or known.good:
                return known
        return check_signature(bundle)


def find_bundles(paths: Iterable[Path]) -> list[Path]:
    """Bundles that are named, and those in folders that are named.

    Raises:
        UsageError: nothing there.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(path.rglob("*.zip"))
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"expected a bundle or a folder with bundles, found none: {path}")
    return found
