"""The expert with one known fault each, and what a chain of it looks like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from calvin_eval.protocol import OFFICIAL, Protocol
from calvin_eval.results.diagnosis import Failure
from calvin_eval.rollouts.chain import ChainOutcome, ChainRunner
from calvin_eval.rollouts.diagnosis.worker import Diagnoser, DiagnosisSetup, Found, Job
from calvin_eval.rollouts.verify.replaying import ReplaySetup
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim import TaskOracle, load_chains
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.progress import Meter, make_meter
from calvin_eval.sim.render import resolve_backend
from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements

OPPOSITES = (("open", "close"), ("left", "right"), ("turn_on", "turn_off"))


class Faulty(BasePolicy):
    """The expert; subclasses put the fault in.

    Args:
        env: the simulator that it acts in.
    """

    def __init__(self, env: PlayTableEnv) -> None:
        self.requirements = Requirements(privileged=True)
        self.env = env
        self.expert = ExpertPolicy()

    def reset(self, session: int, instruction: str) -> None:
        self.expert.reset(session, instruction)

    def act(self, requests: Sequence[Request]) -> list[Any]:
        return [self.decide(request) for request in requests]

    def decide(self, request: Request) -> Any:
        """One chunk of the expert's."""
        return self.expert.act([request])[0]


class Opposite(Faulty):
    """Opens instead of closing, and pushes the other way."""

    def decide(self, request: Request) -> Any:
        return super().decide(replace(request, task=opposite(str(request.task))))


class WrongBlock(Faulty):
    """Takes the blue block when asked for the red one."""

    def decide(self, request: Request) -> Any:
        return super().decide(replace(request, task=str(request.task).replace("red", "blue")))


class NeverCloses(Faulty):
    """Keeps the gripper open."""

    def decide(self, request: Request) -> Any:
        chunk = super().decide(request)
        chunk[:, 6] = 1.0
        return chunk


class StopsAt90(Faulty):
    """Stands still when nine tenths are done."""

    def __init__(self, env: PlayTableEnv) -> None:
        super().__init__(env)
        self.meter: Meter | None = None
        self.still: Any = None

    def decide(self, request: Request) -> Any:
        assert request.info is not None
        if request.step == 0:
            self.meter, self.still = (
                make_meter(str(request.task), self.env.world, request.info),
                None,
            )
        assert self.meter is not None
        if self.still is None and self.meter.measure(request.info) >= 0.85:
            self.still = np.zeros((1, 7))
            self.still[0, 6] = request.obs["robot_obs"][14]
        return super().decide(request) if self.still is None else self.still


class LetsGo(Faulty):
    """Opens the hand after some steps, and keeps it open."""

    after = 70

    def decide(self, request: Request) -> Any:
        chunk = super().decide(request)
        if request.step >= self.after:
            chunk[:, 6] = 1.0
        return chunk


class Detour(Faulty):
    """Presses the button first, once."""

    steps = 30

    def __init__(self, env: PlayTableEnv) -> None:
        super().__init__(env)
        self.presser = ExpertPolicy()

    def decide(self, request: Request) -> Any:
        if request.step < self.steps:
            return self.presser.act([replace(request, task="turn_on_led")])[0]
        return super().decide(request)


class Still(Faulty):
    """Does nothing."""

    def decide(self, request: Request) -> Any:
        return np.array([[0.0, 0, 0, 0, 0, 0, 1]])


class Upwards(Faulty):
    """Leaves the table."""

    def decide(self, request: Request) -> Any:
        return np.array([[0.0, 0, 0.5 if request.step < 30 else 0.0, 0, 0, 0, 1]])


class Drifts(Faulty):
    """Asks the hand ever further up and to the right, beyond its reach."""

    def decide(self, request: Request) -> Any:
        return np.array([[1.0, 0, 0.5, 0, 0, 0, 1]])


def opposite(task: str) -> str:
    for one, other in OPPOSITES:
        if one in task:
            return task.replace(one, other)
        if other in task:
            return task.replace(other, one)
    raise ValueError(task)


def starts_with(tasks: Iterable[str], count: int) -> list[Chain]:
    """Official chains cut to their first subtask, so many of every task."""
    wanted = dict.fromkeys(tasks, count)
    found = []
    for chain in load_chains("official"):
        if wanted.get(chain.tasks[0], 0):
            wanted[chain.tasks[0]] -= 1
            found.append(replace(chain, tasks=chain.tasks[:1]))
    return found


def half_open(tasks: Iterable[str], count: int) -> list[Chain]:
    """The same with door and drawer half way, where both directions are free."""
    chains = []
    for chain in starts_with(tasks, count):
        scene = chain.scene_obs.copy()
        scene[:2] = 0.14, 0.11  # metres of slide and drawer
        chains.append(replace(chain, scene_obs=scene))
    return chains


class Bench:
    """Runs a faulty policy in this process and diagnoses what it did.

    Args:
        assets: the pack.
        steps: of a subtask.
        expert: whether the expert tries from where failures began and ended.
    """

    def __init__(
        self, assets: str = "builtin", steps: int = OFFICIAL.steps, *, expert: bool = False
    ) -> None:
        self.pack = load_pack(assets)
        self.rules: Protocol = replace(OFFICIAL, steps=steps)
        self.simulator = SimulatorSpec(
            backend="calvin_eval", assets=self.pack.location, scene="D", revision="pinned",
            render=resolve_backend("none"), cameras=(),
        )  # fmt: skip
        env = self.simulator.build()
        assert isinstance(env, PlayTableEnv)
        self.env = env
        setup = ReplaySetup(simulator=self.simulator, rules=self.rules)
        self.diagnoser = Diagnoser(DiagnosisSetup(replay=setup, expert=expert))

    def run(self, policy: type[Faulty], chain: Chain) -> ChainOutcome:
        runner = ChainRunner(
            self.env, TaskOracle(self.pack), policy(self.env),
            instructions=load_instructions("pack", self.pack.instructions), rules=self.rules,
        )  # fmt: skip
        return runner.run(chain)

    def look(self, chain: Chain, outcome: ChainOutcome) -> Found:
        actions = dict(enumerate(outcome.actions))
        return self.diagnoser.answer(Job(record=outcome.record, chain=chain, actions=actions))

    def failures(self, policy: type[Faulty], chains: Iterable[Chain]) -> list[Failure]:
        """Of all chains, those that failed; none may be left undiagnosed."""
        found = []
        for chain in chains:
            result = self.look(chain, self.run(policy, chain))
            assert result.undiagnosed is None, result.undiagnosed
            if result.failure is not None:
                found.append(result.failure)
        return found

    def close(self) -> None:
        self.env.close()
        self.diagnoser.close()
