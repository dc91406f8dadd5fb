"""A recording from its options to a complete data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from calvin_eval.errors import CalvinEvalError
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.hosts import LocalPolicyHost
from calvin_eval.rollouts.pool import WorkerPool
from calvin_eval.rollouts.recording import metadata
from calvin_eval.rollouts.recording.captions import write_captions
from calvin_eval.rollouts.recording.episode import Episode
from calvin_eval.rollouts.recording.labels import paraphrases, write_labels
from calvin_eval.rollouts.recording.plan import SPLITS, ChainRules, EpisodePlan, Split, plan_split
from calvin_eval.rollouts.recording.shifts import recordable, shifted_plans
from calvin_eval.rollouts.recording.spec import RecordSpec, recorded_config
from calvin_eval.rollouts.recording.store import SplitStore, open_recording
from calvin_eval.rollouts.recording.worker import EpisodeRecorder, RecordingSetup
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.rollouts.worker import PolicyLink, SimulatorSpec
from calvin_eval.sim.instructions import PACK, load_instructions
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.render import RenderInfo, resolve_backend
from calvin_eval.sim.shifts.looks import check_drawable

CAMERAS = ("static", "gripper")

_ATTEMPTS = 3  # processes that may die of one episode

Watch = Callable[[EpisodePlan, Episode], None]


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    """What a split came to."""

    split: str
    episodes: int
    frames: int
    labels: int
    subtasks: int
    solved: int


def record(
    spec: RecordSpec, *, workers: int = 0, watch: Watch = lambda plan, episode: None
) -> list[SplitSummary]:
    """Record a data set, or what is missing of one that was begun with the same options.

    Args:
        spec: what.
        workers: processes; 0 records in this one. The files do not depend on it.
        watch: called with every episode, those that were there already first.

    Raises:
        CalvinEvalError: options that cannot be meant, a folder with something else in it, or a
            simulator or policy that cannot go on. What was finished stays and is not made again.
    """
    pack = load_pack(spec.assets)
    render = resolve_backend(spec.render)
    check_drawable(recordable(spec.shift), render.backend)
    open_recording(spec.out, recorded_config(spec, pack, render))
    plans = {split: _plan(spec, pack, split) for split in SPLITS}
    found: dict[Split, dict[int, Episode]] = {}
    for split in SPLITS:
        store = SplitStore(spec.out / split)
        complete = store.episodes()
        found[split] = store.finished() if complete is None else {e.number: e for e in complete}
        for plan in plans[split]:
            if plan.number in found[split]:
                watch(plan, found[split][plan.number])
    missing = [p for split in SPLITS for p in plans[split] if p.number not in found[split]]
    if missing:
        with _setup(spec, pack, render, missing) as setup:
            for plan, episode in record_all(setup, missing, workers):
                found[plan.split][plan.number] = episode
                watch(plan, episode)
    return [_complete(spec, pack, split, found[split]) for split in SPLITS]


def _plan(spec: RecordSpec, pack: AssetPack, split: Split) -> list[EpisodePlan]:
    plans = plan_split(
        split,
        pack,
        spec.scenes[split],
        episodes=spec.episodes[split],
        rules=ChainRules(length=spec.length, tasks=tuple(spec.tasks), seed=spec.seed),
    )
    return plans if split != "training" else shifted_plans(plans, recordable(spec.shift), pack)


def record_all(
    setup: RecordingSetup, plans: Sequence[EpisodePlan], workers: int
) -> Iterator[tuple[EpisodePlan, Episode]]:
    """Record episodes, in the order in which they are finished.

    Args:
        setup: what to record them with.
        plans: which.
        workers: processes; 0 records in this one.

    Raises:
        CalvinEvalError: the simulator or the policy cannot go on, or an episode kills every
            process that tries it.
    """
    attempts: Counter[tuple[str, int]] = Counter()

    def died(plan: EpisodePlan, how: str) -> None:
        attempts[plan.split, plan.number] += 1
        if attempts[plan.split, plan.number] == _ATTEMPTS:
            raise CalvinEvalError(
                f"{plan.split} episode {plan.number}: the process that recorded it died "
                f"{_ATTEMPTS} times: {how}"
            )

    yield from WorkerPool(EpisodeRecorder, setup, min(workers, len(plans)), died).run(plans)


@contextmanager
def _setup(
    spec: RecordSpec, pack: AssetPack, render: RenderInfo, plans: Sequence[EpisodePlan]
) -> Iterator[RecordingSetup]:
    """All that a process needs."""
    drawn = CAMERAS if render.backend != "none" else ()
    with _policies(spec, dict.fromkeys(plan.scene for plan in plans)) as policies:
        yield RecordingSetup(
            out=spec.out,
            simulator=SimulatorSpec(
                backend="calvin_eval",
                assets=spec.assets,
                scene="D",
                revision=spec.revision,
                render=render,
                cameras=CAMERAS,
            ),
            policies=policies,
            instructions=load_instructions(PACK, pack.instructions),
            steps=spec.steps,
            rgb=drawn,
            depth=drawn if spec.depth else (),
            noise=spec.noise,
            labels=spec.labels,
            seed=spec.seed,
            correction=spec.correction,
            episodes=spec.episodes,
        )


@contextmanager
def _policies(spec: RecordSpec, scenes: Iterable[str]) -> Iterator[dict[str, PolicyLink]]:
    """Where the demonstrator is, by scene; one with a network runs in a child process."""
    from calvin_eval.wrappers.loaders import is_light

    hosts: list[LocalPolicyHost] = []
    links: dict[str, PolicyLink] = {}
    try:
        for scene in scenes:
            policy = PolicySpec(
                ckpt=spec.policy,
                trust=spec.trust,
                seed=spec.seed,
                scene=scene,
                options=dict(spec.options),
                actions=dict(spec.stages),
            )
            if is_light(spec.policy):
                requirements = policy.load().policy.requirements
                links[scene] = PolicyLink(requirements=requirements, inline=policy)
            else:
                hosts.append(LocalPolicyHost(policy, None, BatchRules()))
                links[scene] = hosts[-1].link
        yield links
    finally:
        for host in hosts:
            host.close()


def _complete(
    spec: RecordSpec, pack: AssetPack, split: Split, found: Mapping[int, Episode]
) -> SplitSummary:
    """Finish a split; one without episodes gets its environment only, which evaluations read."""
    store = SplitStore(spec.out / split)
    episodes = [found[number] for number in sorted(found)]
    metadata.write_environment(store.folder, pack, spec.scenes[split][0])
    labels = _number(spec, pack, split, store, episodes) if episodes else 0
    subtasks = [subtask for episode in episodes for subtask in episode.subtasks]
    return SplitSummary(
        split=split,
        episodes=len(episodes),
        frames=sum(episode.frames for episode in episodes),
        labels=labels,
        subtasks=len(subtasks),
        solved=sum(subtask.success for subtask in subtasks),
    )


def _number(
    spec: RecordSpec, pack: AssetPack, split: Split, store: SplitStore, episodes: list[Episode]
) -> int:
    """Number a split's frames and write what lies beside them; returns the number of labels."""
    store.number_frames(episodes)
    metadata.write_ranges(store.folder, episodes)
    frames = sum(episode.frames for episode in episodes)
    metadata.write_statistics(store.folder, frames)
    if spec.correction is not None:
        metadata.write_marks(store.folder, frames)
    labels = write_labels(
        store.folder,
        episodes,
        _sentences(spec.sentences if split == "training" else "pack", pack),
        (spec.seed, SPLITS.index(split)),
    )
    if spec.captions:
        write_captions(store.folder, frames, (spec.seed, SPLITS.index(split)))
    store.close(episodes)
    return labels


def _sentences(kind: str, pack: AssetPack) -> Mapping[str, tuple[str, ...]]:
    """What each task may be called, by one of `SENTENCES`."""
    own = {task: tuple(sentences[:1]) for task, sentences in pack.instructions.items()}
    if kind == "pack":
        return own
    others = paraphrases()
    return others if kind == "paraphrases" else {t: (*others[t], *own[t]) for t in others}
