"""Chain lists with entries of other forms: objects, lines, and start states as numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import UsageError
from calvin_eval.sim.chain_refs import ChainRef
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import make_env
from calvin_eval.sim.packs import load_pack

OFFICIAL = load_chains("official")
STATE = dict(OFFICIAL[3].initial_state)
SCENE, ROBOT = OFFICIAL[3].scene_obs.tolist(), OFFICIAL[3].robot_obs.tolist()
MOVED = [*ROBOT[:7], *(angle + 0.05 for angle in ROBOT[7:14]), ROBOT[14]]
TASKS = ["open_drawer", "turn_on_led"]
GIVEN = {"scene_obs": SCENE, "robot_obs": MOVED, "tasks": TASKS}


def write(path: Path, content: Any) -> Path:
    lines = path.suffix == ".jsonl"
    text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["mine.json", "mine.jsonl"])
@pytest.mark.parametrize("entry", [[STATE, TASKS], {"initial_state": STATE, "tasks": TASKS}])
def test_every_form_of_a_symbolic_state_is_the_same_list(
    tmp_path: Path, name: str, entry: Any
) -> None:
    plain = load_chains(write(tmp_path / "plain.json", [[STATE, TASKS]] * 2))
    assert load_chains(write(tmp_path / name, [entry] * 2)).sha256 == plain.sha256


@pytest.mark.parametrize(
    ("entry", "robot"),
    [
        (GIVEN, MOVED),
        ({"scene_obs": SCENE, "tasks": TASKS}, ROBOT),
        ([{"scene_obs": SCENE, "robot_obs": MOVED}, TASKS], MOVED),
        ({**GIVEN, "initial_state": STATE}, MOVED),
    ],
)
def test_start_states_as_numbers_are_taken_as_they_are(
    tmp_path: Path, entry: Any, robot: list[float]
) -> None:
    path = write(tmp_path / "mine.jsonl", [entry])
    for scene in (None, load_pack("builtin").scene("B")):
        (chain,) = load_chains(path, scene=scene)
        assert chain.given
        assert (chain.scene_obs.tolist(), chain.robot_obs.tolist()) == (SCENE, robot)
    named = "initial_state" in entry
    assert dict(chain.initial_state) == (STATE if named else {})


def test_a_chain_with_given_numbers_comes_back_from_its_record(tmp_path: Path) -> None:
    used = load_chains(write(tmp_path / "mine.json", [GIVEN, [STATE, TASKS]]))
    ref = ChainRef(name=used.name, sha256=used.sha256, scene="D", layout="scene")

    class Asked:
        chain, initial_state, tasks = 0, used[0].initial_state, used[0].tasks
        start: Any = type("", (), {"robot_obs": MOVED, "scene_obs": SCENE})

    made = ref.chain(Asked(), load_pack("builtin"))
    assert made.robot_obs.tobytes() == used[0].robot_obs.tobytes()
    assert made.given
    assert not used[1].given


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"tasks": TASKS}, "expected initial_state or scene_obs.* found neither"),
        ({"tasks": TASKS, "robot_obs": ROBOT}, "found robot_obs"),
        ({"tasks": TASKS, "robot_obs": ROBOT, "initial_state": STATE}, "found robot_obs, initial"),
        ({"scene_obs": SCENE[:-1], "tasks": TASKS}, "a list of 24 numbers, found 23 values"),
        ({"scene_obs": [*SCENE[:-1], "x"], "tasks": TASKS}, "found 24 values"),
        ({"scene_obs": [*SCENE[:4], 0.5, *SCENE[5:]], "tasks": TASKS}, "to be 0 or 1"),
        ({**GIVEN, "pose": 1}, "expected the keys initial_state, tasks, .* found pose"),
        ({"scene_obs": SCENE}, "an object with tasks"),
        ({"initial_state": 3, "tasks": TASKS}, "initial_state to be an object"),
        ({**GIVEN, "tasks": []}, "expected 1 to 50 tasks, found 0"),
        ("text", r"expected \[initial_state"),
    ],
)
def test_a_wrong_entry_is_explained(tmp_path: Path, entry: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"mine.jsonl, entry 1: .*{message}"):
        load_chains(write(tmp_path / "mine.jsonl", [GIVEN, entry]))


def test_a_line_that_is_not_json_is_explained(tmp_path: Path) -> None:
    (path := tmp_path / "mine.jsonl").write_text("{}\n[1,", encoding="utf-8")
    with pytest.raises(UsageError, match="expected one JSON value per line"):
        load_chains(path)


def test_the_robot_is_put_back_and_the_rest_of_the_world_stays() -> None:
    with make_env("D") as env:
        env.start(OFFICIAL[3].robot_obs, OFFICIAL[3].scene_obs)
        fresh = env.get_state_obs()["robot_obs"]
        for _ in range(12):
            env.advance(np.array([0.3, -0.3, 0.8, 0.1, 0, 0.2, -1]))
        moved = env.get_state_obs()
        assert np.abs(moved["robot_obs"] - fresh)[:3].max() > 0.02
        env.place_robot(OFFICIAL[3].robot_obs)
        back = env.get_state_obs()
        assert back["robot_obs"] == pytest.approx(fresh, abs=1e-4)
        assert back["scene_obs"] == pytest.approx(moved["scene_obs"], abs=1e-3)
