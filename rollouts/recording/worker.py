"""What records episodes, one after another. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from calvin_eval.protocol import Protocol
from calvin_eval.rollouts.chain import ChainRunner, Simulator
from calvin_eval.rollouts.recording.episode import Episode, LabelRules, summarize
from calvin_eval.rollouts.recording.noise import Disturbance, DisturbedPolicy
from calvin_eval.rollouts.recording.plan import SPLITS, EpisodePlan
from calvin_eval.rollouts.recording.store import SplitStore
from calvin_eval.rollouts.recording.tape import Tape
from calvin_eval.rollouts.worker import PolicyLink, SimulatorSpec, connect
from calvin_eval.sim.instructions import InstructionSet
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack


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
        seed: of the disturbances.
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
        tape = Tape(env, store.begin(plan.number), rgb=setup.rgb, depth=setup.depth)
        noise = setup.noise if plan.split == "training" else Disturbance(rate=0.0)
        policy = DisturbedPolicy(self._policy, noise, (setup.seed, SPLITS.index(plan.split)))
        runner = ChainRunner(
            tape,
            self._oracle,
            policy,
            instructions=setup.instructions,
            rules=Protocol(steps=setup.steps),
        )
        outcome = runner.run(plan.chain)
        tape.hold()
        episode = summarize(outcome.record, plan, tape, policy.bursts, self._oracle, setup.labels)
        store.finish(episode)
        return episode

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
