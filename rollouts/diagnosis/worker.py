"""One chain, simulated again and looked at, in any process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import numpy as np

from calvin_eval.errors import AssetError
from calvin_eval.results.diagnosis import Attempt, Failure, SideEffect, Undiagnosed
from calvin_eval.results.illustrations import Illustration
from calvin_eval.results.schema import ChainRecord
from calvin_eval.rollouts.diagnosis.attempts import Asked, try_expert
from calvin_eval.rollouts.diagnosis.causes import find_cause
from calvin_eval.rollouts.diagnosis.habits import DIGITS, find_habits
from calvin_eval.rollouts.diagnosis.illustrating import SIDE, illustrate
from calvin_eval.rollouts.diagnosis.watching import TABLE, Trace, watch
from calvin_eval.rollouts.replay import Actions, Step, replay, replay_record
from calvin_eval.rollouts.verify.replaying import ReplaySetup
from calvin_eval.rollouts.video.square import look, square
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack

_POINTS: Final = 30  # of a progress curve


@dataclass(frozen=True, kw_only=True)
class Job:
    """A chain to look at.

    Attributes:
        record: what it led to.
        chain: what was asked, with the state that it starts from.
        actions: by position.
    """

    record: ChainRecord
    chain: Chain
    actions: Mapping[int, Actions]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was seen of a chain.

    Attributes:
        failure: its failed subtask, if it has one.
        side_effects: of those that succeeded.
        undiagnosed: why it could not be looked at; None if it was.
        illustration: of the failure, if pictures are wanted.
    """

    failure: Failure | None = None
    side_effects: tuple[SideEffect, ...] = ()
    undiagnosed: Undiagnosed | None = None
    illustration: Illustration | None = None


@dataclass(frozen=True, kw_only=True)
class DiagnosisSetup:
    """What a process needs before the first chain.

    Attributes:
        replay: the run's simulator and rules.
        expert: whether the expert tries from where failures began and ended.
        pictures: whether failures are drawn; changes nothing else.
    """

    replay: ReplaySetup
    expert: bool = True
    pictures: bool = False


class Diagnoser:
    """Looks at recorded chains in one simulator; a worker of `WorkerPool`.

    Args:
        setup: the run's simulator and rules, and what is looked at.
    """

    def __init__(self, setup: DiagnosisSetup) -> None:
        simulator = setup.replay.simulator
        pack = load_pack(simulator.assets, verify=False)
        env = (square(simulator, SIDE) if setup.pictures else simulator).build()
        assert isinstance(env, PlayTableEnv)  # `find_inputs` asks for no other
        self._env, self._oracle, self._rules = env, TaskOracle(pack), setup.replay.rules
        self._expert, self._pictures = setup.expert, setup.pictures

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def answer(self, job: Job) -> Found:
        """Look at a completed chain.

        Raises:
            AssetError: the simulator cannot run any chain.
        """
        try:
            return self._look(job)
        except AssetError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            return Found(undiagnosed=Undiagnosed(chain=job.record.chain, reason=reason))

    def _look(self, job: Job) -> Found:
        record = job.record
        effects: list[SideEffect] = []
        failed = None
        for position, states in groupby(self._steps(job), key=lambda step: step.position):
            if record.subtasks[position].success:
                effects += _side_effects(record.chain, states)
                continue
            trace = watch(self._env.world, states)
            failed = self._describe(record, position, trace), trace
        if failed is None:
            return Found(side_effects=tuple(effects))
        failure, trace = failed
        if self._expert:
            failure = self._try_expert(job, failure, trace)
        return Found(
            failure=failure, side_effects=tuple(effects),
            illustration=self._illustrate(job, failure, trace) if self._pictures else None,
        )  # fmt: skip

    def _steps(self, job: Job) -> Iterator[Step]:
        return replay_record(
            self._env, job.chain, job.record, job.actions, self._rules, self._oracle
        )

    def _illustrate(self, job: Job, failure: Failure, trace: Trace) -> Illustration:
        """Draw a failure; the expert, who tried from where it began, has just ended."""
        tried = failure.from_begin is not None and failure.obstacle is None
        expert = look(self._env, SIDE) if tried else None
        return illustrate(self._env.world, self._steps(job), failure, trace, expert)

    def _try_expert(self, job: Job, failure: Failure, trace: Trace) -> Failure:
        """Ask the expert where the simulator is now, and where the subtask began."""
        if trace.meter.obstacle is not None:
            hopeless = Attempt(solved=False, steps=0, path=0.0, problem=trace.meter.obstacle)
            return replace(failure, from_begin=hopeless, from_end=hopeless)
        asked = Asked(task=failure.task, start_info=trace.start_info, steps=self._rules.steps)
        from_end = try_expert(self._env, self._oracle, asked)
        before = [job.actions.get(position, ()) for position in range(failure.position)]
        *_, begin = replay(self._env, job.chain, [*before, ()], self._rules, self._oracle)
        asked = Asked(
            task=failure.task, start_info=begin.attempt.start_info, steps=self._rules.steps
        )
        from_begin = try_expert(self._env, self._oracle, asked)
        return replace(failure, from_begin=from_begin, from_end=from_end)

    def _describe(self, record: ChainRecord, position: int, trace: Trace) -> Failure:
        subtask = record.subtasks[position]
        cause, why = find_cause(trace)
        touched = sorted(frozenset().union(*trace.touched) - {TABLE})
        nearest, best = int(trace.distance.argmin()), int(trace.progress.argmax())
        return Failure(
            chain=record.chain, position=position, task=subtask.task,
            instruction=subtask.instruction, steps=subtask.steps,
            cause=cause, why=why, obstacle=trace.meter.obstacle,
            target=trace.meter.objects, touched=tuple(touched),
            grasped=tuple(name for name in self._env.world.blocks if trace.grasps(name)),
            closest=_rounded(trace.distance[nearest]), closest_step=nearest,
            progress_end=_rounded(trace.progress[-1]), progress_best=_rounded(trace.progress[best]),
            best_step=best, curve=_curve(trace),
            achieved=tuple(one for one in trace.achieved if one.task != subtask.task),
            habits=find_habits(trace, self._env.world.pack.robot),
        )  # fmt: skip


def _side_effects(chain: int, states: Iterator[Step]) -> Iterator[SideEffect]:
    for step in states:
        if step.last and step.task is not None:
            also = step.achieved() - {step.task}
            if also:
                yield SideEffect(
                    chain=chain, position=step.position, task=step.task, also=tuple(sorted(also))
                )


def _curve(trace: Trace) -> tuple[float, ...]:
    steps = np.unique(
        np.linspace(0, trace.steps, min(_POINTS, trace.steps + 1)).round().astype(int)
    )
    return tuple(_rounded(trace.progress[i]) for i in steps)


def _rounded(number: float) -> float:
    return round(float(number), DIGITS) + 0.0  # never -0.0
