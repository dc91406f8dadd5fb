"""What records episodes, one after another. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calvin_eval.protocol import Protocol
from calvin_eval.rollouts.chain import ChainRunner, Simulator
from calvin_eval.rollouts.recording.correction import CorrectedPolicy, Correction, Turns
from calvin_eval.rollouts.recording.episode import Episode, LabelRules, summarize
from calvin_eval.rollouts.recording.noise import Disturbance, DisturbedPolicy
from calvin_eval.rollouts.recording.plan import SPLITS, EpisodePlan, Split
from calvin_eval.rollouts.recording.store import SplitStore
from calvin_eval.rollouts.recording.tape import Tape
from calvin_eval.rollouts.worker import PolicyLink, SimulatorSpec, connect
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack
from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Request


@dataclass(frozen=True, kw_only=True)
class RecordingSetup:
    """What is needed to record any episode.

    Attributes:
        out: the data set's folder.
        simulator: whose scene is replaced by the episode's.
        policies: by scene, where the demonstrator is found.
        instructions: the sentences that the demonstrator gets.
        steps: budget of a subtask.
        rgb: cameras whose colour images are kept.
        depth: cameras whose depth images are kept.
        noise: disturbances in the training split.
        labels: which frames get a sentence.
        seed: of the disturbances and turns.
        correction: when the expert acts beside the policy; None for a policy by itself.
        episodes: of each split, over which the expert's share changes.
    """

    out: Path
    simulator: SimulatorSpec
    policies: dict[str, PolicyLink]
    instructions: InstructionSet
    steps: int
    rgb: tuple[str, ...]
    depth: tuple[str, ...]
    noise: Disturbance
    labels: LabelRules
    seed: int
    correction: Correction | None = None
    episodes: Mapping[Split, int] = field(default_factory=dict)


_SPLIT_SESSIONS = 2**24  # more than episodes of a split


class SplitSessions(BasePolicy):
    """A policy whose sessions are those of one split.

    Both splits count their episodes from 0, and one policy can serve an episode of each at a time.

    Args:
        policy: which may serve other workers too.
        split: of the episode.
    """

    def __init__(self, policy: BasePolicy, split: Split) -> None:
        self._policy = policy
        self._first = SPLITS.index(split) * _SPLIT_SESSIONS
        self.requirements = policy.requirements

    def reset(self, session: int, instruction: str) -> None:
        """Reset the policy's session."""
        self._policy.reset(self._first + session, instruction)

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """Ask the policy."""
        first = self._first
        return self._policy.act([replace(r, session=first + r.session) for r in requests])

    def end(self, session: int) -> None:
        """Free the policy's session."""
        self._policy.end(self._first + session)


class EpisodeRecorder:
    """Records episodes in this process; the simulator stays as long as the scene does."""

    def __init__(self, setup: RecordingSetup) -> None:
        self._setup = setup
        self._oracle = TaskOracle(load_pack(setup.simulator.assets, verify=False))
        self._scene = ""
        self._env: Simulator | None = None
        self._policy: Any = None

    def answer(self, plan: EpisodePlan) -> Episode:
        """Record one episode; its frames are whole on disk when this returns.

        Raises:
            CalvinEvalError: the simulator or the policy cannot go on.
        """
        env = self._set_scene(plan.scene)
        setup, store = self._setup, SplitStore(self._setup.out / plan.split)
        tape = Tape(
            env,
            store.begin(plan.number),
            rgb=setup.rgb,
            depth=setup.depth,
            labelled=setup.correction is not None,
        )
        policy = self._demonstrator(plan, tape)
        runner = ChainRunner(
            tape,
            self._oracle,
            policy,
            instructions=setup.instructions,
            rules=Protocol(steps=setup.steps),
        )
        outcome = runner.run(plan.chain)
        tape.hold()
        bursts = policy.bursts if isinstance(policy, DisturbedPolicy) else {}
        episode = summarize(outcome.record, plan, tape, bursts, self._oracle, setup.labels)
        store.finish(episode)
        return episode

    def _demonstrator(self, plan: EpisodePlan, tape: Tape) -> BasePolicy:
        """Who acts in an episode: the policy, disturbed now and then or corrected."""
        setup, seed = self._setup, (self._setup.seed, SPLITS.index(plan.split))
        policy = SplitSessions(self._policy, plan.split)
        if setup.correction is not None:
            beta = setup.correction.beta(plan.number, setup.episodes[plan.split])
            turns = Turns(rules=setup.correction, beta=beta, seed=seed)
            return CorrectedPolicy(policy, ExpertPolicy(plan.scene), turns, tape)
        noise = setup.noise if plan.split == "training" else Disturbance(rate=0.0)
        return DisturbedPolicy(policy, noise, seed)

    def _set_scene(self, scene: str) -> Simulator:
        if self._env is None or scene != self._scene:
            self.close()
            self._env = replace(self._setup.simulator, scene=scene).build()
            self._policy = connect(self._setup.policies[scene])
            self._scene = scene
        return self._env

    def close(self) -> None:
        """Free the simulator."""
        if self._env is not None:
            self._env.close()
            self._env = None
