"""The renderers of our own behind the same interface as Bullet's."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from requirements import need_egl, need_renderer

from calvin_eval.errors import RenderError, UsageError
from calvin_eval.results.comparability import DRAWING
from calvin_eval.sim import load_chains, make_env, render
from calvin_eval.sim.drawing.fast import library_problem
from calvin_eval.sim.drawing.fidelity import (
    Pictures,
    StateSelection,
    compare,
    draw_states,
    draw_states_apart,
)
from calvin_eval.sim.drawing.gl_context import context_problem
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.drawing.scene import Scene
from calvin_eval.sim.packs import CameraSpec
from calvin_eval.sim.render import RenderInfo, resolve_backend

CHAIN = load_chains("official")[0]


@pytest.fixture
def fast() -> str:
    need_renderer("fast")
    return "fast"


@pytest.fixture(params=["fast", "gl"])
def own(request: pytest.FixtureRequest) -> str:
    need_renderer(request.param)
    return str(request.param)


def test_an_image_is_a_function_of_the_state_alone(own: str) -> None:
    with make_env("D", render=own) as env:
        first = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)
        for _ in range(5):
            env.advance([1, 0, 0, 0, 0, 0, -1])
        moved = env.get_obs()
        again = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)
    for kind in ("rgb_obs", "depth_obs"):
        for name, image in first[kind].items():
            assert np.array_equal(image, again[kind][name])
            assert not np.array_equal(image, moved[kind][name])


@pytest.mark.slow
def test_several_worlds_of_one_process_are_drawn(own: str) -> None:
    with make_env("D", render=own) as one, make_env("A", render=own) as other:
        first = one.reset(CHAIN.robot_obs, CHAIN.scene_obs)["rgb_obs"]["rgb_static"]
        second = other.reset(CHAIN.robot_obs, CHAIN.scene_obs)["rgb_obs"]["rgb_static"]
        assert np.array_equal(one.render(), first)
        assert np.array_equal(other.render(), second)
    assert (first != second).mean() > 0.1


@pytest.mark.slow
def test_bullets_plugin_and_ours_draw_side_by_side(own: str, egl: None) -> None:
    with make_env("D", render="egl") as bullets, make_env("D", render=own) as ours:
        images = [
            env.reset(CHAIN.robot_obs, CHAIN.scene_obs)["rgb_obs"]["rgb_static"]
            for env in (bullets, ours)
        ]
        assert np.array_equal(bullets.render(), images[0])
        assert np.array_equal(ours.render(), images[1])
    assert images[0].std() > 10
    assert abs(images[0].astype(int) - images[1]).mean() < 1


@pytest.mark.slow
def test_worlds_are_drawn_in_threads(fast: str) -> None:
    def play(scene: str) -> Any:
        with make_env(scene, render=fast) as env:
            env.start(CHAIN.robot_obs, CHAIN.scene_obs)
            images = []
            for _ in range(5):
                env.advance([0.3, -0.5, 0.2, 0, 0.5, 0, 1])
                images.append(env.render())
        return np.stack(images)

    alone = [play(scene) for scene in "AD"]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(play, "AD"))
    assert np.array_equal(alone, together)


@pytest.mark.slow
def test_drawing_leaves_the_physics_alone(own: str) -> None:
    actions = np.random.default_rng(1).uniform(-1, 1, (30, 7))
    actions[:, 6] = -1
    states = []
    for backend in ("none", own):
        with make_env("D", render=backend) as env:
            env.start(CHAIN.robot_obs, CHAIN.scene_obs)
            for action in actions:
                obs, *_ = env.step(action)
                states.append(np.concatenate([obs["robot_obs"], obs["scene_obs"]]))
    half = len(actions)
    assert np.array_equal(states[:half], states[half:])


@pytest.mark.slow
def test_golden_traces_are_upstreams_with_drawing_on(
    own: str, golden: Path, official: str, initial_states: Any
) -> None:
    trace = np.load(golden / "pinned/sceneD.npz")
    for chain in (0, 5) if own == "fast" else (5,):
        key = f"chain{chain:04d}"
        with make_env("D", assets=official, render=own) as env:
            env.start(initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
            steps = None if own == "fast" else 40
            for i, action in enumerate(trace[f"{key}_actions"][:steps]):
                env.render()  # before the state is asked for, and before the next action
                env.advance(action)
                obs = env.get_obs()
                assert np.array_equal(obs["robot_obs"], trace[f"{key}_robot_obs"][i + 1])
                assert np.array_equal(obs["scene_obs"], trace[f"{key}_scene_obs"][i + 1])


def test_a_camera_of_ones_own(own: str) -> None:
    spec = CameraSpec(
        name="close", width=65, height=47, fov=40, aspect=65 / 47, near=0.01, far=5,
        look_from=(0.0, -1.5, 1.2), look_at=(0.0, 0.0, 0.5), up=(0.0, 0.0, 1.0),
    )  # fmt: skip
    with make_env("D", render=own, cameras=(spec, "gripper")) as env:
        obs = env.reset(CHAIN.robot_obs, CHAIN.scene_obs)
    assert obs["rgb_obs"]["rgb_close"].shape == (47, 65, 3)
    assert obs["rgb_obs"]["rgb_close"].std() > 10
    assert obs["depth_obs"]["depth_close"].dtype == np.float32
    assert 0.5 < obs["depth_obs"]["depth_close"].min() < 2


def test_nothing_is_drawn_or_read_until_somebody_looks(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unasked(world: Any) -> Any:
        raise AssertionError("the scene was read")

    with make_env("D", render=own) as env:
        monkeypatch.setattr(Scene, "read", unasked)
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        env.advance([0, 0, 0, 0, 0, 0, 1])
        env.get_info()
        env.get_state_obs()


def test_auto_prefers_our_own_and_says_so_where_it_is_missing(
    fast: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert resolve_backend("auto").backend == "fast"
    assert caplog.text == ""
    monkeypatch.setattr(render, "library_problem", lambda: "the renderer 'fast' is not built.")
    works = render.EglProbe(error="", vendor="Mesa", renderer="llvmpipe", version="4.5")
    monkeypatch.setattr(render, "probe_egl", lambda: works)
    assert resolve_backend("auto").backend == "egl"
    assert "'fast' is not built" in caplog.text
    with pytest.raises(RenderError, match="not built"):
        resolve_backend("fast")


def test_the_record_names_the_renderer_and_its_options(own: str) -> None:
    info = resolve_backend(own, DrawOptions(depth_bits=24))
    document = info.as_dict()
    assert document["backend"] == own
    assert document["renderer"]
    assert document["options"] == {**DRAWING, "depth_bits": 24}
    assert "fidelity" not in document
    assert ("dB" in resolve_backend(own).as_dict().get("fidelity", "")) == (own == "fast")
    assert pickle.loads(pickle.dumps(info)) == info
    assert "options" not in resolve_backend("tiny").as_dict()


def test_what_counts_as_a_default_option_is_the_same_everywhere() -> None:
    assert DrawOptions().as_dict() == DRAWING


def test_options_are_refused_where_they_would_have_no_effect() -> None:
    with pytest.raises(UsageError, match=r"sim\.draw.*tiny draws"):
        resolve_backend("tiny", DrawOptions(depth_bits=24))
    assert resolve_backend("none", DrawOptions(depth_bits=24)).options is None


def test_upstreams_simulator_is_drawn_by_bullet_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    works = render.EglProbe(error="", vendor="Mesa", renderer="llvmpipe", version="4.5")
    monkeypatch.setattr(render, "probe_egl", lambda: works)
    assert resolve_backend("auto", own=False) == RenderInfo(
        backend="egl", requested="auto", vendor="Mesa", renderer="llvmpipe", version="4.5"
    )
    with pytest.raises(UsageError, match="egl or tiny"):
        resolve_backend("fast", own=False)


@pytest.mark.slow
def test_images_are_those_of_bullets_egl_plugin(egl: None) -> None:
    """All scenes of the built-in pack; docs/rendering.md has the numbers of the official one."""
    need_egl("llvmpipe")
    selection = StateSelection("builtin", chains=1)
    reference = draw_states_apart(selection, "egl")
    drawn = {"fast": library_problem(), "gl": context_problem()}
    features = seen_by_a_network(reference)
    for name in [name for name, problem in drawn.items() if not problem]:
        for camera, one in compare(reference, draw_states(selection, name)).items():
            assert one.images == 20
            assert one.pooled > 50, (name, camera, one)
            assert one.worst > 42, (name, camera, one)
            assert one.wide < 0.001, (name, camera, one)
            assert one.depth_equal > 0.995, (name, camera, one)
        unlike = np.linalg.norm(seen_by_a_network(draw_states(selection, name)) - features, axis=1)
        moved = np.linalg.norm(np.diff(features, axis=0), axis=1)  # by 25 steps of the robot
        assert unlike.max() < 0.02 * np.median(moved)


def seen_by_a_network(states: list[Pictures]) -> Any:
    """Features (N, 64) of the static images, by a vision transformer with random weights."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        image_size=200, patch_size=20,
    )  # fmt: skip
    network = ViTModel(config, add_pooling_layer=False).eval()
    images = np.stack([state["static"][0] for state in states]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        tokens = network(torch.from_numpy(images / np.float32(127.5) - 1)).last_hidden_state
    return tokens.mean(dim=1).numpy()


def test_a_comparison_counts_what_differs() -> None:
    black = np.zeros((2, 2, 3), np.uint8)
    other = black.copy()
    other[0, 0, 1], other[1, 1, 2] = 2, 51
    far = np.ones((2, 2), np.float32)
    nearer = far.copy()
    nearer[1, 0] = 0.99
    one = {camera: (black, far) for camera in ("static", "gripper")}
    two = {camera: (other, nearer) for camera in ("static", "gripper")}
    found = compare([one, one], [two, one])["static"]
    assert (found.images, found.largest, found.worst) == (2, 51, pytest.approx(24.77, abs=0.01))
    assert (found.equal, found.wide, found.depth_equal) == (0.75, 0.125, 0.875)
    assert found.pooled == pytest.approx(found.worst + 10 * np.log10(2))
    assert compare([one], [one])["gripper"].pooled == 99
