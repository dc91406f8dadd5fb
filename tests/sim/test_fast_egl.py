"""The images of `fast` against those of Bullet's EGL plugin on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawn_frames import differences, frames, frames_of_a_child
from requirements import need_egl

from calvin_eval.sim import make_env

pytestmark = pytest.mark.slow

CAMERAS = ("static", "gripper")


@pytest.fixture(scope="module")
def mesa() -> None:
    need_egl("llvmpipe")  # `fast` follows it to the bit; others round otherwise


def assert_near(mine: Any, theirs: Any) -> None:
    for camera in CAMERAS:
        found = differences(mine, theirs, camera)
        assert found["psnr"] >= 50, (camera, found)
        assert found["worst"] >= 42, (camera, found)
        assert found["off"] <= 0.001, (camera, found)
        assert found["depth"] >= 0.995, (camera, found)


def test_the_builtin_pack_looks_as_under_egl(mesa: None, tmp_path: Path) -> None:
    theirs = frames_of_a_child(tmp_path / "egl.npz", "builtin", "D", "egl", 6)
    assert_near(frames("builtin", "D", "fast", 6), theirs)


@pytest.mark.slow
@pytest.mark.parametrize("scene", "ABCD")
def test_the_official_pack_looks_as_under_egl(
    mesa: None, official: str, tmp_path: Path, scene: str
) -> None:
    theirs = frames_of_a_child(tmp_path / "egl.npz", official, scene, "egl", 6)
    assert_near(frames(official, scene, "fast", 6), theirs)


def test_start_states_look_as_in_images_that_upstream_recorded(
    official: str, golden: Path, initial_states: Any
) -> None:
    import imageio.v3 as iio

    folder = golden / "frames_egl_llvmpipe"
    errors = []
    with make_env("D", assets=official, render="fast") as env:
        for chain in (0, 6, 7):
            env.start(*(initial_states[key][chain] for key in ("robot_obs", "scene_obs")))
            for camera, image in env.get_obs()["rgb_obs"].items():
                name = f"sceneD_chain{chain:04d}_step000_{camera[4:]}.png"
                difference = image.astype(float) - iio.imread(folder / name)[..., :3]
                errors.append(np.mean(difference**2))
    assert 10 * np.log10(255**2 / max(errors)) >= 42
