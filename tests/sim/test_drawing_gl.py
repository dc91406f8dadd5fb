from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from requirements import need_renderer

from calvin_eval.errors import RenderError
from calvin_eval.extras import MissingExtraError
from calvin_eval.sim import load_chains, make_env
from calvin_eval.sim.cameras import Camera
from calvin_eval.sim.drawing.gl import GlRenderer
from calvin_eval.sim.drawing.gl_context import GlContext
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.drawing.scene import Scene
from calvin_eval.sim.env import PlayTableEnv

CHAIN = load_chains("official")[0]


@pytest.fixture
def works() -> None:
    need_renderer("gl")


@pytest.fixture
def env(works: None) -> Any:
    with make_env("D") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        yield env


def views(env: PlayTableEnv, **size: int) -> list[Any]:
    cameras = [Camera(spec, env.world) for spec in env.world.pack.cameras.values()]
    return [
        (
            camera.view(),
            camera.projection,
            size.get("width", camera.spec.width),
            size.get("height", camera.spec.height),
        )
        for camera in cameras
    ]


@pytest.mark.slow
def test_many_worlds_are_drawn_at_once(env: PlayTableEnv) -> None:
    scene = Scene.read(env.world)
    renderer = GlRenderer(scene)
    states, cameras = [], []
    for _ in range(3):
        states.append(scene.state(env.world))
        cameras.append(views(env))
        for _ in range(10):
            env.advance([0.5, 0.5, 0.5, 0, 0, 0, 1])
    alone = [renderer.draw(state, seen) for state, seen in zip(states, cameras, strict=True)]
    together = renderer.draw_many(states, cameras)
    assert (alone[0][0][0] != alone[2][0][0]).any()
    for one, other in zip(alone, together, strict=True):
        for (rgb, depth), (same_rgb, same_depth) in zip(one, other, strict=True):
            assert rgb.shape == same_rgb.shape
            assert (rgb != same_rgb).any(axis=-1).mean() < 0.02
            assert np.isclose(depth, same_depth, atol=2 / 65535).mean() > 0.99


@pytest.mark.slow
def test_images_larger_than_bullets_window(env: PlayTableEnv) -> None:
    scene = Scene.read(env.world)
    small, large = (
        GlRenderer(scene).draw(scene.state(env.world), views(env, width=size, height=size))[0][0]
        for size in (300, 1200)
    )
    assert large.shape == (1200, 1200, 3)
    reduced = large.reshape(300, 4, 300, 4, 3).mean(axis=(1, 3))
    assert abs(reduced - small).mean() < 3


@pytest.mark.slow
def test_options_change_what_they_say(env: PlayTableEnv) -> None:
    scene = Scene.read(env.world)
    state, seen = scene.state(env.world), views(env)[:1]
    ((rgb, depth),) = GlRenderer(scene).draw(state, seen)
    assert np.array_equal(np.rint(depth * 65535) / np.float32(65535), depth)
    ((_, finer),) = GlRenderer(scene, DrawOptions(depth_bits=24)).draw(state, seen)
    assert len(np.unique(finer)) > 10 * len(np.unique(depth))
    ((rounded, _),) = GlRenderer(scene, DrawOptions(colour_bits=8)).draw(state, seen)
    assert 0 < (rounded != rgb).mean() < 0.3
    assert abs(rounded.astype(int) - rgb).max() == 1
    renderer = GlRenderer(scene, DrawOptions(first_frames_unshadowed=True))
    images = [renderer.draw(state, seen)[0][0] for _ in range(3)]
    assert images[0].mean() > rgb.mean() + 0.5
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[2], rgb)
    with pytest.raises(RenderError, match="shadow_detail"):
        GlRenderer(scene, DrawOptions(shadow_detail=0.5))


@pytest.mark.processes
def test_a_thread_may_draw_in_the_shared_context(env: PlayTableEnv) -> None:
    scene = Scene.read(env.world)
    renderer, state, seen = GlRenderer(scene), scene.state(env.world), views(env)
    images: list[Any] = []
    thread = threading.Thread(target=lambda: images.extend(renderer.draw(state, seen)))
    thread.start()
    thread.join()
    for (rgb, _), (again, _) in zip(images, renderer.draw(state, seen), strict=True):
        assert np.array_equal(rgb, again)


def test_without_the_extra_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(MissingExtraError, match=r"calvin-eval\[gl\]"):
        GlContext(DrawOptions())


def test_without_a_driver_the_message_names_the_packages(works: None) -> None:
    with pytest.raises(RenderError, match=r"OpenGL 4\.5 .*apt-get install libegl1"):
        GlContext(DrawOptions(), device=99)
