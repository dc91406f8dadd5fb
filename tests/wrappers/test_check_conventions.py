"""Deliberately wrong pipelines around a policy that knows every demonstration by heart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from demonstrating import UNITS, Encode, Knower, demonstrations, recorded

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.check import ask, compare
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.stages import ACTION_STAGES, OBSERVATION_STAGES, build_stages
from calvin_eval.wrappers.stages.frames import world_to_tcp
from calvin_eval.wrappers.stages.rotations import convert, from_matrix, to_matrix

Stages = Mapping[str, Mapping[str, Any]]


def found(policy: Any, stages: Stages | None = None, observe: Stages | None = None) -> list[Any]:
    piped = Pipeline(
        policy,
        observe=build_stages(observe or {}, OBSERVATION_STAGES, "policy.observe"),
        actions=build_stages(stages or {}, ACTION_STAGES, "policy.actions"),
    )
    return compare(ask(piped, demonstrations()))


def metric(actions: Any, state: Any) -> Any:
    return np.column_stack([actions[:, :6] * UNITS, actions[:, 6]])


def closing(actions: Any, state: Any) -> Any:
    """1 closes, as a probability."""
    return np.column_stack([actions[:, :6], actions[:, 6] < 0])


def normalised(actions: Any, state: Any) -> Any:
    return np.column_stack([actions[:, :6] / 1.25, actions[:, 6]])


def robovlms_tcp(actions: Any, state: Any) -> Any:
    return world_to_tcp(actions, state[3:6])


def true_tcp(actions: Any, state: Any) -> Any:
    """Metres and radians in the gripper's own frame."""
    start = to_matrix(state[3:6], "euler_xyz")
    ends = to_matrix(state[3:6] + actions[:, 3:6] * UNITS[3:], "euler_xyz")
    turns = from_matrix(start.T @ ends, "euler_xyz")
    return np.column_stack([actions[:, :3] * UNITS[:3] @ start, turns, actions[:, 6]])


def poses(form: str) -> Encode:
    def encode(actions: Any, state: Any) -> Any:
        ways = np.cumsum(actions[:, :6] * UNITS, axis=0)
        angles = convert(state[3:6] + ways[:, 3:], "euler_xyz", form)
        return np.column_stack([state[:3] + ways[:, :3], angles, actions[:, 6]])

    return encode


def zyx(actions: Any, state: Any) -> Any:
    return actions[:, [0, 1, 2, 5, 4, 3, 6]]


SCALE = {"position": 50, "rotation": 20}
WRAP = {"euler_wrap": True}


@dataclass(frozen=True)
class Case:
    """A convention, the pipeline for it, and a wrong one with what is to be said of it."""

    name: str
    encode: Encode
    right: Stages
    wrong: Stages
    codes: set[str]
    says: str
    remedy: str = ""
    knower: Mapping[str, Any] = field(default_factory=dict)
    wrong_knower: Mapping[str, Any] = field(default_factory=dict)


