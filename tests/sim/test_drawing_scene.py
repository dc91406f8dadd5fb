from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import AssetError
from calvin_eval.sim import load_chains, make_env
from calvin_eval.sim.bullet import BulletClient, pybullet
from calvin_eval.sim.drawing.kinematics import Skeleton
from calvin_eval.sim.drawing.scene import Scene, SceneState, _partition_sort, order
from calvin_eval.sim.env import PlayTableEnv

CHAIN = load_chains("official")[0]
VIEW = np.eye(4).ravel()  # looks along -z


@pytest.fixture
def env() -> Iterator[PlayTableEnv]:
    with make_env("D") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        yield env


def move(env: PlayTableEnv, steps: int = 25) -> None:
    rng = np.random.default_rng(0)
    for _ in range(steps):
        env.advance([*rng.uniform(-1, 1, 6), 1])


def bullets_own(bullet: Any, body: int, link: int) -> tuple[Any, Any]:
    """A link's inertial frame as Bullet computes it; replaces the poses of the last step."""
    if link < 0:
        return bullet.getBasePositionAndOrientation(body)  # type: ignore[no-any-return]
    state = bullet.getLinkState(body, link, computeForwardKinematics=1)
    return state[0], state[1]


def assert_pose(found: Any, position: Any, quaternion: Any) -> None:
    assert np.allclose(found[:3], position, atol=1e-6)
    same = np.allclose(found[3:], quaternion, atol=1e-6)
    assert same or np.allclose(found[3:], -np.array(quaternion), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("scene", "ABCD")
def test_poses_are_those_after_the_last_step(scene: str) -> None:
    with make_env(scene) as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        move(env)
        shapes = Scene.read(env.world)
        state = shapes.state(env.world)
        for shape, pose in zip(shapes.shapes, state.poses, strict=True):
            assert_pose(pose, *bullets_own(env.world.bullet, shape.body, shape.link))


def test_asking_for_poses_changes_none_of_bullets(env: PlayTableEnv) -> None:
    move(env)
    shapes = Scene.read(env.world)
    bullet, robot = env.world.bullet, env.world.robot
    links = range(bullet.getNumJoints(robot.body))
    before = [bullet.getLinkState(robot.body, link) for link in links]
    shapes.state(env.world)
    assert [bullet.getLinkState(robot.body, link) for link in links] == before
    assert before != [
        bullet.getLinkState(robot.body, link, computeForwardKinematics=1) for link in links
    ]


def test_links_turned_in_their_inertial_frames(tmp_path: Path) -> None:
    frame = '<origin xyz="0.1 0.2 0.3" rpy="0.4 -0.5 0.6"/>'
    inertia = '<inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/>'
    inertial = f'<inertial>{frame}<mass value="1"/>{inertia}</inertial>'
    joints = "".join(
        f'<joint name="j{i}" type="{kind}"><origin xyz="0.3 0.1 {i}" rpy="0.2 {i} 0.3"/>'
        f'<parent link="l{i}"/><child link="l{i + 1}"/><axis xyz="0.6 0 0.8"/>'
        '<limit lower="-3" upper="3" effort="1" velocity="1"/></joint>'
        for i, kind in enumerate(("revolute", "prismatic", "fixed", "revolute"))
    )
    links = "".join(f'<link name="l{i}">{inertial}</link>' for i in range(5))
    path = tmp_path / "arm.urdf"
    path.write_text(f'<robot name="arm">{links}{joints}</robot>')
    bullet = BulletClient()
    body = bullet.loadURDF(str(path), (1, 2, 3), useFixedBase=True)
    for joint, value in ((0, 0.7), (1, -0.4), (3, 1.1)):
        bullet.resetJointState(body, joint, value)
    poses = Skeleton(bullet, body, [3]).poses(bullet.getBasePositionAndOrientation(body))
    for link in range(4):
        position, quaternion = poses[link]
        assert_pose([*position, *quaternion], *bullets_own(bullet, body, link))
    bullet.close()


def test_lights_show_in_the_colours(env: PlayTableEnv) -> None:
    shapes = Scene.read(env.world)
    light = env.world.lights[0]
    spec = env.world.scene.lights[0]
    index = next(
        i
        for i, shape in enumerate(shapes.shapes)
        if (shape.body, shape.link) == (env.world.table, env.world.links[spec.link])
    )
    for on, colour in ((True, spec.color), (False, (1, 1, 1, 1))):
        light.switch(on)
        assert np.allclose(shapes.state(env.world).colours[index], colour)


def test_one_scene_serves_every_episode(env: PlayTableEnv) -> None:
    first = Scene.read(env.world)
    env.start(CHAIN.robot_obs, CHAIN.scene_obs)
    again = Scene.read(env.world)
    assert again.shapes == first.shapes
    for one, other in zip(first.meshes, again.meshes, strict=True):
        assert np.array_equal(one.positions, other.positions)
    here, there = (shapes.state(env.world) for shapes in (first, again))
    assert np.array_equal(here.poses, there.poses)


def test_meshes_of_one_file_and_frame_are_drawn_together(env: PlayTableEnv) -> None:
    shapes = Scene.read(env.world)
    used = [shape.mesh for shape in shapes.shapes]
    (shared,) = {mesh for mesh in used if used.count(mesh) > 1}  # the gels of the two fingers
    members = [index for index, mesh in enumerate(used) if mesh == shared]
    places = order(shapes, shapes.state(env.world), VIEW).tolist()
    at = places.index(members[0])
    assert places[at : at + 2] == members


def test_the_farthest_shape_is_drawn_first(env: PlayTableEnv) -> None:
    shapes = Scene.read(env.world)
    state = shapes.state(env.world)
    poses = state.poses.copy()
    poses[:, 2] = np.linspace(0, 1, len(poses))
    used = [shape.mesh for shape in shapes.shapes]
    alone = [
        i for i in order(shapes, SceneState(poses, state.colours), VIEW) if used.count(used[i]) == 1
    ]
    assert alone == sorted(alone)
    away = np.diag([1, 1, -1, 1]).ravel()
    alone = [
        i for i in order(shapes, SceneState(poses, state.colours), away) if used.count(used[i]) == 1
    ]
    assert alone == sorted(alone, reverse=True)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([2, 1, 0], [2, 1, 0]),
        ([0, 0], [1, 0]),
        ([0, 0, 0, 0], [2, 3, 0, 1]),
        ([1, 0, 1, 0, 1], [3, 1, 4, 0, 2]),
    ],
)
def test_shapes_of_equal_distance_are_left_as_bullets_quicksort_leaves_them(
    keys: list[float], expected: list[int]
) -> None:
    items = [(float(key), [index]) for index, key in enumerate(keys)]
    _partition_sort(items, 0, len(items) - 1)
    assert [index for _, (index,) in items] == expected


def test_a_shape_that_is_not_drawn_is_named(env: PlayTableEnv) -> None:
    bullet = env.world.bullet
    sphere = bullet.createVisualShape(pybullet.GEOM_SPHERE, radius=0.1)
    bullet.createMultiBody(baseVisualShapeIndex=sphere)
    with pytest.raises(AssetError, match="--render egl or tiny"):
        Scene.read(env.world)


class CallCounter:
    """A Bullet client that counts what it is asked."""

    def __init__(self, bullet: Any) -> None:
        self._bullet, self.calls = bullet, 0

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._bullet, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.calls += 1
            return function(*args, **options)

        return counted


def test_a_state_costs_few_calls(env: PlayTableEnv) -> None:
    """About 70 microseconds on an idle core; a call for each link would cost many times that."""
    shapes, counter = Scene.read(env.world), CallCounter(env.world.bullet)
    world: Any = SimpleNamespace(bullet=counter, lights=env.world.lights)
    shapes.state(world)
    assert 0 < counter.calls < len(shapes.shapes) / 2
