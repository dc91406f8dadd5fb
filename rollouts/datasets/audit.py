"""A data set's labels held against the simulator: what was done, and does it happen again?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.foreign.splits import Annotation, Split
from calvin_eval.protocol import OFFICIAL, REVISIONS, SCENES
from calvin_eval.rollouts.datasets.drift import MEASURES, by_step
from calvin_eval.rollouts.datasets.opening import open_dataset
from calvin_eval.rollouts.datasets.playback import (
    FORMS,
    VERDICTS,
    Form,
    JudgedLabel,
    PlaybackSetup,
    Played,
    Player,
    Stretch,
    unchecked,
)
from calvin_eval.rollouts.pool import WorkerPool
from calvin_eval.rollouts.recording.store import CONFIG
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.render import resolve_backend

Start: TypeAlias = Literal["segment", "episode"]
STARTS: Final[tuple[Start, ...]] = get_args(Start)

STEPS: Final = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""Steps at which drift is summed up over all stretches."""

_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class AuditSpec:
    """How a data set is played back.

    Attributes:
        assets: the pack that it was made with; None for what its own recording says, else
            `builtin`.
        revision: of the simulator; None likewise, else the benchmark's.
        scene: what the frames show, if the folder does not say so.
        start: whether the world is reset to the first frame of every annotation, or of every
            episode, which is then played through.
        form: which of the recorded actions are played.
        most: annotations per split, spread evenly; all if None.
        keys: names of features, see `open_dataset`.
    """

    assets: str | None = None
    revision: str | None = None
    scene: str | None = None
    start: Start = "segment"
    form: Form = "rel_actions"
    most: int | None = None
    keys: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scene is not None and self.scene not in SCENES:
            raise UnknownNameError("scene", self.scene, SCENES)
        if self.revision is not None and self.revision not in REVISIONS:
            raise UnknownNameError("revision", self.revision, REVISIONS)
        if self.start not in STARTS:
            raise UnknownNameError("start", self.start, STARTS)
        if self.form not in FORMS:
            raise UnknownNameError("actions", self.form, FORMS)


@dataclass(kw_only=True)
class AuditReport:
    """What came out.

    Attributes:
        assets: name of the pack that was simulated with.
        revision: of the simulator.
        spec: how it was done.
        stretches: what was played, by the name of its split, in the data set's order.
    """

    assets: str
    revision: str
    spec: AuditSpec
    stretches: list[tuple[str, Stretch, Played]] = field(default_factory=list)

    def labels(self) -> Iterator[tuple[str, Stretch, JudgedLabel]]:
        """Every annotation that was looked at, with its split and its stretch."""
        for split, stretch, played in self.stretches:
            for label in played.labels:
                yield split, stretch, label

    @property
    def counts(self) -> dict[str, int]:
        """How many annotations came to which verdict."""
        found = Counter(label.verdict for _, _, label in self.labels())
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def by_task(self) -> dict[str, dict[str, int]]:
        """The same for every task that is named."""
        tasks: dict[str, Counter[str]] = {}
        for _, _, label in self.labels():
            tasks.setdefault(label.annotation.task, Counter())[label.verdict] += 1
        return {
            task: {verdict: tasks[task][verdict] for verdict in VERDICTS} for task in sorted(tasks)
        }

    @property
    def drift(self) -> list[dict[str, Any]]:
        """Drift over all stretches, at some steps, see `drift.by_step`."""
        return by_step([played.drift for _, _, played in self.stretches if played.drift], STEPS)

    def to_json(self) -> dict[str, Any]:
        """JSON form, with every annotation and the drift after every step."""
        return {
            "assets": self.assets,
            "revision": self.revision,
            "start": self.spec.start,
            "actions": self.spec.form,
            "counts": self.counts,
            "tasks": self.by_task,
            "units": dict(MEASURES),
            "drift": self.drift,
            "labels": [_label_json(*found) for found in self.labels()],
            "stretches": [_stretch_json(*found) for found in self.stretches],
        }


