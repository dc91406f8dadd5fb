"""Verifying a run folder or a bundle: which chains, by how many processes, and what is stored."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

from calvin_eval import __version__
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.signatures import check_signature, sign, signature_path
from calvin_eval.results.store import RunFolder
from calvin_eval.results.unbundle import read_bundle
from calvin_eval.results.verification_record import (
    FileDigest,
    VerificationRecord,
    digest_of,
    make_record,
)
from calvin_eval.rollouts.processes import usable_cores
from calvin_eval.sim.selection import parse_selection

if TYPE_CHECKING:
    from calvin_eval.results.verification import ChainCheck, Verification
    from calvin_eval.rollouts.verify.inputs import Sources

SAMPLE: Final = 50
"""Chains that are drawn if nobody says which or how many."""

Watch: TypeAlias = Callable[["ChainCheck"], None]
Progress: TypeAlias = Callable[[int], AbstractContextManager[Watch]]
"""Given the number of chains, a context with what is called for each."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which chains are looked at: at most one of the first three; a sample of 50 by default.

    Attributes:
        chains: their ids, as in `3,17,40-49`.
        sample: how many are drawn.
        everything: all.
        seed: that draws them; None draws ones that nobody knows beforehand.
    """

    chains: str | None = None
    sample: int | None = None
    everything: bool = False
    seed: int | None = None

    def choose(self, folder: RunFolder) -> tuple[Collection[int] | None, int | None]:
        """Ids of the chains, and the seed if they were drawn; None means all of them."""
        if sum(map(bool, (self.chains, self.sample, self.everything))) > 1:
            raise UsageError("expected one of --chains, --sample and --all, found more")
        try:
            records = folder.records()
        except RunFolderError:  # it is a finding, and not ours to report
            return None, None
        if self.chains:
            highest = max((record.chain for record in records), default=0)
            return parse_selection(self.chains, highest + 1), None
        if self.everything:
            return [record.chain for record in records], None
        completed = [record.chain for record in records if record.status == "completed"]
        size = self.sample or SAMPLE
        if size >= len(completed):
            return completed, None
        # By default nobody can know beforehand which chains will be looked at.
        seed = random.SystemRandom().randrange(2**31) if self.seed is None else self.seed
        return sorted(random.Random(seed).sample(completed, size)), seed


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found.

    Attributes:
        result: the findings.
        seed: that drew the chains; None if they were not drawn.
        digest: of the bundle before it was opened; None for a run folder.
    """

    result: Verification
    seed: int | None
    digest: FileDigest | None


def verify_path(
    path: Path,
    scope: Scope,
    *,
    sources: Sources | None = None,
    signers: Path | None = None,
    workers: int | None = None,
    progress: Progress = lambda total: nullcontext(lambda check: None),
) -> Verified:
    """Simulate chains of a run folder or a bundle again, and look at the bundle's signature.

    Args:
        path: of either.
        scope: which chains.
        sources: assets, chain list and instructions, where the header's names are not enough.
        signers: OpenSSH's file of allowed signers, one of whom must have signed the bundle.
        workers: processes; None takes one per core.
        progress: shows how far it is.

    Raises:
        UsageError: nothing there, signers of a run folder, or chains without a record.
        RunFolderError: no run of this version, or (as BundleError) a damaged bundle.
    """
    from calvin_eval.rollouts.verify.verify import verify_run

    if signers is not None and path.is_dir():
        raise UsageError("expected a bundle with --signers: a run folder has no signature")
    is_file = path.is_file()
    digest = digest_of(path) if is_file else None
    signature = check_signature(path, signers) if is_file else None
    with opened(path) as folder:
        chains, seed = scope.choose(folder)
        count = len(chains or ())
        with progress(count) as watch:
            result = verify_run(
                folder, chains=chains, sources=sources, workers=workers_for(workers, count),
                watch=watch,
            )  # fmt: skip
    result = result.signed(signature, wanted=signers is not None)
    return Verified(result=result, seed=seed, digest=digest)


def record_of(bundle: Path, found: Verified) -> VerificationRecord:
    """The record of a bundle's verification; RunFolderError if the file changed meanwhile."""
    record = make_record(bundle, found.result, seed=found.seed, version=__version__)
    if record.bundle != found.digest:
        raise RunFolderError(f"{bundle} was changed while it was verified; verify it again")
    return record


def store_record(bundle: Path, found: Verified, target: Path, key: Path | None = None) -> None:
    """Write the record of a bundle's verification, signed if there is a key.

    Raises:
        RunFolderError: the bundle changed meanwhile, or the disk refuses.
        UsageError: no such key.
    """
    record_of(bundle, found).write(target)
    signature_path(target).unlink(missing_ok=True)  # of the record that was replaced
    if key is not None:
        sign(target, key)


@contextmanager
def opened(path: Path) -> Iterator[RunFolder]:
    """A run folder, or a bundle unpacked for as long as the context lasts."""
    if path.is_dir():
        yield RunFolder.open(path)
        return
    with read_bundle(path) as folder:
        yield folder


def workers_for(asked: int | None, chains: int) -> int:
    """Processes to use for so many chains: as asked, or one per core."""
    if asked is not None:
        return asked
    return min(usable_cores(), chains) if chains > 1 else 0
