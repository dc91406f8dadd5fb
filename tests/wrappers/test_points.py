"""Matrices of cameras and points in the world, compared with what rays in the simulator hit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.cli.main import main
from calvin_eval.errors import UsageError
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import make_env
from calvin_eval.wrappers.points import point_cloud, point_clouds
from calvin_eval.wrappers.policy import Requirements

CHAIN = load_chains("official")[3]

POLICY = """
import numpy as np
from calvin_eval.wrappers.points import point_clouds

class Points:
    requirements = {"depth": ["static", "gripper"], "matrices": True}

    def reset(self):
        pass

    def step(self, obs, goal):
        points = point_clouds(obs)
        assert points["static"].shape == (200, 200, 3) and points["gripper"].shape == (84, 84, 3)
        heights = points["static"][..., 2]
        assert 0.3 < np.median(heights) < 0.7
        return np.array([0, 0, 0, 0, 0, 0, 1.0])
"""


@pytest.fixture(scope="module")
def seen() -> Any:
    """An observation with the arm away from its start pose, and what rays hit in that world."""
    with make_env("D", render="tiny") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        for _ in range(5):
            env.advance(np.array([0.5, 0.5, -0.5, 0.2, 0, 0.3, 1]))
        obs = env.observe(depth=env.cameras, matrices=True)
        points = point_clouds(obs)
        hits = {}
        for name in env.cameras:
            eye = np.linalg.inv(obs["cameras"][name]["extrinsic"])[:3, 3]
            found = points[name][4::8, 4::8].reshape(-1, 3)
            beyond = eye + (found - eye) * 1.5
            rays = env.world.bullet.rayTestBatch([eye.tolist()] * len(found), beyond.tolist())
            hits[name] = found, np.array([ray[3] for ray in rays]), np.array([r[2] for r in rays])
        yield obs, hits


@pytest.mark.parametrize(("name", "away"), [("static", 0.02), ("gripper", 0.02)])
def test_points_are_where_rays_hit(seen: Any, name: str, away: float) -> None:
    """Some rays hit collision shapes that are not what is drawn, so not all of them agree."""
    found, hit, fraction = seen[1][name]
    distance = np.linalg.norm(found - hit, axis=1)
    assert np.mean(fraction < 1) > 0.8
    assert np.median(distance) < away / 4
    assert np.mean(distance < away) > 0.6


def test_a_point_goes_back_to_its_pixel(seen: Any) -> None:
    obs = seen[0]
    for name, camera in obs["cameras"].items():
        points = point_clouds(obs)[name]
        there = points @ camera["extrinsic"][:3, :3].T + camera["extrinsic"][:3, 3]
        assert there[..., 2] == pytest.approx(obs["depth_obs"][f"depth_{name}"], abs=1e-5)
        pixels = there @ camera["intrinsic"].T
        rows, columns = np.indices(points.shape[:2])
        assert pixels[..., 0] / pixels[..., 2] == pytest.approx(columns, abs=1e-3)
        assert pixels[..., 1] / pixels[..., 2] == pytest.approx(rows, abs=1e-3)


def test_a_wall_by_hand() -> None:
    """A camera 2 m above the origin that looks down, x to the right."""
    looks_down = np.array([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2], [0, 0, 0, 1]])
    inner = np.array([[100.0, 0, 1], [0, 100, 1], [0, 0, 1]])
    points = point_cloud(np.full((3, 3), 2.0), inner, looks_down)
    assert points[1, 1] == pytest.approx([0, 0, 0])
    assert points[0, 2] == pytest.approx([0.02, 0.02, 0])


def test_what_cannot_be_points_is_explained() -> None:
    with pytest.raises(UsageError, match=r"found \(3,\), \(3, 3\) and \(4, 4\)"):
        point_cloud(np.zeros(3), np.eye(3), np.eye(4))
    with pytest.raises(UsageError, match=r"requirements\.matrices=True"):
        point_clouds({"depth_obs": {}})


def test_a_header_says_so_only_where_it_is_asked_for() -> None:
    assert "matrices" not in Requirements(depth=("static",)).observed()
    assert Requirements(depth=("static",), matrices=True).observed()["matrices"] is True


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_class_gets_them(tmp_path: Path, workers: str) -> None:
    (tmp_path / "points.py").write_text(POLICY, encoding="utf-8")
    command = ["--ckpt", f"{tmp_path / 'points.py'}:Points", "--num-chains", "1", "--quiet"]
    options = ["--workers", workers, "--render", "tiny", "--out", str(tmp_path / "run")]
    assert main([*command, *options, "protocol.steps=2"]) == 0
    header = json.loads((tmp_path / "run" / "header.json").read_text())
    assert header["policy"]["requirements"]["matrices"] is True
    assert main(["verify", str(tmp_path / "run")]) == 0