def _label_json(split: str, stretch: Stretch, label: JudgedLabel) -> dict[str, Any]:
    said = label.annotation
    return {
        "split": split,
        "scene": stretch.scene,
        "first": said.first,
        "last": said.last,
        "task": said.task,
        "text": said.text,
        "verdict": label.verdict,
        "recorded": list(label.recorded),
        "replayed": dict(label.replayed),
        **({"reason": label.reason} if label.reason else {}),
    }


def _stretch_json(split: str, stretch: Stretch, played: Played) -> dict[str, Any]:
    drift = {
        name: [float(f"{value:.{_DIGITS}g}") for value in values]
        for name, values in played.drift.items()
    }
    return {"split": split, "first": stretch.first, "last": stretch.last, "drift": drift}


def audit_dataset(
    path: Path,
    spec: AuditSpec | None = None,
    *,
    workers: int = 0,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> AuditReport:
    """Play the annotated frames of a data set back, and ask the oracle what was done in them.

    Args:
        path: a data set in CALVIN's format, or one split of it.
        spec: how; the defaults if None.
        workers: processes; 0 simulates in this one. The report does not depend on it.
        watch: called with the number of stretches that are done, and of all.

    Raises:
        UsageError: there are no annotations, or nobody knows the scene.
        AssetError: the simulator cannot be built.
    """
    spec = spec or AuditSpec()
    made = _recording(path)
    pack = load_pack(spec.assets or str(made.get("assets", "builtin")))
    revision = spec.revision or str(made.get("revision", OFFICIAL.revision))
    report = AuditReport(assets=pack.name, revision=revision, spec=spec)
    stretches = [found for split in open_dataset(path, spec.keys) for found in _plan(split, spec)]
    if not stretches:
        raise UsageError(f"expected a data set with language annotations in {path}, found none")
    simulator = SimulatorSpec(
        backend="calvin_eval", assets=pack.location, scene="D", revision=revision,
        render=resolve_backend("none"), cameras=(),
    )  # fmt: skip
    setup = PlaybackSetup(simulator=simulator, form=spec.form, keys=dict(spec.keys))
    pool = WorkerPool(Player.build, setup, min(workers, len(stretches)), _died)
    done: dict[Stretch, Played] = {}
    watch(0, len(stretches))
    for stretch, played in pool.run(stretches):
        done[stretch] = played
        watch(len(done), len(stretches))
    report.stretches = [(stretch.split.name, stretch, done[stretch]) for stretch in stretches]
    return report


def _recording(path: Path) -> Mapping[str, Any]:
    """What `record.json` says that a recording was made with; empty for other data sets."""
    for folder in (path, path.resolve().parent):
        file = folder / CONFIG
        if not file.is_file():
            continue
        try:
            content = parse_json(file.read_bytes())
        except (OSError, DocumentError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from error
        return content if isinstance(content, Mapping) else {}
    return {}


def _died(stretch: Stretch, how: str) -> Played:
    return unchecked(stretch, f"the process that simulated it died: {how}")


def _plan(split: Split, spec: AuditSpec) -> Iterator[Stretch]:
    """What is played of a split, in the order of its frames."""
    labels = sorted(split.annotations or (), key=lambda a: (a.first, a.last))
    if spec.most is not None and len(labels) > spec.most:
        chosen = np.unique(np.linspace(0, len(labels) - 1, spec.most).round().astype(int))
        labels = [labels[i] for i in chosen]
    if spec.start == "segment":
        for label in labels:
            yield _stretch(split, spec, label.first, [label])
        return
    ranges = [(int(first), int(last)) for first, last in split.ranges]
    inside: dict[int, list[Annotation]] = {}
    for label in labels:
        episode = next((a for a, b in ranges if a <= label.first <= label.last <= b), label.first)
        inside.setdefault(episode, []).append(label)
    for first, found in sorted(inside.items()):
        yield _stretch(split, spec, first, found)


def _stretch(split: Split, spec: AuditSpec, first: int, labels: Sequence[Annotation]) -> Stretch:
    scene = spec.scene or split.scene(first)
    if scene is None:
        raise UsageError(
            f"expected to know which scene the frames of {split.path} show, found nothing that "
            "says so: name it by --scene"
        )
    return Stretch(
        split=split.path,
        first=first,
        last=max(label.last for label in labels),
        scene=scene,
        labels=tuple(labels),
    )
