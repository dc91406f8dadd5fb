"""A run's failures, each with its cause: all chains simulated again, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.diagnosis import DIAGNOSIS, Diagnosis, Undiagnosed, records_digest
from calvin_eval.results.illustrations import Illustration
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.diagnosis.worker import Diagnoser, DiagnosisSetup, Found, Job
from calvin_eval.rollouts.pool import WorkerPool
from calvin_eval.rollouts.verify.inputs import ReplayInputs, Sources, find_inputs

Watch = Callable[[int], None]
Show = Callable[[Illustration], None]


def diagnose_run(
    folder: RunFolder,
    *,
    sources: Sources | None = None,
    workers: int = 0,
    expert: bool = True,
    watch: Watch = lambda chain: None,
    show: Show | None = None,
) -> Diagnosis:
    """Simulate every recorded chain of a run again and find why its failures failed.

    Args:
        folder: the run, its own or unpacked from a bundle.
        sources: assets and chain list, where the header's names are not enough.
        workers: simulator processes; 0 simulates in this one.
        expert: whether the expert tries from where every failure began, and where it ended.
        watch: called with the id of every chain that is done, in that order.
        show: called with the pictures of every failure, in the same order; without it nothing is
            drawn.

    Raises:
        UsageError: a source is not the one that the run used, or no chain can be simulated here.
        RunFolderError: the run's header or journal is damaged.
    """
    inputs = find_inputs(folder.header(), sources or Sources())
    replay = inputs.simulated()
    records = folder.records()
    results: dict[int, Found] = {}

    def done(chain: int, found: Found) -> None:
        if show is not None and found.illustration is not None:
            show(found.illustration)
        results[chain] = replace(found, illustration=None)
        watch(chain)

    setup = DiagnosisSetup(replay=replay, expert=expert, pictures=show is not None)
    pool = WorkerPool(Diagnoser, setup, workers, _died)
    for job, found in pool.run(_jobs(folder, inputs, records, done)):
        done(job.record.chain, found)
    return _gather(records, results)


def write_diagnosis(folder: RunFolder, diagnosis: Diagnosis) -> None:
    """Write `diagnosis.json` into a run's folder; raises RunFolderError if the disk refuses."""
    folder.write_json(DIAGNOSIS, diagnosis.to_json())


def _jobs(
    folder: RunFolder,
    inputs: ReplayInputs,
    records: Sequence[ChainRecord],
    done: Callable[[int, Found], None],
) -> Iterator[Job]:
    """What is known of each chain, read when its turn comes."""
    for record in records:
        try:
            if (unchecked := inputs.unchecked(record)) is not None:
                raise UsageError(str(unchecked.reason))
            chain, actions = inputs.chain(record), folder.read_actions(record.chain)
        except (UsageError, RunFolderError) as error:
            reason = str(error).replace(str(folder.path), "the run")
            done(record.chain, Found(undiagnosed=Undiagnosed(chain=record.chain, reason=reason)))
            continue
        yield Job(record=record, chain=chain, actions=actions)


def _died(job: Job, how: str) -> Found:
    reason = f"the process that simulated it died: {how}"
    return Found(undiagnosed=Undiagnosed(chain=job.record.chain, reason=reason))


def _gather(records: Sequence[ChainRecord], results: dict[int, Found]) -> Diagnosis:
    """All of them, in order of the chains, whichever was done first."""
    looked = [r for r in records if results[r.chain].undiagnosed is None]
    found = [results[record.chain] for record in records]
    instructions: dict[str, str] = {}
    for record in records:
        for subtask in record.subtasks:
            instructions.setdefault(subtask.task, subtask.instruction)
    return Diagnosis(
        records_sha256=records_digest(records),
        instructions=dict(sorted(instructions.items())),
        lengths={str(record.chain): record.length for record in looked},
        most=max((len(record.tasks) for record in records), default=0),
        failures=tuple(one.failure for one in found if one.failure is not None),
        side_effects=tuple(effect for one in found for effect in one.side_effects),
        undiagnosed=tuple(one.undiagnosed for one in found if one.undiagnosed is not None),
    )
