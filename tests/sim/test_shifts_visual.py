"""Visual shifts: what is drawn changes, what is simulated does not."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import RenderError, UsageError
from calvin_eval.shifts import AXES, LEVELS, Shifts
from calvin_eval.sim.chains import Chain, load_chains
from calvin_eval.sim.drawing import fast
from calvin_eval.sim.drawing.light import POSITION, Lamp
from calvin_eval.sim.env import PlayTableEnv, make_env
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.shifts.cameras import UPRIGHT, moved_camera
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.shifts.distractors import things
from calvin_eval.sim.shifts.lights import lamp_of
from calvin_eval.sim.shifts.looks import check_drawable
from calvin_eval.sim.shifts.sensors import Sensor
from calvin_eval.sim.shifts.textures import _PATTERNS, generated
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.shifts.visibility import ENOUGH, FINE, pixels, target_of

PACK = load_pack("builtin")
CHAIN = load_chains("official")[3]
VISUAL = [name for name, axis in AXES.items() if axis.kind in ("visual", "sensor")]
ACTIONS = [np.array([0.4, 0.1, -0.5, 0.1, 0, 0.2, -1.0])] * 4

pytestmark = pytest.mark.skipif(bool(fast.library_problem()), reason="fast is not built")


def variant(text: str) -> Chain:
    return shifted(CHAIN, Shifts.parse(text), PACK.scene("D"))


def films(env: PlayTableEnv, chain: Chain) -> tuple[np.ndarray, np.ndarray]:
    """States and images of both cameras from a chain's start on."""
    env.start(chain.robot_obs, chain.scene_obs, chain.variant)
    states, images = [], []
    for action in [None, *ACTIONS]:
        if action is not None:
            env.advance(action)
        seen: Any = env.observe(rgb=("static", "gripper"))
        states.append(np.concatenate([seen["robot_obs"], seen["scene_obs"]]))
        images.append(np.concatenate([image.ravel() for image in seen["rgb_obs"].values()]))
    return np.array(states), np.array(images)


@cache
def clean() -> tuple[np.ndarray, np.ndarray]:
    with make_env("D", render="fast") as env:
        return films(env, CHAIN)


@pytest.mark.slow
@pytest.mark.parametrize("axis", VISUAL)
def test_a_visual_shift_changes_images_and_no_state(axis: str) -> None:
    """Level after level, and the same again in the same world; then the clean images return."""
    states, images = clean()
    far = []
    with make_env("D", render="fast") as env:
        most = max(level for level in LEVELS if not AXES[axis].is_physical(level))
        for level in (1, most, most):
            found_states, found = films(env, variant(f"{axis}={level}"))
            assert np.array_equal(found_states, states)
            far.append(np.abs(found.astype(int) - images).mean())
            last = found
        assert np.array_equal(last, found)
        assert 0 < far[0] < far[1] == far[2]
        back_states, back = films(env, CHAIN)
    assert np.array_equal(back_states, states)
    assert np.array_equal(back, images)


@pytest.mark.slow
def test_several_shifts_are_drawn_together() -> None:
    with make_env("D", render="fast") as env:
        both = films(env, variant("camera=2,light=2"))[1]
        alone = [films(env, variant(text))[1] for text in ("camera=2", "light=2")]
    assert not any(np.array_equal(both, one) for one in alone)


def test_the_matrices_are_those_of_the_shifted_camera() -> None:
    moved = variant("camera=5")
    with make_env("D", render="fast") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        before = env.camera_matrices(("static", "gripper"))
        env.start(moved.robot_obs, moved.scene_obs, moved.variant)
        after = env.camera_matrices(("static", "gripper"))
    for name in ("static", "gripper"):
        for kind in ("intrinsic", "extrinsic"):
            assert not np.allclose(before[name][kind], after[name][kind])
        turn = after[name]["extrinsic"][:3, :3]
        assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-6)


def test_an_unshifted_camera_is_the_packs() -> None:
    for spec in PACK.cameras.values():
        assert moved_camera(None, spec) == (spec, UPRIGHT)
        assert moved_camera(variant("light=5").variant, spec) == (spec, UPRIGHT)


