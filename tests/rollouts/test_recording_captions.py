"""What is said of recorded frames."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calvin_eval.rollouts.recording.captions import (
    CAPTIONS,
    EVERY,
    conversations,
    facts,
    phrases,
    write_captions,
)
from calvin_eval.rollouts.recording.session import record
from calvin_eval.rollouts.recording.spec import RecordSpec
from calvin_eval.rollouts.recording.store import frame_name
from calvin_eval.sim.initial_states import initial_robot_obs, initial_scene_obs

STATE = {
    "led": 1, "lightbulb": 0, "slider": "left", "drawer": "open", "red_block": "slider_right",
    "blue_block": "table", "pink_block": "slider_left", "grasped": 0,
}  # fmt: skip


def test_facts_are_those_of_the_symbolic_state_that_a_chain_starts_in() -> None:
    for drawer in ("open", "closed"):
        for slider in ("left", "right"):
            for bulb in (0, 1):
                state = {**STATE, "drawer": drawer, "slider": slider, "lightbulb": bulb}
                found = dict(facts(initial_robot_obs(), initial_scene_obs(state)))
                assert (found["drawer"], found["slider"]) == (drawer, slider)
                assert (found["lightbulb"], found["led"]) == (("dark", "lit")[bulb], "lit")
                assert found["gripper"] == "open"
                assert found["leftmost"] == "pink"


def test_what_is_uncertain_is_not_said() -> None:
    scene, robot = initial_scene_obs(STATE), initial_robot_obs()
    scene[1], scene[0] = 0.08, 0.12
    scene[6:9] = scene[12:15] = scene[18:21]
    robot[6] = 0.03
    found = dict(facts(robot, scene))
    assert not {"drawer", "slider", "leftmost", "rightmost", "nearest", "gripper"} & set(found)


def test_a_block_in_the_hand_is_held() -> None:
    scene, robot = initial_scene_obs(STATE), initial_robot_obs()
    robot[:3], robot[6], robot[14] = scene[12:15], 0.04, -1
    found = dict(facts(robot, scene))
    assert (found["gripper"], found["nearest"]) == ("holding", "blue")
    robot[6] = 0.0
    assert dict(facts(robot, scene))["gripper"] == "closed"


def test_every_fact_has_words_and_no_two_values_share_one() -> None:
    said = phrases()
    assert len(said["requests"]) >= 5
    for name, fact in said["facts"].items():
        assert len(fact["questions"]) >= 3, name
        answers = [text for values in fact["values"].values() for text in values]
        assert len(set(answers)) == len(answers), name
        assert all(len(values) >= 2 for values in fact["values"].values()), name


def test_a_caption_and_a_question_of_each_described_frame(tmp_path: Path) -> None:
    scene, robot = initial_scene_obs(STATE), initial_robot_obs()
    for index in range(2 * EVERY + 1):
        np.savez(tmp_path / frame_name(index), robot_obs=robot, scene_obs=scene)
    assert write_captions(tmp_path, 2 * EVERY + 1, (0, 0)) == 6
    text = (tmp_path / CAPTIONS).read_text()
    entries = json.loads(text)
    assert [e["kind"] for e in entries] == ["caption", "question"] * 3
    assert {e["image"] for e in entries} == {frame_name(i) for i in (0, EVERY, 2 * EVERY)}
    known = dict(facts(robot, scene))
    said = phrases()["facts"]
    for entry in entries:
        asked, answer = (turn["value"] for turn in entry["conversations"])
        assert asked.startswith("<image>\n")
        true = [text for name, value in known.items() for text in said[name]["values"][value]]
        assert all(part in true for part in answer.split(", and "))
        if entry["kind"] == "question":
            (name,) = [n for n, v in known.items() if answer in said[n]["values"][v]]
            assert asked.removeprefix("<image>\n") in said[name]["questions"]
    assert len({e["conversations"][1]["value"] for e in entries}) > 3
    write_captions(tmp_path, 2 * EVERY + 1, (0, 0))
    assert (tmp_path / CAPTIONS).read_text() == text


@pytest.mark.parametrize("seed", range(3))
def test_nothing_known_is_nothing_said(seed: int) -> None:
    assert not list(conversations("a.npz", [], np.random.default_rng(seed)))


@pytest.mark.slow
def test_a_recording_describes_its_frames(tmp_path: Path) -> None:
    """Both splits get a file; a recording without captions has neither it nor a word of it."""
    for captions in (True, False):
        out = tmp_path / str(captions)
        spec = RecordSpec(
            out=out,
            render="none",
            scenes={"training": "D", "validation": "D"},
            episodes={"training": 1, "validation": 1},
            length=1,
            tasks=("open_drawer",),
            captions=captions,
        )
        summaries = record(spec)
        for summary in summaries:
            path = out / summary.split / CAPTIONS
            assert path.is_file() == captions
            if captions:
                entries = json.loads(path.read_text())
                assert len(entries) == 2 * -(-summary.frames // EVERY)
        config = json.loads((out / "record.json").read_text())
        assert config.get("captions", False) == captions
