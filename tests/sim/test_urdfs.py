from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.sim import load_chains, make_env
from calvin_eval.sim.drawing.scene import Scene
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.urdfs import lean_obj, lean_urdf, loadable_urdf
from calvin_eval.sim.world import World

CHAIN = load_chains("official")[0]
URDF = """<robot name="r"><link name="a">
  <visual><geometry><mesh filename="package://seen.obj"/></geometry></visual>
  <collision{concave}><geometry><mesh filename="package://{mesh}"/></geometry></collision>
</link></robot>"""
OBJ = """# made by hand
mtllib x.mtl
o thing
v 0 0 0
v 1 0 0.1
v 0 1 0
vn 0 0 1
vt 0 0

usemtl red
s off
f 1/1/1 2/1/1 3/1/1
"""
LEAN = "mtllib x.mtl\no thing\nv 0 0 0\nv 1 0 0.1\nv 0 1 0\nusemtl red\ns off\nf 1 2 3\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CALVIN_EVAL_CACHE", str(tmp_path / "cache"))
    yield tmp_path
    lean_urdf.cache_clear()
    loadable_urdf.cache_clear()


def test_a_lean_mesh_has_corners_faces_and_what_divides_them() -> None:
    assert lean_obj(OBJ) == LEAN
    assert lean_obj(OBJ.replace("\n", "\r\n")) == LEAN


@pytest.mark.parametrize("line", ["f -1 -2 -3", "f 1 2 3 \\", "curv 0 1 1 2", "f 1 x 3"])
def test_a_mesh_that_says_more_is_left_alone(line: str) -> None:
    assert lean_obj(f"{OBJ}{line}\n") is None


@pytest.mark.parametrize(
    ("mesh", "concave", "short"),
    [("solid.obj", "", True), ("solid.obj", ' concave="yes"', False), ("solid.stl", "", False)],
)
def test_only_convex_wavefront_meshes_are_shortened(
    cache: Path, mesh: str, concave: str, short: bool
) -> None:
    (cache / mesh).write_text(OBJ)
    (cache / "r.urdf").write_text(URDF.format(mesh=mesh, concave=concave))
    text = Path(lean_urdf(cache / "r.urdf")).read_text()
    assert "seen.obj" not in text
    assert (str(cache / mesh) in text) is not short
    assert any(path.read_text() == LEAN for path in cache.glob("cache/urdf/*.obj")) is short


def test_a_urdf_that_cannot_be_understood_is_bullets_to_judge(cache: Path) -> None:
    for text in ("<robot>", URDF.format(mesh="nowhere.obj", concave="")):
        (cache / "r.urdf").write_text(text)
        lean_urdf.cache_clear()
        assert lean_urdf(cache / "r.urdf") == str(cache / "r.urdf")


def bodies(world: World) -> list[Any]:
    """Everything that Bullet says of the bodies of a world and of their shapes."""
    bullet = world.bullet
    facts: list[Any] = []
    for body in range(bullet.getNumBodies()):
        facts.append(bullet.getBodyInfo(body))
        for link in range(-1, bullet.getNumJoints(body)):
            facts.append(bullet.getDynamicsInfo(body, link))
            facts += [shape[:4] + shape[5:] for shape in bullet.getCollisionShapeData(body, link)]
            facts.append(bullet.getAABB(body, link))
            if link >= 0:
                facts += [bullet.getJointInfo(body, link), bullet.getLinkState(body, link)]
            if any(shape[2] == 5 for shape in bullet.getCollisionShapeData(body, link)):
                facts.append(bullet.getMeshData(body, link))  # the hull's corners, in order
    return facts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assets", "scene"), [("builtin", "D"), *[("official", s) for s in "ABCD"]]
)
def test_bodies_without_visuals_are_the_same(
    assets: str, scene: str, request: pytest.FixtureRequest
) -> None:
    pack = load_pack(request.getfixturevalue("official") if assets == "official" else assets)
    found = []
    for visuals in (True, False):
        world = World(pack, scene)
        world.drawn_by_bullet = visuals
        world.reset(CHAIN.robot_obs, CHAIN.scene_obs)
        shown = world.bullet.getVisualShapeData(world.table)
        assert any(shape[4] for shape in shown) is visuals  # read from files
        found.append(bodies(world))
        world.close()
    assert len(found[0]) > 100
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_world_without_visuals_looks_the_same() -> None:
    lit = CHAIN.scene_obs.copy()
    lit[4:6] = 1, 0
    images = []
    for visuals in (True, False):
        with make_env("D", render="fast") as env:
            env.world.drawn_by_bullet = visuals
            for scene_obs in (CHAIN.scene_obs, lit):
                env.start(CHAIN.robot_obs, scene_obs)
                drawn = env.observe(rgb=("static", "gripper"), depth=("static",))
                images.append(drawn)
            if visuals:
                colours = Scene.read(env.world).state(env.world).colours
                bullets = [
                    shape[7]
                    for body in range(env.world.bullet.getNumBodies())
                    for shape in env.world.bullet.getVisualShapeData(body)
                    if shape[2] != 6  # planes are not drawn
                ]
                assert np.array_equal(colours, np.array(bullets, np.float32))
    for with_, without in zip(images[:2], images[2:], strict=True):
        for name, image in with_["rgb_obs"].items():
            assert np.array_equal(image, without["rgb_obs"][name]), name
        assert np.array_equal(
            with_["depth_obs"]["depth_static"], without["depth_obs"]["depth_static"]
        )
    assert not np.array_equal(
        images[0]["rgb_obs"]["rgb_static"], images[1]["rgb_obs"]["rgb_static"]
    )