@pytest.mark.parametrize("level", [1, 5])
def test_the_light_is_turned_by_as_much_as_the_level_says(level: int) -> None:
    shift = variant(f"light={level}").variant
    assert shift is not None
    lamp, own = np.array(lamp_of(shift).position), np.array(POSITION)
    angle = np.degrees(np.arccos(lamp @ own / np.linalg.norm(lamp) / np.linalg.norm(own)))
    span = AXES["light"].ranges["direction"].at(level)
    assert span / 2 <= angle <= span
    assert np.linalg.norm(lamp) == pytest.approx(np.linalg.norm(own))
    assert lamp[2] > 0


def test_without_the_axis_the_light_is_bullets() -> None:
    shift = variant("camera=5").variant
    assert shift is not None
    assert lamp_of(shift) == Lamp()


def test_bullets_own_light_set_by_hand_draws_the_same_image() -> None:
    """The numbers that another lamp replaces are those that the renderer has built in."""
    with make_env("D", render="fast") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        before = env.observe(rgb=("static",))["rgb_obs"]["rgb_static"]
        drawer: Any = env._renderer._drawn[1]  # type: ignore[index]
        drawer.set_light(Lamp(ambient=0.1))
        dark = env.observe(rgb=("static",))["rgb_obs"]["rgb_static"]
        drawer.set_light(Lamp())
        again = env.observe(rgb=("static",))["rgb_obs"]["rgb_static"]
        with pytest.raises(RenderError, match="finite"):
            drawer.set_light(Lamp(shade=float("nan")))
    assert dark.mean() < before.mean() - 10
    assert np.array_equal(before, again)


def test_textures_repeat_without_a_seam_and_fill_their_range() -> None:
    for pattern in _PATTERNS:
        drawn = pattern(np.random.RandomState(3))
        assert drawn.shape == (256, 256)
        assert drawn.min() >= 0
        assert drawn.max() <= 1
        assert np.ptp(drawn) > 0.9
    assert np.array_equal(generated(np.random.RandomState(3)), generated(np.random.RandomState(3)))


def test_renderers_that_cannot_draw_a_shift_refuse_it() -> None:
    for axis in ("light", "appearance", "distractors"):
        for backend in ("gl", "egl", "tiny"):
            with pytest.raises(UsageError, match=f"--render fast with --shift {axis}=3"):
                check_drawable(Shifts.parse(f"{axis}=3"), backend)
        for backend in ("fast", "none"):
            check_drawable(Shifts.parse(f"{axis}=3"), backend)
    check_drawable(Shifts.parse("camera=3,layout=2"), "tiny")
    check_drawable(Shifts.parse("sensor=3"), "gl")
    check_drawable(Shifts.parse("distractors=4"), "tiny")  # bodies of the world, as any other
    with pytest.raises(UsageError, match="egl draws the present moment only"):
        check_drawable(Shifts.parse("sensor=3"), "egl")
    moved = variant("light=1")
    with (
        make_env("D", render="tiny") as env,
        pytest.raises(UsageError, match="tiny draws by a light"),
    ):
        env.start(moved.robot_obs, moved.scene_obs, moved.variant)


def sensor(level: int, chain: int = 3) -> Sensor:
    found = Sensor.of(Variant(shifts=Shifts.parse(f"sensor={level}"), chain=chain))
    assert found is not None
    return found


@pytest.mark.parametrize(("level", "late"), [(1, 0), (3, 1), (5, 2)])
def test_images_are_late_and_some_never_come(level: int, late: int) -> None:
    faults, shown = sensor(level), [0]
    for step in range(1, 400):
        shown.append(faults.shown(step, shown[-1]))
    lag = np.arange(400) - shown
    assert np.diff(shown).min() >= 0  # time never runs backwards
    assert lag[late:].min() == late
    span = AXES["sensor"].ranges["dropped"].at(level)
    repeated = np.mean(np.diff(shown)[late:] == 0)
    assert 0 < repeated < 1.5 * span + 0.02


