"""A run's claims, checked without its policy: every stored action is simulated again.

Nothing of the run is believed that can be computed: which pack, chains, instructions and rules the
header names decides what is simulated, but only under hashes of things that are available here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.archive import MAX_ACTIONS_BYTES
from calvin_eval.results.header import Header
from calvin_eval.results.ledger import Claim
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.verification import (
    UNCOMPUTED,
    ChainCheck,
    Deviation,
    Verification,
    recheck_derived,
)
from calvin_eval.rollouts.pool import WorkerPool
from calvin_eval.rollouts.verify.agreement import disagreeing_profile, disagreements
from calvin_eval.rollouts.verify.inputs import ReplayInputs, Sources, find_inputs
from calvin_eval.rollouts.verify.replaying import Evidence, Replayer

Watch = Callable[[ChainCheck], None]


def verify_run(
    folder: RunFolder,
    *,
    chains: Collection[int] | None = None,
    sources: Sources | None = None,
    workers: int = 0,
    watch: Watch = lambda check: None,
) -> Verification:
    """Simulate chains of a run again and compare everything with their records.

    Args:
        folder: the run, its own or unpacked from a bundle.
        chains: ids to look at; all recorded chains if None. The run's summary and verdict are
            looked at in any case.
        sources: assets, chain list and instructions, where the header's names are not enough.
        workers: simulator processes; 0 simulates in this one.
        watch: called with every chain, in the order in which they are done.

    Raises:
        UsageError: a chain has no record, or a source is not the one that the run used.
        RunFolderError: the header lacks what the simulation needs.
    """
    header = folder.header()
    inputs = find_inputs(header, sources or Sources())
    records: list[ChainRecord] = []
    checks: list[ChainCheck] = []
    try:
        records = folder.records()
    except RunFolderError as error:
        deviations = [Deviation(what="journal", expected="whole records", found=str(error))]
    else:
        deviations = list(_of_the_run(folder, header, inputs, records))
        checks = _check_all(folder, inputs, _choose(records, chains), workers, watch)
    return Verification(
        recorded=len(records), planned=len(inputs.planned), chains=tuple(checks),
        deviations=tuple(deviations), notes=tuple(inputs.notes), claim=_claim(header, records),
        missing=inputs.missing,
    )  # fmt: skip


def _claim(header: Header, records: Sequence[ChainRecord]) -> Claim | None:
    """The run's score; that there is none is a deviation already."""
    try:
        return Claim.of(header, records)
    except RunFolderError:
        return None


def _check_all(
    folder: RunFolder,
    inputs: ReplayInputs,
    records: Sequence[ChainRecord],
    workers: int,
    watch: Watch,
) -> list[ChainCheck]:
    """What becomes of each chain, in order of their ids."""
    checks: list[ChainCheck] = []

    def done(check: ChainCheck) -> None:
        checks.append(check)
        watch(check)

    pool = WorkerPool(Replayer.build, inputs.setup, workers, _not_simulated)
    for _, check in pool.run(_gather(folder, inputs, records, done)):
        done(check)
    return sorted(checks, key=lambda check: check.chain)


def _choose(records: Sequence[ChainRecord], chains: Collection[int] | None) -> list[ChainRecord]:
    if chains is None:
        return list(records)
    known = {record.chain: record for record in records}
    if missing := sorted(set(chains) - set(known)):
        raise UsageError(
            f"expected chains that the run has a record of, found {', '.join(map(str, missing))}; "
            f"it has {len(known)} of them"
        )
    return [known[chain] for chain in sorted(set(chains))]


def _of_the_run(
    folder: RunFolder, header: Header, inputs: ReplayInputs, records: Sequence[ChainRecord]
) -> Iterator[Deviation]:
    """What deviates of the run as a whole; what cannot be checked of it goes to the notes."""
    yield from inputs.deviations
    yield from disagreements(header)
    yield from disagreeing_profile(folder, header)
    if strange := [r.chain for r in records if r.chain not in inputs.planned]:
        yield Deviation(
            what="chains with a record", expected="planned ones only",
            found=", ".join(map(str, strange[:10])),
        )  # fmt: skip
    yield from recheck_derived(folder)
    if folder.status != "finished" and not (folder.path / "summary.json").exists():
        inputs.notes.append("any summary: the run is not over; complete it by --resume")
    if beside := sorted({p.name for glob in UNCOMPUTED for p in folder.path.glob(glob)}):
        inputs.notes.append(f"{', '.join(beside[:5])}: `calvin-eval report` makes reports anew")


def _gather(
    folder: RunFolder, inputs: ReplayInputs, records: Sequence[ChainRecord], done: Watch
) -> Iterator[Evidence]:
    """What is known of each chain, read when its turn comes; what needs no simulation is done."""
    for record in records:
        if (unchecked := inputs.unchecked(record)) is not None:
            done(unchecked)
            continue
        try:
            chain = inputs.chain(record)
            sentences = inputs.sentences(record, chain)
            actions = _read_actions(folder, record.chain)
        except (UsageError, RunFolderError) as error:
            deviation = Deviation(what="record", expected="sound", found=str(error))
            done(ChainCheck(chain=record.chain, status="deviates", deviations=(deviation,)))
            continue
        yield Evidence(record=record, chain=chain, instructions=sentences, actions=actions)


def _read_actions(folder: RunFolder, chain: int) -> bytes | None:
    path = folder.actions_path(chain)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_ACTIONS_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"cannot read {path}: {error}") from error
    if len(data) > MAX_ACTIONS_BYTES:
        raise RunFolderError(f"expected at most {MAX_ACTIONS_BYTES} bytes in {path}, found more")
    return data


def _not_simulated(evidence: Evidence, how: str) -> ChainCheck:
    """The result of a chain whose process died."""
    reason = f"the process that simulated it died: {how}"
    return ChainCheck(chain=evidence.record.chain, status="unchecked", reason=reason)
