"""One chain: five subtasks in one world, as the benchmark's protocol has it.

Compare `ChainRunner._run_subtask` with docs/protocol.md#rollout: observe, reset the policy, note
the start, act up to the budget, ask the oracle for this subtask only after every action; a success
moves on in the same world, a failure ends the chain.
"""

from __future__ import annotations

import contextlib
import time
import traceback
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calvin_eval.errors import AssetError, PolicyError, RenderError
from calvin_eval.protocol import OFFICIAL, Protocol
from calvin_eval.results.schema import PRINTED, ChainRecord, StartState, SubtaskRecord
from calvin_eval.rollouts.policy_errors import (
    PolicyLostError,
    RemotePolicyError,
    policy_code,
)
from calvin_eval.rollouts.realtime import Waits, action_queue
from calvin_eval.rollouts.timing import Stopwatch
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.hashes import state_hash
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.shifts.language import instruction_of
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.world import Needs
from calvin_eval.wrappers.policy import Action, Executed, Policy, Request, with_defaults


class Simulator(typing.Protocol):
    """What a chain needs of an environment; both backends have it."""

    def start(
        self, robot_obs: Any = None, scene_obs: Any = None, variant: Variant | None = None
    ) -> None:
        """Build a fresh world in the given state, with what is shifted of it."""

    def place_robot(self, robot_obs: Any) -> None:
        """Put the robot into the given state; the rest of the world stays."""

    def advance(self, action: Any) -> None:
        """Apply one action."""

    def observe(
        self, *, rgb: Sequence[str] = (), depth: Sequence[str] = (), matrices: bool = False
    ) -> dict[str, Any]:
        """The observation with the named images, and the matrices of their cameras."""

    def get_state_obs(self) -> Mapping[str, Any]:
        """`robot_obs` and `scene_obs`."""

    def get_info(self, needs: Needs | None = None) -> dict[str, Any]:
        """The info that tasks are judged by."""

    def close(self) -> None:
        """Free the simulator."""


@dataclass(frozen=True, kw_only=True)
class ChainOutcome:
    """A finished chain and what is kept beside its record.

    Attributes:
        record: the chain's record.
        actions: per subtask, the broken-off one included, the actions that were executed.
        seconds: wall time per part, see `timing.PARTS`.
        waits: per subtask, the broken-off one included, how long its decisions took and what
            was waited; empty if the world waits for the policy.
    """

    record: ChainRecord
    actions: tuple[tuple[Action, ...], ...]
    seconds: Mapping[str, float]
    waits: tuple[Waits, ...] = ()

    def quoting(self, printed: str) -> ChainOutcome:
        """The outcome with what the policy printed last in its error, if there are both."""
        if self.record.error is None or not printed.strip():
            return self
        error = f"{self.record.error.rstrip()}\n\n{PRINTED}\n{printed}"
        return replace(self, record=replace(self.record, error=error))


def begin(env: Simulator, chain: Chain) -> None:
    """Build a fresh world in a chain's start state, with what is shifted of it."""
    if chain.variant is None:
        env.start(chain.robot_obs, chain.scene_obs)
    else:
        env.start(chain.robot_obs, chain.scene_obs, chain.variant)


def restore(env: Simulator, chain: Chain, rules: Protocol) -> None:
    """Bring back what the rules restore between two subtasks: the start state, or the robot's."""
    if rules.world_reset == "subtask":
        begin(env, chain)
    elif rules.world_reset == "robot":
        env.place_robot(chain.robot_obs)


def given_start(chain: Chain) -> StartState | None:
    """What a chain's record says of its start state beside the symbolic one."""
    if not chain.given:
        return None
    return StartState(
        robot_obs=tuple(chain.robot_obs.tolist()), scene_obs=tuple(chain.scene_obs.tolist())
    )