CASES = [
    Case("swapped gripper", closing, {"gripper": {"input": "probability", "high": "close"}},
         {"gripper": {"input": "probability"}}, {"gripper-inverted"},
         "open and close are swapped", "high=close"),
    Case("threshold never reached", closing,
         {"gripper": {"input": "probability", "high": "close"}},
         {"gripper": {"input": "probability", "high": "close", "threshold": 1.5}},
         {"gripper-constant"}, "the gripper is always open", "gripper.threshold"),
    Case("missing gripper stage", closing, {"gripper": {"input": "probability", "high": "close"}},
         {}, {"gripper-values"}, "neither -1 nor 1", "gripper.input=probability"),
    Case("missing x50", metric, {"scale": SCALE}, {"scale": {**SCALE, "position": 1}},
         {"position-scale"}, "x50 scaling is missing", "scale.position=50"),
    Case("x50 twice", lambda a, s: a, {}, {"scale": {"position": 50, "rotation": 1}},
         {"position-scale"}, "x50 scaling is applied twice", "scale.position=1"),
    Case("missing x20", metric, {"scale": SCALE}, {"scale": {**SCALE, "rotation": 1}},
         {"rotation-scale"}, "x20 scaling is missing", "scale.rotation=20"),
    Case("x50 twice and clipped", lambda a, s: a, {"clip": {}},
         {"scale": {"position": 50, "rotation": 1}, "clip": {}},
         {"position-saturated"}, "at their limit of 1", "scale.position=1"),
    Case("euler order of columns", zyx, {"columns": {"take": [0, 1, 2, 5, 4, 3, 6]}}, {},
         {"rotation-axis-order"}, "in the order zyx", "columns.take=[0,1,2,5,4,3,6]"),
    Case("euler order of the frame", robovlms_tcp, {"tcp_to_world": {}},
         {"scale": {**SCALE, "inverse": True}, "state_relative": WRAP,
          "again": {"use": "scale", **SCALE}},
         {"position-euler-order"}, "the other order of euler angles", "tcp_to_world"),
    Case("tcp frame of RoboVLMs", robovlms_tcp, {"tcp_to_world": {}}, {},
         {"position-tcp-frame", "rotation-tcp-frame"}, "in the frame of the gripper (tcp)",
         "tcp_to_world={}"),
    Case("true tcp frame", true_tcp, {"state_relative": WRAP, "scale": SCALE}, {"scale": SCALE},
         {"position-tcp-frame", "rotation-tcp-frame"}, "in the frame of the gripper (tcp)",
         "state_relative"),
    Case("world frame taken for tcp", lambda a, s: a, {}, {"tcp_to_world": {}},
         {"position-tcp-frame", "rotation-tcp-frame"}, "though they were in the world's",
         "tcp_to_world=null"),
    Case("world frame taken for the true tcp", metric, {"scale": SCALE},
         {"state_relative": WRAP, "scale": SCALE},
         {"position-tcp-frame", "rotation-tcp-frame"}, "though they were in the world's",
         "state_relative=null"),
    Case("un-normalisation range", normalised, {"unnormalize": {"low": -1.25, "high": 1.25}},
         {"unnormalize": {"low": -0.65, "high": 0.65}}, {"position-scale", "rotation-scale"},
         "0.52 times as large as demonstrated", "unnormalize"),
    Case("un-normalisation offset", normalised, {"unnormalize": {"low": -1.25, "high": 1.25}},
         {"unnormalize": {"low": -1.0, "high": 1.5}}, {"position-offset", "rotation-offset"},
         "off by 0.25 on average", "unnormalize"),
    Case("chunk offset", lambda a, s: a, {"execute": {"steps": 5}},
         {"execute": {"steps": 5, "start": 3}}, {"time-shift"},
         "demonstrated 3 steps later", knower={"chunk": 10}),
    Case("oldest frame of a window", lambda a, s: a, {}, {}, {"time-shift"},
         "demonstrated 7 steps earlier", wrong_knower={"shift": -7}),
    Case("absolute as relative", poses("euler_xyz"), {"absolute": {}}, {}, {"pose-as-motion"},
         "absolute poses are used as relative", "absolute"),
    Case("relative as absolute", lambda a, s: a, {}, {"absolute": {}},
         {"motion-as-pose", "orientation-far"}, "relative motions used as poses"),
    Case("quaternion order", poses("quaternion_wxyz"),
         {"orientation": {"source": "quaternion_wxyz"}, "absolute": {}}, {"absolute": {}},
         {"orientation-order"}, "fit better as quaternion_wxyz", "source=quaternion_wxyz"),
    Case("axis-angle as euler", poses("axis_angle"),
         {"orientation": {"source": "axis_angle"}, "absolute": {}}, {"absolute": {}},
         {"orientation-order"}, "fit better as axis_angle", "source=axis_angle"),
    Case("unwrapped euler angles", true_tcp, {"state_relative": WRAP, "scale": SCALE},
         {"state_relative": {"euler_wrap": False}, "scale": SCALE}, {"rotation-jump"},
         "jump by a full turn (2 pi x 20 = 125.7)", "euler_wrap=true"),
    Case("constant output", lambda a, s: a, {},
         {"unnormalize": {"method": "mean_std", "mean": 0.1, "std": 0.0}},
         {"position-constant", "rotation-constant"}, "does not depend on what the policy sees"),
    Case("not a number", lambda a, s: a, {},
         {"unnormalize": {"method": "mean_std", "mean": 0.0, "std": 1.0, "eps": float("1e308")},
          "again": {"use": "scale", **SCALE}}, {"not-finite"}, "NaN or infinity"),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_right_pipeline_is_silent(case: Case) -> None:
    assert found(Knower(case.encode, **case.knower), case.right) == []


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_wrong_pipeline_is_caught(case: Case) -> None:
    findings = found(Knower(case.encode, **case.knower, **case.wrong_knower), case.wrong)
    assert {finding.code for finding in findings} == case.codes
    said = findings[0]
    assert said.severity == ("warning" if said.code == "rotation-jump" else "error")
    assert case.says in said.sentence
    assert case.remedy in said.remedy
    assert re.fullmatch(r"[^.].*\.", said.sentence), "one sentence"


@pytest.mark.parametrize("noise", [0.2, 0.5, 1.0])
def test_a_policy_that_is_merely_bad_gets_no_finding(noise: float) -> None:
    draw = np.random.default_rng(3)

    def blurred(actions: Any, state: Any) -> Any:
        arm = 0.9 * actions[:, :6] + noise * draw.normal(0, 0.4, (len(actions), 6))
        return np.column_stack([arm, actions[:, 6]])

    assert found(Knower(blurred)) == []


def test_two_mistakes_get_two_findings() -> None:
    def both(actions: Any, state: Any) -> Any:
        return metric(actions, state) * [1, 1, 1, 1, 1, 1, -1]

    codes = [finding.code for finding in found(Knower(both))]
    assert codes == ["position-scale", "rotation-scale", "gripper-inverted"]


def test_a_policy_that_does_something_else_is_called_that() -> None:
    draw = np.random.default_rng(3)

    def other(actions: Any, state: Any) -> Any:
        return np.column_stack([draw.uniform(-1, 1, (len(actions), 6)), actions[:, 6]])

    (finding,) = found(Knower(other))
    assert (finding.code, finding.severity) == ("unrelated", "warning")


def test_a_history_that_needs_every_frame_gets_every_frame() -> None:
    """The window's stage sees the states between decisions, and the policy its latest frame."""
    lengths = []  # type: ignore[var-annotated]

    class Windowed(Knower):
        def act(self, requests: Any) -> Any:
            lengths.extend(len(request.obs["state"]) for request in requests)
            return [self._one(r.session, r.step, r.obs["robot_obs"]) for r in requests]

    observe = {
        "proprioception": {},
        "history": {"length": 8, "keys": ["state"]},
    }
    assert found(Windowed(chunk=4), {}, observe) == []
    assert lengths[:3] == [1, 5, 8]


def test_few_actions_are_too_few() -> None:
    (finding,) = compare(ask(Knower(), demonstrations()[:1]))
    assert finding.code == "too-few"


def test_an_empty_chunk_is_an_error() -> None:
    with pytest.raises(PolicyError, match="at least one action"):
        ask(Knower(lambda a, s: a[:0]), demonstrations())


def test_execute_limits_what_counts_of_a_chunk() -> None:
    asked = []  # type: ignore[var-annotated]

    class Counting(Knower):
        def act(self, requests: Any) -> Any:
            asked.extend(request.step for request in requests)
            return super().act(requests)

    pairs = ask(Counting(chunk=10), demonstrations()[:1], execute=4)
    assert asked == list(range(0, 50, 4))
    assert np.array_equal(pairs.predicted, recorded()[0].actions)
