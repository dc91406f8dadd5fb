"""Every kind of chain list in every scene, through every command that meets a recorded chain.

Where a chain starts depends on list, scene and layout; each command has to know it. There is one
short run per scene and list, and each test holds one command against it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from calvin_eval.cli.main import main
from calvin_eval.cli.video import simulator_of
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.video.films import HOLD_SECONDS, Filmer, VideoSpec
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.hashes import state_hash

pytestmark = pytest.mark.slow

MINE = "mine.json"
TASKS = ("open_drawer", "turn_on_led")
CARD = {  # type: ignore[var-annotated]
    "name": "Chance",
    "training_split": "other",
    "parameters": None,
    "observation_space": ["nothing"],
    "action_space": "relative tcp pose",
    "licence": "closed",
    "links": {},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A run on one list in one scene.

    Attributes:
        chains: what `protocol.chains` is.
        arguments: of the command that made it, without its folder.
        folder: the run.
    """

    scene: str
    chains: str
    arguments: list[str]
    folder: RunFolder

    def run(self, out: Path, *more: str) -> RunFolder:
        """The same command again, into a folder and with other arguments."""
        assert main([*self.arguments, "--out", str(out), *more]) == 0
        return RunFolder.open(out)

    def assert_same(self, other: RunFolder) -> None:
        """The other run has the same records, actions and chain list."""
        ours, theirs = self.folder.records(), other.records()
        assert len(ours) == len(theirs) == 2
        assert all(a.outcome() == b.outcome() for a, b in zip(ours, theirs, strict=True))
        for record in ours:
            paths = self.folder.actions_path(record.chain), other.actions_path(record.chain)
            assert paths[0].read_bytes() == paths[1].read_bytes()
        assert self.folder.document()["chains"] == other.document()["chains"]