class ChainRunner:
    """Runs chains one after another in one simulator.

    Args:
        env: the simulator.
        oracle: judges the subtasks.
        policy: decides; its session is the chain's id, which ends with the chain.
        instructions: one sentence per chain and subtask.
        rules: the protocol.
        on_step: called after every environment step with the subtask's position.
    """

    def __init__(
        self,
        env: Simulator,
        oracle: TaskOracle,
        policy: Policy,
        *,
        instructions: InstructionSet,
        rules: Protocol = OFFICIAL,
        on_step: Callable[[int], None] = lambda position: None,
    ) -> None:
        self._env = env
        self._oracle = oracle
        self._policy = with_defaults(policy)
        self._instructions = instructions
        self._rules = rules
        self._on_step = on_step
        self._watch = Stopwatch()
        self._queue = action_queue(rules)
        self._frames: list[Mapping[str, Any]] = []
        self._past: deque[Executed] = deque(maxlen=self._policy.requirements.actions)
        self._executed: list[list[Action]] = []

    def run(self, chain: Chain) -> ChainOutcome:
        """Run one chain; an exception of the policy makes an error record, not a failed subtask.

        Raises:
            AssetError, RenderError, PolicyLostError: the chain says nothing, not even an error.
            KeyboardInterrupt: the user's, see `interrupts`.
        """
        self._queue = action_queue(self._rules)
        self._executed = []
        subtasks: list[SubtaskRecord] = []
        error = None
        try:
            with self._session(chain.id):
                self._start(chain)
                for position in range(len(chain.tasks)):
                    subtasks.append(self._run_subtask(chain, position))
                    if not subtasks[-1].success:
                        break
        except (AssetError, RenderError, PolicyLostError):
            raise  # no fault of the policy's: the chain can be run again elsewhere
        except RemotePolicyError as remote:
            error = remote.trace
        except Exception:
            error = traceback.format_exc()
        record = ChainRecord(
            chain=chain.id,
            initial_state=dict(chain.initial_state),
            tasks=chain.tasks,
            subtasks=tuple(subtasks),
            status="completed" if error is None else "error",
            error=error,
            start=given_start(chain),
        )
        return ChainOutcome(
            record=record,
            actions=tuple(map(tuple, self._executed)),
            seconds=self._watch.take(),
            waits=tuple(self._queue.waits),
        )

    @contextlib.contextmanager
    def _session(self, session: int) -> Iterator[None]:
        """End the policy's session behind the body, which may have failed.

        What the end raises is an error of the chain as well, unless the body has raised before.
        """
        try:
            yield
        except Exception:
            with contextlib.suppress(Exception), policy_code():
                self._policy.end(session)
            raise
        with policy_code():
            self._policy.end(session)

    def _start(self, chain: Chain) -> None:
        with self._watch.measure("reset"):
            begin(self._env, chain)

    def _run_subtask(self, chain: Chain, position: int) -> SubtaskRecord:
        started = time.perf_counter()
        task = chain.tasks[position]
        instruction = instruction_of(chain, position, self._instructions)
        fresh = position > 0 and self._rules.world_reset != "chain"
        if fresh:
            with self._watch.measure("reset"):
                restore(self._env, chain, self._rules)
        keep = self._rules.leftover == "keep"
        if not position or self._rules.policy_reset == "subtask":
            with policy_code():
                self._policy.reset(chain.id, instruction)
            self._frames.clear()
            self._past.clear()
        elif fresh:
            self._frames.clear()
        elif not keep and not self._queue.due:
            del self._frames[-1:]  # of this very moment, which the next decision sees anyway
        self._queue.begin_subtask(keep=keep, fresh_world=fresh)
        self._executed.append([])
        steps, success = self._attempt(chain.id, position, task, instruction)
        return SubtaskRecord(
            task=task,
            instruction=instruction,
            success=success,
            steps=steps,
            seconds=time.perf_counter() - started,
            state_hash=state_hash(self._env.get_state_obs()),
        )

    def _attempt(
        self, session: int, position: int, task: str, instruction: str
    ) -> tuple[int, bool]:
        """Act until the oracle is satisfied or the budget is spent: (steps, success)."""
        needs = self._oracle.needs((task,))
        start = self._env.get_info(needs)
        steps = decisions = 0
        by_steps = self._rules.budget == "env_steps"
        while True:
            if by_steps and steps == self._rules.steps:
                return steps, False
            if self._queue.due:
                if not by_steps and decisions == self._rules.steps:
                    return steps, False
                self._decide(session, position, steps, task, instruction)
                decisions += 1
            self._advance(self._queue.next())
            steps += 1
            self._on_step(position)
            with self._watch.measure("judge"):
                done = self._oracle.achieved(start, self._env.get_info(needs), (task,))
            if done:
                return steps, True

    def _advance(self, action: Action) -> None:
        """Execute one action; draw what a policy that wants every frame would otherwise miss."""
        with self._watch.measure("physics"):
            self._env.advance(action)
        self._executed[-1].append(action)
        if self._past.maxlen:
            self._past.append(self._queue.executed(action))
        if self._policy.requirements.every_step and not self._queue.due:
            self._frames.append(self._observe())

    def _observe(self) -> dict[str, Any]:
        requirements = self._policy.requirements
        with self._watch.measure("render"):
            more: dict[str, Any] = {"matrices": True} if requirements.matrices else {}
            return self._env.observe(rgb=requirements.rgb, depth=requirements.depth, **more)

    def _decide(self, session: int, position: int, step: int, task: str, instruction: str) -> None:
        """Ask the policy; its chunk goes into the queue."""
        privileged = self._policy.requirements.privileged
        request = Request(
            session=session,
            instruction=instruction,
            position=position,
            step=step,
            obs=self._observe(),
            info=self._env.get_info() if privileged else None,
            task=task if privileged else None,
            frames=tuple(self._frames),
            executed=tuple(self._past),
        )
        self._frames.clear()
        before = self._watch.seconds["policy"]
        with self._watch.measure("policy"), policy_code():
            chunks = self._policy.act([request])
        if len(chunks) != 1 or not len(chunks[0]):
            raise PolicyError(
                "expected one chunk of at least one action for one request; found "
                f"{len(chunks)} chunks with {[len(chunk) for chunk in chunks]} actions"
            )
        seconds = self._watch.seconds["policy"] - before
        self._queue.answer(chunks[0], seconds, (position, step))
