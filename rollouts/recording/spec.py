"""What is to be recorded, and what is kept of that beside the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.protocol import BENCHMARK, OFFICIAL
from calvin_eval.rollouts.recording.correction import Correction
from calvin_eval.rollouts.recording.episode import LabelRules
from calvin_eval.rollouts.recording.noise import Disturbance
from calvin_eval.rollouts.recording.plan import SPLITS, Split
from calvin_eval.rollouts.recording.shifts import recordable
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.render import RenderInfo
from calvin_eval.sim.symbolic import TASK_NAMES

SENTENCES = ("paraphrases", "pack", "both")


@dataclass(frozen=True, kw_only=True)
class RecordSpec:
    """What is to be recorded.

    Attributes:
        out: the data set's folder.
        policy: the demonstrator, as `--ckpt` names it.
        options: its own.
        trust: whether its checkpoint may run code.
        assets: an asset pack.
        revision: of the simulator, `pinned` or `head`.
        render: the renderer; `none` for a data set without images.
        depth: whether depth images are kept.
        scenes: by split.
        episodes: by split.
        length: tasks of a chain.
        tasks: names of those that chains are drawn from.
        sentences: what the training split's demonstrations are called: "paraphrases", which are
            not the benchmark's, "pack" for the benchmark's own, or "both".
        steps: budget of a task.
        noise: disturbances of the demonstrator in the training split.
        labels: which frames get a sentence.
        captions: whether frames are described in sentences and questions, see `captions`.
        stages: of the policy's actions by label, laid over its own, as `policy.actions` of a run.
        correction: when the expert acts beside the policy, whose states it labels; None for a
            policy that demonstrates by itself.
        shift: what is changed about the training split, see `recordable`; nothing if None.
        seed: of everything that is drawn.
    """

    out: Path
    policy: str = "builtin:expert"
    options: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False
    assets: str = "builtin"
    revision: str = OFFICIAL.revision
    render: str = "auto"
    depth: bool = False
    scenes: Mapping[Split, Sequence[str]]
    episodes: Mapping[Split, int]
    length: int = BENCHMARK.chain_length
    tasks: Sequence[str] = TASK_NAMES
    sentences: str = "paraphrases"
    steps: int = OFFICIAL.steps
    noise: Disturbance = field(default_factory=Disturbance)
    labels: LabelRules = field(default_factory=LabelRules)
    captions: bool = False
    stages: Mapping[str, Any] = field(default_factory=dict)
    correction: Correction | None = None
    shift: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        recordable(self.shift)
        if self.depth and self.render == "none":
            raise UsageError("expected a renderer for depth images, found render none")
        if self.correction is not None and self.noise.rate:
            raise UsageError(
                "expected no --noise with --label: a corrected policy goes astray by itself; "
                f"found {self.noise.rate:g}"
            )
        if self.sentences not in SENTENCES:
            raise UnknownNameError("sentences", self.sentences, SENTENCES)


def recorded_config(spec: RecordSpec, pack: AssetPack, render: RenderInfo) -> dict[str, Any]:
    """What the frames depend on, as it is kept beside them."""
    return {
        "format": 1,
        "policy": spec.policy,
        "options": dict(spec.options),
        "assets": pack.name,
        "fingerprint": pack.fingerprint,
        "revision": spec.revision,
        "render": {k: v for k, v in render.as_dict().items() if k != "requested"},
        "depth": spec.depth,
        "scenes": {split: list(spec.scenes[split]) for split in SPLITS},
        "episodes": {split: spec.episodes[split] for split in SPLITS},
        "length": spec.length,
        "tasks": list(spec.tasks),
        "sentences": spec.sentences,
        "steps": spec.steps,
        "noise": asdict(spec.noise),
        "labels": asdict(spec.labels),
        "seed": spec.seed,
        **({"captions": True} if spec.captions else {}),
        **({"stages": dict(spec.stages)} if spec.stages else {}),
        **({"correction": asdict(spec.correction)} if spec.correction else {}),
        **({"shift": str(recordable(spec.shift))} if spec.shift else {}),
    }
