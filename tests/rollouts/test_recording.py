"""Recording: the plan, the disturbances, the files, and that played back they do the same."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from recording import content, small_spec

from calvin_eval.errors import InvalidActionError, PolicyError, UnknownNameError, UsageError
from calvin_eval.foreign.splits import SplitFolder
from calvin_eval.rollouts.datasets.audit import AuditReport, AuditSpec, audit_dataset
from calvin_eval.rollouts.recording.episode import LabelRules, Subtask
from calvin_eval.rollouts.recording.labels import paraphrases
from calvin_eval.rollouts.recording.noise import Disturbance, DisturbedPolicy
from calvin_eval.rollouts.recording.plan import ChainRules, plan_split
from calvin_eval.rollouts.recording.session import record
from calvin_eval.rollouts.recording.store import SplitStore
from calvin_eval.rollouts.recording.tape import REL_UNITS, Tape
from calvin_eval.sim import make_env
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.symbolic import TASK_NAMES, is_valid
from calvin_eval.wrappers.policy import Request, Requirements

pytestmark = pytest.mark.processes

PACK = load_pack()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "data"
    record(small_spec(out), workers=2)
    return out


# The plan


def plan(split: Any = "training", **changes: Any) -> Any:
    scenes, episodes = changes.pop("scenes", "D"), changes.pop("episodes", 30)
    return plan_split(split, PACK, scenes, episodes=episodes, rules=ChainRules(**changes))


def test_a_plan_depends_on_its_arguments_only() -> None:
    again = [(p.scene, p.chain.tasks, p.chain.scene_obs.tolist()) for p in plan()]
    assert again == [(p.scene, p.chain.tasks, p.chain.scene_obs.tolist()) for p in plan()]
    assert again != [(p.scene, p.chain.tasks, p.chain.scene_obs.tolist()) for p in plan(seed=1)]


def test_drawn_chains_are_such_as_the_benchmark_allows() -> None:
    for one in plan(episodes=60):
        state = one.chain.initial_state
        assert is_valid(state, one.chain.tasks)
        assert len(one.chain.tasks) == 5


def test_every_task_is_drawn() -> None:
    counts = Counter(task for one in plan(episodes=100) for task in one.chain.tasks)
    assert set(counts) == set(TASK_NAMES)
    assert min(counts.values()) >= 3


@pytest.mark.parametrize("name", ["official", "dev"])
def test_no_start_is_the_benchmarks_or_in_both_splits(name: str) -> None:
    def starts(chains: Any) -> set[bytes]:
        return {np.round(chain.scene_obs, 4).tobytes() for chain in chains}

    training = starts(p.chain for p in plan(episodes=200))
    validation = starts(p.chain for p in plan("validation", episodes=200))
    known = starts(load_chains(name))
    assert len(training) == len(validation) == 200
    assert not training & known
    assert not validation & known
    assert not training & validation


def test_scenes_share_the_episodes_in_order() -> None:
    assert [p.scene for p in plan(scenes="ABC", episodes=7)] == [*"AAABBCC"]


def test_only_the_tasks_asked_for_are_drawn() -> None:
    tasks = ("open_drawer", "close_drawer", "turn_on_led")
    chains = [one.chain for one in plan(tasks=tasks, length=2, episodes=40)]
    assert {task for chain in chains for task in chain.tasks} == set(tasks)
    assert all(is_valid(chain.initial_state, chain.tasks) for chain in chains)


def test_a_rare_task_alone_finds_a_start_state() -> None:
    chains = [one.chain for one in plan(tasks=("close_drawer",), length=1, episodes=10)]
    assert {chain.tasks for chain in chains} == {("close_drawer",)}


def test_an_impossible_plan_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1 task"):
        plan(length=0)
    with pytest.raises(UnknownNameError, match="open_drawer"):
        plan(tasks=("open_draw",))
    with pytest.raises(UsageError, match="tasks to draw from"):
        plan(tasks=())


# Disturbances


class Counting:
    requirements = Requirements()

    def __init__(self) -> None:
        self.resets = 0

    def reset(self, session: int, instruction: str) -> None:
        self.resets += 1

    def act(self, requests: Any) -> Any:
        return [np.array([[0.0] * 6 + [1.0]])]


def play(rate: float, seed: int = 0, session: int = 3) -> tuple[DisturbedPolicy, Counting, Any]:
    inner = Counting()
    policy = DisturbedPolicy(inner, Disturbance(rate=rate, strength=0.5), (seed,))
    policy.reset(session, "go")
    actions: list[Any] = []
    obs = {"robot_obs": np.array([0.0] * 14 + [-1.0])}
    while len(actions) < 60:
        step = len(actions)
        request = Request(session=session, instruction="go", position=0, step=step, obs=obs)
        actions.extend(policy.act([request])[0])
    return policy, inner, np.array(actions)


def test_a_disturbance_keeps_the_gripper_and_ends_with_a_fresh_start() -> None:
    policy, inner, actions = play(rate=1.0)
    first, end = policy.bursts[0]
    burst = actions[first:end]
    assert np.abs(actions[:first, :6]).max(initial=0) == 0 == np.abs(actions[end:, :6]).max()
    assert 0.2 < np.abs(burst[:, :6]).max() <= 0.5
    assert set(burst[:, 6]) == {-1.0}
    assert (burst[-3:, :6] == 0).all()
    assert inner.resets == 2


def test_disturbances_are_a_function_of_seed_and_session() -> None:
    assert (play(1.0)[2] == play(1.0)[2]).all()
    assert (play(1.0)[2] != play(1.0, seed=1)[2]).any()
    assert (play(1.0)[2] != play(1.0, session=4)[2]).any()
    assert play(0.0)[0].bursts == {}


def test_the_rate_is_that_of_subtasks() -> None:
    hit = sum(bool(play(0.3, session=s)[0].bursts) for s in range(200))
    assert 40 <= hit <= 80


def test_an_impossible_rate_is_refused() -> None:
    with pytest.raises(UsageError, match=r"noise rate: expected a number from 0 to 1, found 1\.5"):
        Disturbance(rate=1.5)


# Frames


def test_absolute_poses_become_relative_actions(tmp_path: Path) -> None:
    with make_env() as env:
        tape = Tape(env, tmp_path)
        tape.start(None, load_chains("dev")[0].scene_obs)
        pose = env.get_state_obs()["robot_obs"][:6]
        goal = pose + np.array([0.01, 0, -0.5, 0, 0.02, 0])
        tape.advance((goal[:3], goal[3:], -1))
        tape.hold()
    frame = np.load(tmp_path / "000000.npz")
    wanted = [0.5, 0, -1, 0, 0.4, 0, -1]
    np.testing.assert_allclose(frame["rel_actions"], wanted, atol=1e-9)
    moved = frame["actions"][:6] - pose
    np.testing.assert_allclose(moved[:3], np.array(wanted[:3]) * REL_UNITS[:3], atol=1e-9)
    assert np.load(tmp_path / "000001.npz")["rel_actions"].tolist() == [0.0] * 6 + [-1.0]


def test_relative_actions_are_executed_as_they_are_written(tmp_path: Path) -> None:
    with make_env() as env, make_env() as other:
        tape, scene = Tape(env, tmp_path), load_chains("dev")[0].scene_obs
        tape.start(None, scene)
        tape.advance(np.array([3, -2, 0.5, 0, 0, 0, 1], np.float32))
        written = np.load(tmp_path / "000000.npz")["rel_actions"]
        assert written.tolist() == [1, -1, 0.5, 0, 0, 0, 1]
        other.start(None, scene)
        other.advance(written)
        assert (env.get_state_obs()["robot_obs"] == other.get_state_obs()["robot_obs"]).all()


def test_joint_actions_cannot_be_recorded(tmp_path: Path) -> None:
    with make_env() as env:
        tape = Tape(env, tmp_path)
        tape.start()
        with pytest.raises(InvalidActionError, match="found joint_rel"):
            tape.advance({"type": "joint_rel", "action": [0.0] * 7 + [1.0]})


# Which frames get a sentence


SOLVED = Subtask(task="open_drawer", success=True, first=100, end=200)


def test_a_demonstration_is_the_last_frames() -> None:
    assert LabelRules().first_frame(SOLVED, lambda frame: True) == 137


def test_it_begins_earlier_where_the_task_cannot_be_seen() -> None:
    assert LabelRules().first_frame(SOLVED, lambda frame: frame <= 120) == 120
    assert LabelRules().first_frame(SOLVED, lambda frame: frame < 100) is None


def test_it_begins_after_a_disturbance() -> None:
    disturbed = Subtask(task="open_drawer", success=True, first=100, end=200, burst=(150, 160))
    assert LabelRules().first_frame(disturbed, lambda frame: True) == 160
    assert LabelRules(shortest=42).first_frame(disturbed, lambda frame: True) is None


def test_impossible_lengths_are_refused() -> None:
    with pytest.raises(UsageError, match="found 10 to 5"):
        LabelRules(longest=5, shortest=10)


# Sentences


def test_every_task_has_several_sentences_of_our_own() -> None:
    seen: Counter[str] = Counter()
    for task, sentences in paraphrases().items():
        assert len(set(sentences)) >= 5, task
        assert not any(mark in text for text in sentences for mark in "{}"), task
        assert not set(sentences) & set(PACK.instructions[task]), task
        seen.update(sentences)
    assert set(paraphrases()) == set(TASK_NAMES)
    assert max(seen.values()) == 1, "a sentence stands for two tasks"


def test_no_sentence_is_upstreams(official: str) -> None:
    folder = Path(official) / "calvin_models/conf/annotations"
    known = set()
    for name in ("new_playtable.yaml", "new_playtable_validation.yaml"):
        for sentences in yaml.safe_load((folder / name).read_text(encoding="utf-8")).values():
            known |= {text.lower() for text in sentences}
    assert not known & {text.lower() for texts in paraphrases().values() for text in texts}


# The data set


def test_the_folder_is_calvins(recorded: Path) -> None:
    for name in ("training", "validation"):
        split = SplitFolder(recorded / name)
        assert [*split.frames] == [*range(len(split.frames))]
        assert split.frames[0].name == "episode_0000000.npz"
        assert split.ranges[0, 0] == 0
        assert split.ranges[-1, 1] == len(split.frames) - 1
        assert (split.ranges[1:, 0] == split.ranges[:-1, 1] + 1).all()
        frame = split.read(0)
        shapes = {key: value.shape for key, value in frame.items()}
        assert shapes == {
            "actions": (7,), "rel_actions": (7,), "robot_obs": (15,), "scene_obs": (24,)
        }  # fmt: skip
    training = SplitFolder(recorded / "training")
    assert [training.scene(int(first)) for first in training.ranges[:, 0]] == [*"AADD"]


def test_annotations_can_be_read_as_upstream_does(recorded: Path) -> None:
    path = recorded / "training/lang_annotations/auto_lang_ann.npy"
    assert b"numpy._core" not in path.read_bytes(), "NumPy 1 could not read it"
    loaded = np.load(path, allow_pickle=True).item()
    count = len(loaded["info"]["indx"])
    assert count >= 6
    assert len(loaded["language"]["ann"]) == len(loaded["language"]["task"]) == count
    for sentence, task in zip(loaded["language"]["ann"], loaded["language"]["task"], strict=True):
        assert sentence in paraphrases()[task]


def test_our_other_readers_read_it(recorded: Path) -> None:
    from calvin_eval.vla.data.annotations import read_language, read_scenes
    from calvin_eval.wrappers.check.calvin_folder import read_folder

    (first,) = read_folder(recorded / "training", 1)
    annotation = (SplitFolder(recorded / "training").annotations or ())[0]
    assert first.instruction == annotation.text
    assert len(first.actions) == annotation.last - annotation.first + 1
    language = read_language(recorded / "training")
    assert len(language) == len(SplitFolder(recorded / "training").annotations or ())
    assert len(read_scenes(recorded / "training")) == 2


@pytest.mark.parametrize("kind", ["pack", "both"])
def test_training_may_have_the_evaluations_sentences(kind: str, tmp_path: Path) -> None:
    record(small_spec(tmp_path, sentences=kind, episodes={"training": 4, "validation": 0}))
    found = np.load(
        tmp_path / "training/lang_annotations/auto_lang_ann.npy", allow_pickle=True
    ).item()["language"]
    for sentence, task in zip(found["ann"], found["task"], strict=True):
        own = PACK.instructions[task][0]
        assert sentence == own or (kind == "both" and sentence in paraphrases()[task])


def test_unknown_sentences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="paraphrases"):
        small_spec(tmp_path, sentences="upstream")


def test_validation_has_the_evaluations_sentences(recorded: Path) -> None:
    for annotation in SplitFolder(recorded / "validation").annotations or ():
        assert annotation.text == PACK.instructions[annotation.task][0]


def test_statistics_are_those_of_the_frames(recorded: Path) -> None:
    split = SplitFolder(recorded / "training")
    content = yaml.safe_load((split.path / "statistics.yaml").read_text(encoding="utf-8"))
    frames = [split.read(index) for index in split.frames]
    np.testing.assert_allclose(
        content["robot_obs"][0]["mean"], np.mean([f["robot_obs"] for f in frames], axis=0)
    )
    np.testing.assert_allclose(
        content["act_max_bound"], np.max([f["actions"] for f in frames], axis=0)
    )
    assert content["scene_obs"][0]["_target_"].endswith("NormalizeVector")


def test_the_environment_names_what_calvin_env_needs(recorded: Path) -> None:
    from omegaconf import OmegaConf

    config: Any = OmegaConf.load(recorded / "validation/.hydra/merged_config.yaml")
    assert config.env.scene_cfg.objects.fixed_objects.table.file.startswith("calvin_table_D")
    assert config.env.robot_cfg.base_position == [-0.34, -0.46, 0.24]
    assert set(config.env.cameras) == {"static", "gripper"}
    assert config.env.cameras.static.look_at[0] == PACK.cameras["static"].look_at[0]  # type: ignore[index]


def test_relative_actions_played_back_reach_the_same_outcome(recorded: Path) -> None:
    found = audit_dataset(recorded, AuditSpec(start="episode"))
    assert sum(found.counts.values()) >= 7
    assert found.counts["confirmed"] == sum(found.counts.values())
    assert furthest(found) < 1e-5  # at the first frame, which a reset gives


def test_absolute_actions_played_back_stay_close(recorded: Path) -> None:
    found = audit_dataset(recorded, AuditSpec(start="episode", form="actions"))
    assert furthest(found) < 2e-2
    assert np.median([max(p.drift["robot_position"]) for _, _, p in found.stretches]) < 2e-3


def furthest(report: AuditReport) -> float:
    """Metres that the tcp was away from the recorded one at most."""
    return max(max(played.drift["robot_position"]) for _, _, played in report.stretches)


def test_any_number_of_processes_writes_the_same_files(recorded: Path, tmp_path: Path) -> None:
    record(small_spec(tmp_path / "data"), workers=0)
    assert content(tmp_path / "data") == content(recorded)


def test_a_complete_recording_is_left_alone(recorded: Path) -> None:
    before = content(recorded)
    seen = []
    summaries = record(small_spec(recorded), watch=lambda p, e: seen.append(p.number))
    assert content(recorded) == before
    assert seen == [0, 1, 2, 3, 0]
    assert [s.episodes for s in summaries] == [4, 1]


def test_other_options_do_not_go_on_with_a_recording(recorded: Path) -> None:
    with pytest.raises(UsageError, match="seed: 0, now 1"):
        record(small_spec(recorded, seed=1))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="found something else"):
        record(small_spec(tmp_path))


OPTIONS = [
    *("--scenes", "AD", "--episodes", "4", "--validation", "1", "--length", "2"),
    *("--noise", "0.5", "--no-images", "--quiet"),
]
# The command, killed as soon as the first episode is done.
KILLED = """
import os, signal, sys
from calvin_eval.cli.main import main
from calvin_eval.rollouts.recording import session
record_all = session.record_all