@pytest.fixture(scope="module")
def own_list(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three chains that the expert solves soon."""
    starts = [
        dict(chain.initial_state)
        for chain in load_chains("official")
        if chain.initial_state["drawer"] == "closed" and not chain.initial_state["led"]
    ]
    path = tmp_path_factory.mktemp("list") / MINE
    path.write_text(json.dumps([[start, TASKS] for start in starts[:3]]), encoding="utf-8")
    return path


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((scene, chains), id=f"{scene}-{chains}")
        for scene in "ABCD"
        for chains in ("official", "dev", "upstream:5", "single:1", MINE)
    ],
)
def case(
    request: pytest.FixtureRequest, own_list: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    """Random motion that fails after five steps; on the file, the expert, which succeeds."""
    scene, chains = request.param
    expert = chains == MINE
    arguments = [
        *("--ckpt", "builtin:expert" if expert else "builtin:random", "--split", scene),
        *("--chains", "1-2", f"protocol.steps={150 if expert else 5}", "--workers", "0", "--quiet"),
        f"protocol.chains={own_list if expert else chains}",
    ]
    out = tmp_path_factory.mktemp("matrix") / "run"
    assert main([*arguments, "--out", str(out)]) == 0
    folder = RunFolder.open(out)
    return Case(scene=scene, chains=chains, arguments=arguments, folder=folder)


def test_run(case: Case) -> None:
    header = case.folder.document()
    assert (header["scene"], header["chains"]["list"]) == (case.scene, case.chains)
    assert header["chains"]["planned"] == [1, 2]
    records = case.folder.records()
    assert [record.chain for record in records] == [1, 2]
    assert {record.status for record in records} == {"completed"}
    if case.chains == MINE:
        assert {record.length for record in records} == {len(TASKS)}


def test_resume(case: Case, tmp_path: Path) -> None:
    """A run that was killed after its first chain."""
    copy = RunFolder.open(shutil.copytree(case.folder.path, tmp_path / "run"))
    (copy.path / "chains.jsonl").write_bytes(encode_journal(copy.records()[:1]))
    copy.actions_path(2).unlink()
    copy.update_header(status="started")
    case.assert_same(case.run(copy.path, "--resume"))


def test_shards_and_merge(case: Case, tmp_path: Path) -> None:
    shards = [case.run(tmp_path / str(i), "--shard", f"{i}/2").path for i in (1, 2)]
    assert main(["merge", *map(str, shards), "--out", str(tmp_path / "merged")]) == 0
    case.assert_same(RunFolder.open(tmp_path / "merged"))


def test_video(case: Case, tmp_path: Path) -> None:
    """Of the last subtask: those before it are simulated up to where it begins."""
    record = case.folder.records()[0]
    last = len(record.subtasks) - 1
    spec = VideoSpec(height=40, cameras=("gripper",))
    filmer = Filmer(spec, case.folder, simulator_of(case.folder, None, "tiny"), tmp_path)
    (file,) = filmer.film(record, (last,))
    filmer.close()
    frames, _ = imageio_ffmpeg.count_frames_and_secs(file)
    assert frames == 1 + record.subtasks[last].steps + round(HOLD_SECONDS * spec.fps)


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def verify(path: Path, *options: str) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["verify", str(path), "--all", "--workers", "0", "--json", *options]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert found["counts"] == {"verified": 2, "deviates": 0, "unchecked": 0}
        return found

    return verify  # type: ignore[return-value]


def test_verify(case: Case, verified: Any, own_list: Path) -> None:
    unnamed = any("--chain-list" in note for note in verified(case.folder.path)["notes"])
    assert unnamed == (case.chains == MINE)
    if unnamed:
        notes = verified(case.folder.path, "--chain-list", str(own_list))["notes"]
        assert not any("--chain-list" in note for note in notes)


def test_bundle(case: Case, verified: Any, tmp_path: Path) -> None:
    card, bundle = tmp_path / "card.json", tmp_path / "run.zip"
    card.write_text(json.dumps(CARD), encoding="utf-8")
    assert main(["bundle", str(case.folder.path), "--meta", str(card), "-o", str(bundle)]) == 0
    verified(bundle)


def test_report(case: Case, tmp_path: Path) -> None:
    copy = shutil.copytree(case.folder.path, tmp_path / "run")
    for path in (copy / "report.html", copy / "summary.json"):
        path.unlink()
    assert main(["report", str(copy)]) == 0
    assert case.chains in (copy / "report.html").read_text(encoding="utf-8")
    made, before = (
        json.loads((run / "summary.json").read_text()) for run in (copy, case.folder.path)
    )
    assert made == before


def test_gym(case: Case, own_list: Path) -> None:
    """The first subtask of a chain, played in the Gymnasium environment from the chain's start."""
    gymnasium = pytest.importorskip("gymnasium", reason="needs calvin-eval[gym]")
    PlayTable = pytest.importorskip("calvin_eval.sim.gym").PlayTable
    assert gymnasium
    env = PlayTable(scene=case.scene)
    source = own_list if case.chains == MINE else case.chains
    for record in case.folder.records():
        chain = load_chains(source, scene=env._scene)[record.chain]
        start = {"robot_obs": chain.robot_obs, "scene_obs": chain.scene_obs}
        env.reset(options={"task": chain.tasks[0], **start})
        ends = []
        for action in case.folder.read_actions(record.chain)[0]:
            obs, _, done, _, _ = env.step(action)
            ends.append(done)
        subtask = record.subtasks[0]
        assert ends == [False] * (subtask.steps - 1) + [subtask.success]
        assert state_hash(obs) == subtask.state_hash
    env.close()


def test_another_list_is_not_resumed(case: Case, tmp_path: Path) -> None:
    """The hash is that of the start states, too."""
    copy = RunFolder.open(shutil.copytree(case.folder.path, tmp_path / "run"))
    header = copy.document()
    copy.update_header(chains={**header["chains"], "sha256": "0" * 64})
    assert main([*case.arguments, "--out", str(copy.path), "--resume"]) == 2
