"""The same motion said in several conventions moves the simulated arm the same way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from calvin_eval.sim import make_env
from calvin_eval.wrappers.policy import Request
from calvin_eval.wrappers.stages import ACTION_STAGES, build_stages
from calvin_eval.wrappers.stages.base import Context
from calvin_eval.wrappers.stages.rotations import to_matrix

METRES = np.array([0.004, -0.003, -0.002, 0.01, -0.02, 0.03, 0.9])
"""One step's motion in metres and radians, and the probability that the gripper opens."""

READ = {"gripper": {"input": "probability"}}
SUM: dict[str, Any] = {**READ, "accumulate": {}}
FORMS: dict[str, dict[str, Any]] = {
    "absolute euler": {**SUM, "absolute": {}},
    "absolute quaternion": {
        **SUM,
        "orientation": {"source": "euler_xyz", "target": "quaternion_xyzw"},
        "absolute": {},
    },
    "by rotation 6d": {
        **SUM,
        "there": {"use": "orientation", "source": "euler_xyz", "target": "rotation_6d_rows"},
        "back": {"use": "orientation", "source": "rotation_6d_rows"},
        "absolute": {},
    },
    "relative again": {
        **SUM,
        "relative": {"start": "commanded"},
        "scale": {},
        "clip": {},
    },
}


def reached(settings: dict[str, Any], steps: int = 20) -> np.ndarray:
    """The measured pose (6,) after some steps in chunks of four."""
    stages = build_stages(settings, ACTION_STAGES, "here")
    memories: dict[str, dict[str, Any]] = {label: {} for label in stages}
    with make_env("D") as env:
        obs = env.reset()
        for step in range(0, steps, 4):
            request = Request(session=0, instruction="go", position=0, step=step, obs=obs)
            actions: Any = np.tile(METRES, (4, 1))
            for label, stage in stages.items():
                actions = stage(actions, Context(request, memories[label]))
            for action in actions:
                obs = env.step(action)[0]
        pose: np.ndarray = obs["robot_obs"][:6]
    return pose


@pytest.fixture(scope="module")
def native() -> np.ndarray:
    return reached({**READ, "scale": {}})


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_all_forms_reach_what_relative_actions_reach(name: str, native: np.ndarray) -> None:
    pose = reached(FORMS[name])
    np.testing.assert_allclose(pose[:3], native[:3], atol=1e-5)
    matrices = [to_matrix(p[3:6], "euler_xyz") for p in (pose, native)]
    np.testing.assert_allclose(*matrices, atol=1e-4)


def test_forgetting_the_scale_hardly_moves_the_arm(native: np.ndarray) -> None:
    start = reached(READ, steps=0)
    moved = np.linalg.norm(native[:3] - start[:3])
    assert moved > 0.05
    assert np.linalg.norm(reached(READ)[:3] - start[:3]) < 0.1 * moved
