"""A simulator process: runs the chains it is given, one after another. Never imports torch."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from calvin_eval.errors import CalvinEvalError
from calvin_eval.protocol import Protocol
from calvin_eval.rollouts import plain_messages
from calvin_eval.rollouts.chain import ChainOutcome, ChainRunner, Simulator
from calvin_eval.rollouts.here import PolicyHere
from calvin_eval.rollouts.policy_errors import PolicyLostError
from calvin_eval.rollouts.service import PolicySpec, SocketPolicy
from calvin_eval.rollouts.sessions import LinkedPolicy
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import CameraSpec, load_pack
from calvin_eval.sim.render import RenderInfo
from calvin_eval.wrappers.policy import BasePolicy, Requirements

REPORT_SECONDS = 0.25
"""How often a worker reports progress."""


@dataclass(frozen=True, kw_only=True)
class SimulatorSpec:
    """A simulator that any process can build.

    Attributes:
        backend: `calvin_eval` or `calvin_env`.
        assets: the pack, which the caller has verified.
        cameras: what the policy looks through.
    """

    backend: str
    assets: str
    scene: str
    revision: str
    render: RenderInfo
    cameras: tuple[str | CameraSpec, ...]
    deterministic: bool = True

    def build(self) -> Simulator:
        """The simulator, in this process."""
        pack = load_pack(self.assets, verify=False)
        if self.backend == "calvin_env":
            from calvin_eval.sim.upstream import UpstreamEnv

            return UpstreamEnv(
                self.scene,
                assets=pack,
                revision=self.revision,  # type: ignore[arg-type]
                render=self.render.backend,
                cameras=self.cameras,
                deterministic=self.deterministic,
            )
        from calvin_eval.sim.env import PlayTableEnv
        from calvin_eval.sim.world import World

        world = World(pack, self.scene, self.revision)  # type: ignore[arg-type]
        return PlayTableEnv(world, render=self.render, cameras=self.cameras)


@dataclass(frozen=True, kw_only=True)
class PolicyLink:
    """Where a worker finds the policy: at an address, by loading it into its own process, or here.

    Only policies that cost nothing and import nothing heavy are loaded into workers.

    Attributes:
        confined: whether a stranger's code answers at the address, which is believed nothing.
        here: the policy itself, where the worker is in the process that loaded it.
        seed: of the global random generators, for a policy that is here.
    """

    requirements: Requirements
    address: str | None = None
    confined: bool = False
    inline: PolicySpec | None = None
    here: BasePolicy | None = None
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What a worker does until its next assignment."""

    simulator: SimulatorSpec
    policy: PolicyLink
    instructions: InstructionSet
    rules: Protocol


@dataclass(frozen=True, kw_only=True)
class RunChain:
    """One chain to run."""

    chain: Chain


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """The worker is ready for chains."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Steps since the last report, and where in the chain they were taken."""

    position: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A chain came to its end.

    Attributes:
        steps: that no progress report has counted.
        inference: seconds that the policy itself took, of all that was waited for it.
    """

    outcome: ChainOutcome
    steps: int
    inference: float


@dataclass(frozen=True, kw_only=True)
class ChainLost:
    """The chain could not be finished, by no fault of the policy's code."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The simulator cannot run any chain."""

    error: CalvinEvalError


class ChainWorker:
    """The worker's side of its line to the supervisor."""

    def __init__(self, line: Connection[Any, Any]) -> None:
        self._line = line
        self._env: Simulator | None = None
        self._spec: SimulatorSpec | None = None
        self._policy: BasePolicy | None = None
        self._runner: ChainRunner | None = None
        self._serial = 0
        self._steps = 0
        self._reported = time.monotonic()

    def run(self) -> None:
        """Answer messages until the line is closed; every answer carries its message's number."""
        while True:
            try:
                self._serial, message = self._line.recv()
            except EOFError:
                break
            if isinstance(message, Assignment):
                answer = self._guarded(self._assign, message)
            else:
                answer = self._guarded(self._finish, message.chain)
            self._line.send((self._serial, answer))
        if self._env is not None:
            self._env.close()

    def _guarded(self, work: Any, argument: Any) -> Any:
        try:
            return work(argument)
        except PolicyLostError as error:
            return ChainLost(reason=str(error))
        except CalvinEvalError as error:
            return Broken(error=error)
        except Exception:
            return ChainLost(reason=traceback.format_exc())

    def _assign(self, assignment: Assignment) -> Assigned:
        if assignment.simulator != self._spec:
            if self._env is not None:
                self._env.close()
            self._env = assignment.simulator.build()
            self._spec = assignment.simulator
        assert self._env is not None
        self._policy = connect(assignment.policy)
        self._runner = ChainRunner(
            self._env,
            TaskOracle(load_pack(assignment.simulator.assets, verify=False)),
            self._policy,
            instructions=assignment.instructions,
            rules=assignment.rules,
            on_step=self._on_step,
        )
        return Assigned()

    def _finish(self, chain: Chain) -> Finished:
        assert self._runner is not None
        before = self._inference_seconds()
        outcome = self._runner.run(chain)
        inference = self._inference_seconds() - before
        steps, self._steps = self._steps, 0
        return Finished(outcome=outcome, steps=steps, inference=inference)

    def _inference_seconds(self) -> float:
        """What a policy in another process took so far; 0 for one in this process."""
        policy = self._policy
        return policy.inference_seconds if isinstance(policy, LinkedPolicy) else 0.0

    def _on_step(self, position: int) -> None:
        self._steps += 1
        now = time.monotonic()
        if now - self._reported >= REPORT_SECONDS:
            progress = Progress(position=position, steps=self._steps)
            self._line.send((self._serial, progress))
            self._steps, self._reported = 0, now


def connect_socket(link: PolicyLink, patience: float | None = None) -> SocketPolicy:
    """The policy at a link that has an address.

    Args:
        link: where it is.
        patience: seconds that an answer may take; any number if None.
    """
    assert link.address is not None
    receive = plain_messages.receive if link.confined else None
    return SocketPolicy(link.address, link.requirements, patience, receive)


def connect(link: PolicyLink) -> BasePolicy:
    """The policy at a link, as the chain loop sees it."""
    if link.address is not None:
        return connect_socket(link)
    if link.here is not None:
        return PolicyHere(link.here, link.seed)
    assert link.inline is not None
    policy: BasePolicy = link.inline.load().policy
    return policy


def worker_environment(workers: int) -> Mapping[str, str]:
    """Variables for a worker: with several of them, one thread each draws the most frames."""
    return {} if workers == 1 else {"LP_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    """Serve the parent that started this process."""
    from calvin_eval.rollouts.processes import join_parent

    ChainWorker(join_parent()).run()
