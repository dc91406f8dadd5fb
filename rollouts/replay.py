"""Recorded chains, simulated again from their actions.

The stored actions are the executed ones, in their order: what was kept of an earlier chunk, and
what was done while a policy thought, is among them. So a replay needs no policy and no clock; of
the run's rules only the world resets matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from numpy.typing import NDArray

from calvin_eval.errors import CalvinEvalError, UsageError
from calvin_eval.protocol import Protocol
from calvin_eval.results.schema import ChainRecord
from calvin_eval.rollouts.chain import Simulator, begin, restore
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.hashes import state_hash
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.world import Needs
from calvin_eval.wrappers.policy import Action

Actions: TypeAlias = "Sequence[Action] | NDArray[Any]"
"""The actions of one subtask; relative ones also as an array (T, 7)."""


class ReplayError(CalvinEvalError):
    """A chain's stored actions do not lead to its recorded states, on this machine at least."""


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What the steps of one subtask share."""

    env: Simulator
    oracle: TaskOracle | None
    start_info: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A state of a chain that is simulated again.

    Nothing is computed before it is asked for, and all of it is about the simulator as it is now:
    a step is to be looked at before the next one is taken.

    Attributes:
        position: index of the subtask in its chain.
        task: its name; None if the chain names none at this position.
        step: actions of the subtask that were applied so far; 0 is the state that it begins in.
        last: whether the subtask has no more actions.
        action: the one that led here; None at step 0.
        fresh_world: whether the start state, or the robot's alone, was restored for this step.
    """

    position: int
    task: str | None
    step: int
    last: bool
    action: Action | None
    fresh_world: bool
    attempt: _Attempt

    @property
    def success(self) -> bool:
        """Whether the subtask's own task is achieved now, as the live loop asks after a step."""
        return self.task is not None and bool(self.achieved((self.task,)))

    def achieved(self, tasks: Sequence[str] | None = None) -> set[str]:
        """Returns the tasks that were achieved since the subtask began; of all 34 by default.

        Raises:
            UsageError: the replay was made without an oracle.
            UnknownNameError: a name that is not a task.
        """
        oracle = self.attempt.oracle
        if oracle is None:
            raise UsageError("expected a replay with an oracle to judge tasks, found one without")
        info = self.info(None if tasks is None else oracle.needs(tasks))
        return oracle.achieved(self.attempt.start_info, info, tasks)

    def info(self, needs: Needs | None = None) -> Mapping[str, Any]:
        """Returns the info that tasks are judged by, or the part of it that `needs` names."""
        return self.attempt.env.get_info(needs)

    def state(self) -> Mapping[str, Any]:
        """Returns `robot_obs` (15,) and `scene_obs` (24,) float64."""
        return self.attempt.env.get_state_obs()

    def state_hash(self) -> str:
        """Returns the hash of the state, as records have it."""
        return state_hash(self.state())

    def observe(self, *, rgb: Sequence[str] = (), depth: Sequence[str] = ()) -> Mapping[str, Any]:
        """Returns the observation with the named images, if the simulator draws."""
        return self.attempt.env.observe(rgb=rgb, depth=depth)


def replay(
    env: Simulator,
    chain: Chain,
    subtasks: Iterable[Actions],
    rules: Protocol,
    oracle: TaskOracle | None = None,
) -> Iterator[Step]:
    """Simulates recorded actions from a chain's start, state by state.

    Args:
        env: the simulator; closing it is the caller's.
        chain: where the world starts, and what was asked.
        subtasks: for each position from 0, the actions that were executed.
        rules: of the run.
        oracle: judges tasks; needed only where a step is asked what was achieved.

    Yields:
        For every subtask the state that it begins in, and the one after each of its actions.

    Raises:
        InvalidActionError: an action that the simulator does not accept.
        AssetError: the simulator cannot build the world.
    """
    for position, actions in enumerate(subtasks):
        fresh = not position or rules.world_reset != "chain"
        if not position:
            begin(env, chain)
        else:
            restore(env, chain, rules)
        attempt = _Attempt(
            env=env, oracle=oracle, start_info={} if oracle is None else env.get_info()
        )
        for step, action in enumerate((None, *actions)):
            if step:
                env.advance(action)
            yield Step(
                position=position,
                task=chain.tasks[position] if position < len(chain.tasks) else None,
                step=step,
                last=step == len(actions),
                action=action,
                fresh_world=fresh and not step,
                attempt=attempt,
            )


def replay_record(
    env: Simulator,
    chain: Chain,
    record: ChainRecord,
    actions: Mapping[int, Actions],
    rules: Protocol,
    oracle: TaskOracle | None = None,
) -> Iterator[Step]:
    """Simulates a recorded chain and compares the end of every subtask with its record.

    Args:
        env: the simulator; closing it is the caller's.
        chain: what was asked, see `ChainRef.chain`.
        record: what the chain led to. The subtask that an error broke off is simulated, too.
        actions: by position, as `RunFolder.read_actions` gives them.
        rules: of the run.
        oracle: as for `replay`.

    Raises:
        ReplayError: the actions lead elsewhere than the record says; raised in place of the last
            step of the subtask.
    """
    count = len(record.subtasks) + (record.status == "error")
    subtasks = (actions.get(position, ()) for position in range(count))
    for step in replay(env, chain, subtasks, rules, oracle):
        if step.last and step.position < len(record.subtasks):
            _require_recorded(step, record)
        yield step


def _require_recorded(step: Step, record: ChainRecord) -> None:
    """Raises ReplayError unless a subtask ends where its record says."""
    subtask = record.subtasks[step.position]
    where = f"chain {record.chain}, subtask {step.position} ({subtask.task})"
    if step.step != subtask.steps:
        raise ReplayError(
            f"{where}: expected {subtask.steps} stored actions, found {step.step}. The run folder "
            "was changed; run the chain again."
        )
    if (found := step.state_hash()) != subtask.state_hash:
        raise ReplayError(
            f"{where}: expected the stored actions to lead to the recorded state "
            f"{subtask.state_hash[:12]}, found {found[:12]}. Either the actions were changed, or "
            "this machine computes other bits than the run's (see calvin-eval doctor)."
        )