@pytest.mark.slow
def test_a_late_image_is_the_one_of_that_moment() -> None:
    """Faults of the sensor aside, a delayed camera shows what a punctual one showed then."""
    moved = variant("sensor=5")
    with make_env("D", render="fast") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        on_time = [env.observe(rgb=("gripper",))["rgb_obs"]["rgb_gripper"]]
        for action in ACTIONS * 3:
            env.advance(action)
            on_time.append(env.observe(rgb=("gripper",))["rgb_obs"]["rgb_gripper"])
        env.start(moved.robot_obs, moved.scene_obs, moved.variant)
        faults, seen = Sensor.of(moved.variant), 0
        assert faults is not None
        for step, action in enumerate(ACTIONS * 3, 1):
            env.advance(action)
            seen = faults.shown(step, seen)
            if step % 5 == 0:  # nothing has to be drawn in between
                found = env.observe(rgb=("gripper",))["rgb_obs"]["rgb_gripper"]
                assert seen < step
                assert np.array_equal(found, faults.spoiled(on_time[seen], "gripper", seen))


def test_noise_is_of_its_frame_and_its_camera() -> None:
    image = np.full((84, 84, 3), 128, np.uint8)
    faults = sensor(3)
    first = faults.spoiled(image, "gripper", 4)
    assert np.array_equal(first, sensor(3).spoiled(image, "gripper", 4))
    assert not np.array_equal(first, faults.spoiled(image, "gripper", 5))
    assert not np.array_equal(first, faults.spoiled(image, "static", 4))
    assert first.shape == image.shape
    assert first.dtype == np.uint8


@pytest.mark.parametrize("level", [1, 3, 5])
def test_distractors_stand_clear_of_blocks_and_button(level: int) -> None:
    blocks = CHAIN.scene_obs[6:].reshape(3, 6)[:, :2]
    for chain in range(20):
        shift = Variant(shifts=Shifts.parse(f"distractors={level}"), chain=chain)
        standing = things(shift, blocks, -0.12)
        assert len(standing) == AXES["distractors"].ranges["count"].at(level)
        places = np.array([thing.place for thing in standing])
        gaps = np.linalg.norm(places[:, None] - blocks, axis=-1)
        assert gaps.min() > 0.085
        assert np.linalg.norm(places - (-0.12, -0.12), axis=1).min() > 0.085


def test_distractors_of_high_levels_are_bodies_that_stand_where_they_are_drawn() -> None:
    seen, touched = variant("distractors=3"), variant("distractors=5")
    with make_env("D", render="fast") as env:
        env.start(seen.robot_obs, seen.scene_obs, seen.variant)
        bodies, few = env.world.bullet.getNumBodies(), env.world.distractors
        env.start(touched.robot_obs, touched.scene_obs, touched.variant)
        many = env.world.distractors
        assert many[: len(few)] == few  # the higher level adds some
        assert env.world.bullet.getNumBodies() == bodies + len(many)
        for _ in range(20):
            env.advance(np.array([0, 0, 0, 0, 0, 0, 1.0]))
        for number, thing in enumerate(many):
            place, _ = env.world.bullet.getBasePositionAndOrientation(bodies + number)
            assert np.allclose(place, thing.centre, atol=3e-3)


def test_pixels_of_a_target_are_counted_where_it_is_seen() -> None:
    with make_env("D", render="fast", draw=FINE) as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        body, link = target_of("lift_blue_block_table", env) or (-1, -1)
        assert (body, link) == (env.world.blocks["block_blue"], None)
        seen = pixels(env, (body, link))
        image = env.observe(rgb=("static",))["rgb_obs"]["rgb_static"].astype(int)
        blue = (image[..., 2] > 100) & (image[..., :2].max(axis=-1) < 60)
        assert abs(seen["static"] - np.count_nonzero(blue)) < 0.3 * seen["static"]
        assert seen["static"] > ENOUGH
        env.world.bullet.resetBasePositionAndOrientation(body, (0, 0, -3), (0, 0, 0, 1))
        assert pixels(env, (body, link)) == {"static": 0, "gripper": 0}


def test_tasks_name_their_targets() -> None:
    with make_env("D", render="none") as env:
        env.start(CHAIN.robot_obs, CHAIN.scene_obs)
        links = {
            "open_drawer": "drawer_link", "move_slider_left": "slide_link",
            "turn_on_lightbulb": "switch_link", "turn_off_led": "button_link",
        }  # fmt: skip
        for task, link in links.items():
            assert target_of(task, env) == (env.world.table, env.world.links[link])
        pink = env.world.blocks["block_pink"], None
        assert target_of("push_pink_block_left", env) == pink
        for task in ("stack_block", "place_in_drawer", "push_into_drawer"):
            assert target_of(task, env) is None
