"""Films of failures: the policy, and beside it the expert from where the subtask began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from calvin_eval.errors import AssetError
from calvin_eval.results.diagnosis import Failure
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.diagnosis.attempts import Asked, go_on
from calvin_eval.rollouts.diagnosis.worker import Job
from calvin_eval.rollouts.pool import WorkerPool
from calvin_eval.rollouts.replay import replay, replay_record
from calvin_eval.rollouts.verify.inputs import Sources, find_inputs
from calvin_eval.rollouts.verify.replaying import ReplaySetup
from calvin_eval.rollouts.video.beside import SIDE, Shot, Side, film_beside, recorded_shots
from calvin_eval.rollouts.video.films import FOLDER, caption_of, step_budget
from calvin_eval.rollouts.video.square import look, square
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack


@dataclass(frozen=True, kw_only=True)
class ExpertFilmJob:
    """A film to make.

    Attributes:
        job: the chain.
        failure: of its last subtask.
        target: the file.
    """

    job: Job
    failure: Failure
    target: Path


class ExpertFilmer:
    """Films failures beside what the expert does; a worker of `WorkerPool`.

    Args:
        setup: the run's simulator and rules.
    """

    def __init__(self, setup: ReplaySetup) -> None:
        simulator = square(setup.simulator, SIDE)
        policy, expert = simulator.build(), simulator.build()
        assert isinstance(policy, PlayTableEnv)
        assert isinstance(expert, PlayTableEnv)
        self._policy, self._expert, self._rules = policy, expert, setup.rules
        self._oracle = TaskOracle(load_pack(simulator.assets, verify=False))

    def close(self) -> None:
        """Free the simulators."""
        self._policy.close()
        self._expert.close()

    def answer(self, wanted: ExpertFilmJob) -> str:
        """Make a film; returns why there is none, or nothing if there is.

        Raises:
            AssetError: the simulator cannot run any chain.
        """
        job, position = wanted.job, wanted.failure.position
        steps = replay_record(self._policy, job.chain, job.record, job.actions, self._rules)
        shots = recorded_shots(steps, job.record, step_budget(self._rules), first=position)
        sides = (
            Side(label="policy", shots=shots),
            Side(label="expert", shots=self._expert_shots(wanted)),
        )
        try:
            film_beside(wanted.target, sides)
        except AssetError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _expert_shots(self, wanted: ExpertFilmJob) -> Iterator[Shot]:
        """The expert's attempt, from the state in which the subtask began."""
        job, position, env = wanted.job, wanted.failure.position, self._expert
        caption = caption_of(job.record, position, step_budget(self._rules))
        before = [job.actions.get(at, ()) for at in range(position)]
        *_, begin = replay(env, job.chain, [*before, ()], self._rules, self._oracle)
        asked = Asked(
            task=wanted.failure.task, start_info=begin.attempt.start_info, steps=self._rules.steps
        )
        shot = Shot(image=look(env, SIDE), caption=caption, step=0)
        for attempt in go_on(env, self._oracle, asked):
            yield shot
            verdict = "success" if attempt.solved else "failed"
            over = attempt.solved or attempt.problem or attempt.steps == asked.steps
            shot = Shot(
                image=look(env, SIDE), caption=caption, step=attempt.steps,
                verdict=verdict if over else None,  # type: ignore[arg-type]
            )  # fmt: skip
        yield shot


def film_failures(
    folder: RunFolder,
    failures: Sequence[Failure],
    *,
    sources: Sources | None = None,
    workers: int = 0,
) -> tuple[dict[int, str], dict[int, str]]:
    """Film failures into the run's `videos`, side by side with the expert.

    Args:
        folder: the run.
        failures: of it.
        sources: assets and chain list, where the header's names are not enough.
        workers: processes; 0 films in this one.

    Returns:
        By chain the path of its film, relative to the run's folder; and by chain, why there is
        none.

    Raises:
        UsageError: a source is not the one that the run used, or no chain can be simulated here.
        RunFolderError: the run is damaged.
    """
    inputs = find_inputs(folder.header(), sources or Sources())
    setup = inputs.simulated()
    records = {record.chain: record for record in folder.records()}
    jobs = []
    for failure in failures:
        record = records[failure.chain]
        actions = folder.read_actions(failure.chain)
        job = Job(record=record, chain=inputs.chain(record), actions=actions)
        target = folder.path / FOLDER / f"expert_chain{failure.chain:04d}.mp4"
        jobs.append(ExpertFilmJob(job=job, failure=failure, target=target))
    made: dict[int, str] = {}
    lost: dict[int, str] = {}
    pool: WorkerPool[ExpertFilmJob, str] = WorkerPool(ExpertFilmer, setup, workers, _died)
    for wanted, reason in pool.run(jobs):
        if reason:
            lost[wanted.failure.chain] = reason
        else:
            made[wanted.failure.chain] = f"{FOLDER}/{wanted.target.name}"
    return made, lost


def _died(job: ExpertFilmJob, how: str) -> str:
    return f"the process that filmed it died: {how}"