def record_one(*arguments):
    for done in record_all(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)
        yield done

session.record_all = record_one
main(sys.argv[1:])
"""


def test_a_killed_recording_is_completed(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    arguments = ["record", "--out", str(out), *OPTIONS]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments, "--workers", "1"], check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert (out / "training/.episodes/000000").is_dir()
    assert not (out / "training/episodes.jsonl").exists()
    subprocess.run([sys.executable, "-m", "calvin_eval", *arguments], check=True)
    assert content(out) == content(recorded)


def test_numbering_that_was_broken_off_is_done_again(tmp_path: Path) -> None:
    spec = small_spec(tmp_path / "data", episodes={"training": 2, "validation": 0}, length=1)
    seen: list[Any] = []

    def stop(plan: Any, episode: Any) -> None:
        seen.append(episode)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(spec, watch=stop)
    store = SplitStore(tmp_path / "data/training")
    store.number_frames(seen[:1])  # and then the power fails
    record(spec)
    whole = tmp_path / "whole"
    record(small_spec(whole, episodes=spec.episodes, length=1))
    assert [*content(whole / "validation")] == [".hydra/merged_config.yaml"], "no episodes"
    assert content(whole) == content(tmp_path / "data")


def test_a_policy_that_raises_ends_the_recording(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "class Broken:\n"
        "    requirements = {'rgb': []}\n"
        "    def reset(self): pass\n"
        "    def step(self, obs, goal): raise ValueError('out of ideas')\n"
    )
    spec = small_spec(tmp_path / "data", policy=f"{tmp_path / 'broken.py'}:Broken")
    with pytest.raises(PolicyError, match="out of ideas"):
        record(spec)


def test_episodes_of_both_splits_are_sessions_apart(tmp_path: Path) -> None:
    """Both count from 0, and one policy in a process of its own can serve both at once."""
    (tmp_path / "counting.py").write_text(
        "import numpy as np\n"
        "from calvin_eval.wrappers.policy import Requirements\n"
        "class Counting:\n"
        "    requirements = Requirements()\n"
        "    def __init__(self, log): self.log = log\n"
        "    def reset(self, session, instruction): pass\n"
        "    def act(self, requests):\n"
        "        with open(self.log, 'a') as file:\n"
        "            file.writelines(f'{r.session}\\n' for r in requests)\n"
        "        return [np.array([[0, 0, 0, 0, 0, 0, 1.0]]) for r in requests]\n"
    )
    log = tmp_path / "sessions"
    spec = small_spec(
        tmp_path / "data", policy=f"{tmp_path / 'counting.py'}:Counting", length=1, steps=3,
        options={"log": str(log)}, episodes={"training": 2, "validation": 1},
    )  # fmt: skip
    record(spec)
    assert len(set(log.read_text().split())) == 3


@pytest.mark.slow
def test_scenes_and_recoveries(tmp_path: Path) -> None:
    """In every scene nearly all is solved, disturbed or not, and played back it is solved again."""
    spec = small_spec(
        tmp_path / "data",
        scenes={"training": "ABCD", "validation": "D"},
        episodes={"training": 24, "validation": 0},
        length=5,
    )
    (training, _) = record(spec, workers=2)
    assert training.solved >= 0.9 * training.subtasks
    split = SplitFolder(tmp_path / "data/training")
    made = audit_dataset(split.path, AuditSpec(start="episode"), workers=2)
    assert made.counts["confirmed"] >= 0.95 * sum(made.counts.values())
    episodes = SplitStore(split.path).episodes() or []
    disturbed = [s for e in episodes for s in e.subtasks if s.burst]
    assert len(disturbed) >= 20
    assert sum(s.success for s in disturbed) >= 0.85 * len(disturbed)


@pytest.mark.slow
def test_shifted_demonstrations_are_played_back_to_the_last_bit(tmp_path: Path) -> None:
    """Frames hold the shifted start, so that recorded actions lead where they led before."""
    spec = small_spec(
        tmp_path / "shifted", scenes={"training": "D", "validation": "D"}, length=1,
        episodes={"training": 2, "validation": 0}, shift="layout=3,start=3",
        noise=Disturbance(rate=0.0),
    )  # fmt: skip
    record(spec)
    kept = json.loads((spec.out / "record.json").read_text(encoding="utf-8"))
    assert kept["shift"] == "start=3,layout=3"
    with np.load(spec.out / "training" / "episode_0000000.npz") as frame:
        joints, official = frame["robot_obs"][7:14], load_chains("official")[0].robot_obs[7:14]
        assert np.abs(joints - official).min() > 0.04
    found = audit_dataset(spec.out, AuditSpec(start="episode"))
    assert found.counts["confirmed"] == sum(found.counts.values()) > 0
    assert furthest(found) < 1e-5


@pytest.mark.parametrize("shift", ["dynamics=1", "language=2", "distractors=4"])
def test_a_shift_that_frames_cannot_hold_is_refused(shift: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not hold it"):
        small_spec(tmp_path, shift=shift)
