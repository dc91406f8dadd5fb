"""One recorded chain, simulated again from its actions and compared with its record.

Runs in the caller's process or in a worker of `WorkerPool`; never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from calvin_eval.errors import (
    AssetError,
    InvalidActionError,
    RunFolderError,
    UnknownNameError,
)
from calvin_eval.protocol import Protocol
from calvin_eval.results.actions import decode_actions
from calvin_eval.results.archive import check_actions_file
from calvin_eval.results.schema import ChainRecord, StartState, SubtaskRecord
from calvin_eval.results.verification import ChainCheck, Deviation
from calvin_eval.rollouts.chain import Simulator, given_start
from calvin_eval.rollouts.replay import Step, replay
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A record and all that it is checked against.

    Attributes:
        record: what is claimed.
        chain: what was asked, with the state that it starts from.
        instructions: the sentences that the policy was to be given; None if they are not known.
        actions: the content of the file of its actions; None if there is none.
    """

    record: ChainRecord
    chain: Chain
    instructions: Sequence[str] | None
    actions: bytes | None


@dataclass(frozen=True, kw_only=True)
class ReplaySetup:
    """What a process needs before the first chain."""

    simulator: SimulatorSpec
    rules: Protocol


class Replayer:
    """Simulates recorded chains in one simulator.

    Args:
        env: the simulator; nothing is drawn.
        oracle: judges the subtasks.
        rules: of the run; only budget and resets matter.
    """

    def __init__(self, env: Simulator, oracle: TaskOracle, rules: Protocol) -> None:
        self._env = env
        self._oracle = oracle
        self._rules = rules
        self._steps = 0

    @classmethod
    def build(cls, setup: ReplaySetup) -> Replayer:
        """Make one with a new simulator."""
        pack = load_pack(setup.simulator.assets, verify=False)
        return cls(setup.simulator.build(), TaskOracle(pack), setup.rules)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def answer(self, evidence: Evidence) -> ChainCheck:
        """Check a completed chain against its actions.

        Raises:
            AssetError: the simulator cannot run any chain.
        """
        record = evidence.record
        self._steps = 0
        try:
            deviations = tuple(self._deviations(evidence))
        except AssetError:
            raise
        except (RunFolderError, UnknownNameError) as error:
            deviations = (Deviation(what="record", expected="sound", found=str(error)),)
        except Exception as error:
            reason = f"it could not be simulated: {type(error).__name__}: {error}"
            return ChainCheck(chain=record.chain, status="unchecked", reason=reason)
        return ChainCheck(
            chain=record.chain,
            status="deviates" if deviations else "verified",
            deviations=deviations,
            steps=self._steps,
        )

    def _deviations(self, evidence: Evidence) -> Iterator[Deviation]:
        """All deviations of the first subtask that has any, after those of the whole chain."""
        record = evidence.record
        asked = list(differences_in_question(evidence))
        if asked:
            yield from asked
            return
        where = f"actions of chain {record.chain}"
        if evidence.actions is None:
            steps = sum(subtask.steps for subtask in record.subtasks)
            yield Deviation(what=where, expected="none: there is no file", found=f"{steps} steps")
            return
        check_actions_file(evidence.actions, where)
        actions = decode_actions(evidence.actions, where)
        if extra := sorted(set(actions) - set(range(len(record.subtasks)))):
            yield Deviation(
                what="subtasks", expected=f"{max(extra) + 1}, as many as have actions",
                found=f"{len(record.subtasks)}",
            )  # fmt: skip
        subtasks = [actions.get(position, ()) for position in range(len(record.subtasks))]
        chain = replay(self._env, evidence.chain, subtasks, self._rules, self._oracle)
        for position, states in groupby(chain, key=lambda step: step.position):
            found = list(self._subtask(record.subtasks[position], len(subtasks[position]), states))
            if found:
                yield from found
                return

    def _subtask(
        self, subtask: SubtaskRecord, count: int, states: Iterator[Step]
    ) -> Iterator[Deviation]:
        """All deviations of a subtask with so many stored actions."""
        begin = next(states)
        position = begin.position
        yield from self._against_budget(position, subtask)
        if count != subtask.steps:
            yield Deviation(
                what="stored actions", position=position, step=min(count, subtask.steps) + 1,
                expected=f"{count}, as many as there are", found=f"{subtask.steps} steps",
            )  # fmt: skip
        if self._rules.budget == "env_steps" and count > self._rules.steps:
            return  # who knows how many there are
        end, error = self._take(begin, states)
        if error is not None:
            yield Deviation(
                what="action", position=position, step=end.step + 1,
                expected="one that the simulator accepts", found=str(error),
            )  # fmt: skip
            return
        done = end.step if end.step and end.success else None
        if (subtask.success, subtask.steps if subtask.success else None) != (bool(done), done):
            yield Deviation(
                what="verdict", position=position, step=done or count,
                expected=f"success at step {done}" if done else f"no success in {count} steps",
                found=f"success at step {subtask.steps}" if subtask.success
                else f"failure after {subtask.steps} steps",
            )  # fmt: skip
        if (state := end.state_hash()) != subtask.state_hash:
            yield Deviation(
                what="hash of the state", position=position, step=end.step,
                expected=state, found=subtask.state_hash,
            )  # fmt: skip

    def _take(self, begin: Step, states: Iterator[Step]) -> tuple[Step, InvalidActionError | None]:
        """The step of the first success, else the last one; and the action that none is."""
        end = begin
        try:
            for end in states:
                self._steps += 1
                if end.success:
                    break
        except InvalidActionError as error:
            return end, error
        return end, None

    def _against_budget(self, position: int, subtask: SubtaskRecord) -> Iterator[Deviation]:
        """Every decision takes a step or more, so a failure has at least as many as the budget."""
        budget, steps = self._rules.steps, subtask.steps
        by_steps = self._rules.budget == "env_steps"
        if by_steps and steps > budget:
            expected = f"at most {budget} steps"
        elif not subtask.success and steps < budget:
            expected = f"{budget} steps in a failed subtask" + ("" if by_steps else ", or more")
        else:
            return
        yield Deviation(
            what="budget", position=position, step=min(steps, budget) + 1,
            expected=expected, found=f"{steps} steps",
        )  # fmt: skip


def differences_in_question(evidence: Evidence) -> Iterator[Deviation]:
    """Whether the chain was asked as its list and the instructions have it."""
    record, chain = evidence.record, evidence.chain
    # As texts: the order of the state's values decides where the blocks are, and 1 is not True.
    expected, found = _as_text(chain.initial_state), _as_text(record.initial_state)
    if expected != found:
        yield Deviation(what="initial state", expected=expected, found=found)
    if (state := given_start(chain)) != record.start:
        yield Deviation(what="start state", expected=_brief(state), found=_brief(record.start))
    if chain.tasks != record.tasks:
        yield Deviation(
            what="tasks", expected=", ".join(chain.tasks), found=", ".join(record.tasks)
        )
    if evidence.instructions is None:
        return
    both = zip(evidence.instructions, record.subtasks, strict=True)
    for position, (sentence, subtask) in enumerate(both):
        if sentence != subtask.instruction:
            yield Deviation(
                what="instruction", position=position, expected=sentence, found=subtask.instruction
            )


def _brief(state: StartState | None) -> str:
    if state is None:
        return "that of the symbolic state"
    return f"robot_obs {list(state.robot_obs)} and scene_obs {list(state.scene_obs)}"


def _as_text(state: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in state.items())
