from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import RenderError
from calvin_eval.sim import load_chains, make_env, render
from calvin_eval.sim.packs import CameraSpec

CHAIN = load_chains("official")[0]


@pytest.fixture
def no_egl(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = render.EglProbe(error="the EGL test process ended with code -6 (no driver)")
    monkeypatch.setattr(render, "probe_egl", lambda: broken)


@pytest.fixture
def no_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "library_problem", lambda: "the renderer 'fast' is not built.")


def test_both_cameras_have_the_benchmarks_shapes() -> None:
    with make_env("D", render="tiny") as env:
        obs = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)
        rgb, depth = obs["rgb_obs"], obs["depth_obs"]
        assert rgb["rgb_static"].shape == (200, 200, 3)
        assert rgb["rgb_gripper"].shape == (84, 84, 3)
        assert rgb["rgb_static"].dtype == rgb["rgb_gripper"].dtype == np.uint8
        assert depth["depth_static"].shape == (200, 200)
        assert depth["depth_static"].dtype == np.float32
        assert 3.0 < depth["depth_static"].min() < depth["depth_static"].max() <= 10.0
        assert np.array_equal(env.render(), rgb["rgb_static"])


def test_only_the_named_images_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    original = render.Renderer.draw

    def spy(self: render.Renderer, cameras: Any) -> Any:
        drawn.extend(camera.spec.name for camera in cameras)
        return original(self, cameras)

    monkeypatch.setattr(render.Renderer, "draw", spy)
    with make_env("D", render="tiny") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        env.advance([0, 0, 0, 0, 0, 0, 1])
        env.get_info()
        env.get_state_obs()
        assert drawn == []
        obs = env.observe(rgb=("gripper",), depth=("gripper",))
        assert drawn == ["gripper"]
        assert set(obs["rgb_obs"]) == {"rgb_gripper"}


@pytest.mark.slow
def test_images_do_not_depend_on_which_were_drawn_before() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (12, 7))
    actions[:, 6] = 1
    with make_env("D", render="tiny") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        for action in actions:
            env.advance(action)
        lazy = env.get_obs()
        eager = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)
        for action in actions:
            eager, *_ = env.step(action)
    for kind in ("rgb_obs", "depth_obs"):
        for name, image in lazy[kind].items():
            assert np.array_equal(image, eager[kind][name])
    assert np.array_equal(lazy["robot_obs"], eager["robot_obs"])


def test_a_camera_of_ones_own_size_and_place() -> None:
    spec = CameraSpec(
        name="close", width=64, height=48, fov=40, aspect=64 / 48, near=0.01, far=5,
        look_from=(0.0, -1.5, 1.2), look_at=(0.0, 0.0, 0.5), up=(0.0, 0.0, 1.0),
    )  # fmt: skip
    with make_env("D", render="tiny", cameras=(spec, "gripper")) as env:
        obs = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)
    assert obs["rgb_obs"]["rgb_close"].shape == (48, 64, 3)
    assert obs["rgb_obs"]["rgb_close"].std() > 10


def test_a_broken_driver_is_named_with_its_remedy(no_egl: None) -> None:
    with pytest.raises(RenderError, match=r"code -6 \(no driver\).*apt-get install libegl1"):
        make_env("D", render="egl")


def test_falling_back_to_tiny_is_never_silent(
    no_fast: None, no_egl: None, caplog: pytest.LogCaptureFixture
) -> None:
    with make_env("D", render="auto") as env:
        info = env.render_info
    assert (info.backend, info.requested) == ("tiny", "auto")
    assert "'fast' is not built" in caplog.text
    assert "TinyRenderer" in caplog.text
    assert "differ visibly" in caplog.text


def test_the_probe_survives_a_plugin_that_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        render, "_PROBE", "import os; print('eglInitialize', flush=True); os.abort()"
    )
    render.probe_egl.cache_clear()
    try:
        assert "code -6" in render.probe_egl().error
    finally:
        render.probe_egl.cache_clear()


@pytest.mark.slow
def test_egl_names_its_driver_and_draws_the_first_image_like_every_other(egl: None) -> None:
    with make_env("D", render="egl") as env:
        assert env.render_info.vendor
        assert env.render_info.renderer
        first = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)["rgb_obs"]
        again = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)["rgb_obs"]
        with pytest.raises(RenderError, match="one world drawn with EGL"):
            make_env("D", render="egl")
        assert env.render().std() > 10
    for name, image in first.items():
        assert np.array_equal(image, again[name])


@pytest.mark.slow
def test_a_second_egl_world_may_follow_a_closed_one(egl: None) -> None:
    images = []
    for _ in range(2):
        with make_env("D", render="egl") as env:
            images.append(env.reset(CHAIN.robot_obs, CHAIN.scene_obs)["rgb_obs"]["rgb_static"])
    assert np.array_equal(images[0], images[1])


@pytest.mark.slow
def test_rendering_never_changes_the_physics() -> None:
    actions = np.random.default_rng(1).uniform(-1, 1, (10, 7))
    actions[:, 6] = -1
    states = []
    for backend in ("none", "tiny"):
        with make_env("D", render=backend) as env:
            env.start(CHAIN.robot_obs, CHAIN.scene_obs)
            for action in actions:
                obs, *_ = env.step(action)
            states.append(np.concatenate([obs["robot_obs"], obs["scene_obs"]]))
    assert np.array_equal(states[0], states[1])


@pytest.mark.slow
def test_the_terminal_stays_clean() -> None:
    script = (
        "from calvin_eval.sim import make_env\n"
        "env = make_env('D', render='auto')\n"
        "env.reset(); env.close(); print('done')\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout == "done\n"
    assert child.stderr == "" or "TinyRenderer" in child.stderr
