"""Observation stages: against libraries and formulas, in batches, and per session."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.spatial.transform import Rotation

from calvin_eval.errors import CalvinEvalError, PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.policy import Request, Requirements
from calvin_eval.wrappers.stages import OBSERVATION_STAGES, build_stages
from calvin_eval.wrappers.stages.images import STATISTICS, crop_box
from calvin_eval.wrappers.stages.proprioception import SETS

RNG = np.random.default_rng(0)
STATIC = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
GRIPPER = RNG.integers(0, 256, (84, 84, 3), dtype=np.uint8)
ROBOT = np.array(
    [0.1, -0.2, 0.5, 3.09, -0.03, 1.52, 0.08, -1.2, 1.0, 1.9, -2.1, -0.7, 1.7, 0.6, -1.0]
)


class Recording:
    """A policy that keeps what it is shown and returns chunks of the given length."""

    def __init__(self, length: int = 1) -> None:
        self.requirements = Requirements(rgb=("static", "gripper"))
        self.length = length
        self.seen: list[Request] = []

    def reset(self, session: int, instruction: str) -> None:
        self.instruction = instruction

    def act(self, requests: Sequence[Request]) -> list[np.ndarray[Any, Any]]:
        self.seen += requests
        return [
            np.full((self.length, 7), float(r.obs["robot_obs"][..., 0].sum())) for r in requests
        ]


def observation(mark: float = 0.0) -> dict[str, Any]:
    robot = ROBOT.copy()
    robot[0] = mark
    return {
        "rgb_obs": {"rgb_static": STATIC + np.uint8(mark), "rgb_gripper": GRIPPER},
        "depth_obs": {},
        "robot_obs": robot,
        "scene_obs": np.zeros(24),
    }


def request(mark: float = 0.0, session: int = 0, frames: Sequence[float] = ()) -> Request:
    return Request(
        session=session,
        instruction=" push the Red block",
        position=0,
        step=0,
        obs=observation(mark),
        frames=tuple(observation(frame) for frame in frames),
    )


def pipeline(policy: Recording | None = None, **stages: dict[str, Any]) -> Pipeline:
    built = build_stages(stages, OBSERVATION_STAGES, "policy.observe")
    piped = Pipeline(policy or Recording(), observe=built, actions={})
    for session in range(4):
        piped.reset(session, "push")
    return piped


def shown(piped: Pipeline) -> Request:
    policy = piped.policy
    assert isinstance(policy, Recording)
    return policy.seen[-1]


def seen(stages: dict[str, Any], *requests: Request) -> dict[str, Any]:
    """What the policy sees at the last of the requests."""
    piped = pipeline(**stages)
    for one in requests or (request(),):
        piped.act([one])
    return dict(shown(piped).obs)


def image(camera: str = "static", **options: Any) -> np.ndarray[Any, Any]:
    stages = {"images": {"cameras": [camera], **options}}
    found: np.ndarray[Any, Any] = seen(stages)["rgb_obs"][f"rgb_{camera}"]
    return found


# images


def test_images_without_options_change_nothing() -> None:
    images = seen({"images": {}})["rgb_obs"]
    assert np.array_equal(images["rgb_static"], STATIC)
    assert np.array_equal(images["rgb_gripper"], GRIPPER)
    assert images["rgb_static"].dtype == np.uint8


@pytest.mark.parametrize("name", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_resizing_is_pillows(name: str) -> None:
    method = Image.Resampling[name.upper()]
    expected = np.asarray(Image.fromarray(STATIC).resize((224, 160), method))
    assert np.array_equal(image(size=[224, 160], filter=name), expected)
    assert image("gripper", size=224).shape == (224, 224, 3)


def test_padding_keeps_the_aspect_ratio_on_black() -> None:
    resized = np.asarray(
        Image.fromarray(STATIC[50:150]).resize((224, 112), Image.Resampling.BILINEAR)
    )
    found = image(crop=[0, 50, 200, 150], size=224, fit="pad")
    assert np.array_equal(found[56:168], resized)
    assert not found[:56].any()
    assert not found[168:].any()


def test_crops() -> None:
    assert np.array_equal(image(crop=[20, 180]), STATIC[20:180, 20:180])
    assert np.array_equal(image(crop=[10, 20, 110, 70]), STATIC[20:70, 10:110])
    assert np.array_equal(image(crop=0.95), STATIC[5:195, 5:195])
    assert crop_box(0.5, 101, 84) == (25, 21, 75, 63)
    with pytest.raises(UsageError, match="within 84x84"):
        image("gripper", crop=[20, 180])


def test_a_jpeg_round_trip_is_pillows() -> None:
    buffer = io.BytesIO()
    Image.fromarray(STATIC).save(buffer, format="JPEG", quality=95)
    assert np.array_equal(image(jpeg=95), np.asarray(Image.open(buffer)))
    assert not np.array_equal(image(jpeg=95), STATIC)


@pytest.mark.parametrize("name", sorted(STATISTICS))
def test_normalising_by_name_and_by_numbers(name: str) -> None:
    mean, std = (np.array(values) for values in STATISTICS[name])
    found = image(normalize=name)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, (STATIC / 255 - mean) / std, atol=1e-5)
    by_numbers = image(normalize={"mean": mean.tolist(), "std": std.tolist()})
    assert np.array_equal(found, by_numbers)


def test_ranges() -> None:
    np.testing.assert_allclose(image(values="unit"), STATIC / 255, atol=1e-6)
    np.testing.assert_allclose(image(values="signed"), STATIC / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(image(values="signed"), image(normalize="siglip"), atol=1e-6)


def test_layout_and_order() -> None:
    assert np.array_equal(image(order="bgr"), STATIC[..., ::-1])
    assert np.array_equal(image(layout="chw"), STATIC.transpose(2, 0, 1))
    assert image(layout="chw").flags["C_CONTIGUOUS"]


def test_truncation_lowers_63_of_256_levels_by_one() -> None:
    """As measured on vla-eval's CALVIN benchmark."""
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    one = request()
    obs = {**one.obs, "rgb_obs": {"rgb_static": levels}}
    piped = pipeline(images={"requantize": "truncate"})
    piped.act([Request(session=0, instruction="", position=0, step=0, obs=obs)])
    found = shown(piped).obs["rgb_obs"]["rgb_static"]
    lowered = levels[..., 0].astype(int) - found[..., 0]
    assert set(np.unique(lowered)) == {0, 1}
    assert lowered.sum() == 63


def test_cameras_choose_and_two_stages_treat_two_cameras() -> None:
    stages = {
        "static": {"use": "images", "cameras": ["static"], "size": 224},
        "gripper": {"use": "images", "cameras": ["gripper"], "layout": "chw"},
    }
    images = seen(stages)["rgb_obs"]
    assert images["rgb_static"].shape == (224, 224, 3)
    assert images["rgb_gripper"].shape == (3, 84, 84)


def test_images_after_a_history() -> None:
    stages = {"history": {"length": 2}, "images": {"size": 10}}
    images = seen(stages, request(1), request(2))["rgb_obs"]
    assert images["rgb_static"].shape == (2, 10, 10, 3)
    twice = seen({"images": {"size": 10}, "history": {"length": 2}}, request(1), request(2))
    assert np.array_equal(images["rgb_static"], twice["rgb_obs"]["rgb_static"])


# histories


def marks(obs: dict[str, Any]) -> list[float]:
    return [float(row[0]) for row in obs["robot_obs"]]


WINDOWS = [
    ({"length": 3}, [[1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]),
    (
        {"length": 3, "pad": "repeat"},
        [[1, 1, 1], [1, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]],
    ),
    (
        {"length": 3, "pad": "zeros"},
        [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]],
    ),
    (
        {"length": 3, "stride": 2, "pad": "repeat"},
        [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 4], [1, 3, 5]],
    ),
    ({"length": 2, "stride": 3}, [[1], [2], [3], [1, 4], [2, 5]]),
    ({"length": 1}, [[1], [2], [3], [4], [5]]),
]


@pytest.mark.parametrize(("options", "windows"), WINDOWS)
def test_the_window_at_every_step(options: dict[str, Any], windows: list[list[float]]) -> None:
    piped = pipeline(history={**options, "keys": ["robot_obs", "rgb_static"]})
    for step, window in enumerate(windows, 1):
        piped.act([request(step)])
        obs = dict(shown(piped).obs)
        assert marks(obs) == window
        assert obs["rgb_obs"]["rgb_static"].shape == (len(window), 200, 200, 3)
        assert np.array_equal(obs["rgb_obs"]["rgb_static"][-1], STATIC + np.uint8(step))
        real = 1 + min(step - 1, (options["length"] - 1) * options.get("stride", 1)) // (
            options.get("stride", 1)
        )
        assert obs["history_mask"].tolist() == [False] * (len(window) - real) + [True] * real
        assert obs["rgb_obs"]["rgb_gripper"].shape == (84, 84, 3)


@settings(deadline=None, max_examples=30)
@given(
    length=st.integers(1, 4),
    stride=st.integers(1, 3),
    pad=st.sampled_from(["none", "repeat", "zeros"]),
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
def test_frames_between_decisions_count_like_decisions(
    length: int, stride: int, pad: str, chunks: list[int]
) -> None:
    options = {"length": length, "stride": stride, "pad": pad, "keys": ["robot_obs"]}
    rarely, always = pipeline(history=options), pipeline(history=options)
    assert rarely.requirements.every_step
    step = 0
    for executed in chunks:
        rarely.act([request(step + executed, frames=range(step + 1, step + executed))])
        for mark in range(step + 1, step + executed + 1):
            always.act([request(mark)])
        step += executed
        one, other = shown(rarely).obs, shown(always).obs
        assert np.array_equal(one["robot_obs"], other["robot_obs"])
        assert np.array_equal(one["history_mask"], other["history_mask"])
    assert shown(rarely).frames == ()


def test_a_window_of_decisions_leaves_out_the_frames_between() -> None:
    piped = pipeline(history={"length": 2, "every_frame": False, "keys": ["robot_obs"]})
    assert not piped.requirements.every_step
    piped.act([request(1)])
    piped.act([request(4, frames=[2, 3])])
    assert marks(dict(shown(piped).obs)) == [1, 4]


def test_the_default_window_has_all_images_and_the_state() -> None:
    obs = seen({"proprioception": {}, "history": {"length": 2}}, request(1), request(2))
    assert obs["rgb_obs"]["rgb_static"].shape == (2, 200, 200, 3)
    assert obs["rgb_obs"]["rgb_gripper"].shape == (2, 84, 84, 3)
    assert obs["state"].shape == (2, 15)
    assert obs["robot_obs"].shape == (15,)


def test_a_window_keeps_what_it_saw_when_the_simulator_reuses_its_memory() -> None:
    piped = pipeline(history={"length": 2, "keys": ["robot_obs"]})
    one = request(1)
    piped.act([one])
    one.obs["robot_obs"][0] = 77
    piped.act([request(2)])
    assert marks(dict(shown(piped).obs)) == [1, 2]


def test_an_entry_that_is_not_there_is_named() -> None:
    with pytest.raises(PolicyError, match=r"rgb_tactile.*found.*rgb_static"):
        seen({"history": {"length": 2, "keys": ["rgb_tactile"]}})


STAGES: dict[str, Any] = {
    "instruction": {"strip": True},
    "proprioception": {"fields": "eight", "orientation": "axis_angle"},
    "images": {"size": 12, "normalize": "clip"},
    "history": {"length": 3, "stride": 2, "pad": "zeros"},
}


def test_a_batch_equals_a_loop_and_a_reset_forgets() -> None:
    together, apart = pipeline(**STAGES), pipeline(**STAGES)
    for mark in range(4):
        requests = [request(10 * session + mark, session) for session in range(3)]
        together.act(requests)
        for one in requests:
            apart.act([one])
        first, second = together.policy.seen[-3:], apart.policy.seen[-3:]  # type: ignore[attr-defined]
        for a, b in zip(first, second, strict=True):
            assert a.instruction == b.instruction
            assert np.array_equal(a.obs["state"], b.obs["state"])
            for camera, pixels in a.obs["rgb_obs"].items():
                assert np.array_equal(pixels, b.obs["rgb_obs"][camera])
    together.reset(1, "again")
    together.act([request(5, 0), request(5, 1)])
    kept, forgotten = together.policy.seen[-2:]  # type: ignore[attr-defined]
    assert kept.obs["history_mask"].tolist() == [True, True, True]
    assert forgotten.obs["history_mask"].tolist() == [False, False, True]


def test_stages_never_change_what_they_are_given() -> None:
    one = request(3)
    before = {key: np.array(value) for key, value in one.obs["rgb_obs"].items()}
    robot = one.obs["robot_obs"].copy()
    pipeline(**STAGES).act([one])
    assert all(np.array_equal(before[key], one.obs["rgb_obs"][key]) for key in before)
    assert np.array_equal(robot, one.obs["robot_obs"])


# proprioception


def state(robot: np.ndarray[Any, Any] = ROBOT, **options: Any) -> np.ndarray[Any, Any]:
    piped = pipeline(proprioception=options)
    obs = {**observation(), "robot_obs": robot}
    piped.act([Request(session=0, instruction="", position=0, step=0, obs=obs)])
    found: np.ndarray[Any, Any] = shown(piped).obs["state"]
    return found


@pytest.mark.parametrize(
    ("fields", "indices"),
    [
        ("all", [*range(15)]),
        ("eight", [*range(7), 14]),
        ("seven", [*range(7)]),
        ("pose_and_gripper", [*range(6), 14]),
        (["joints", "gripper_action"], [*range(7, 15)]),
        ([14, "tcp_position", 0], [14, 0, 1, 2, 0]),
    ],
)
def test_fields_of_the_state(fields: Any, indices: list[int]) -> None:
    found = state(fields=fields)
    assert found.dtype == np.float32
    assert np.array_equal(found, ROBOT[indices].astype(np.float32))


def test_the_gripper_and_the_type() -> None:
    assert state(fields=["gripper_action"], gripper="unit").tolist() == [0]
    assert state(dtype="float64").dtype == np.float64


@settings(deadline=None, max_examples=50)
@given(st.tuples(*[st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1)]))
def test_orientations_are_the_same_rotation(euler: tuple[float, float, float]) -> None:
    robot = ROBOT.copy()
    robot[3:6] = euler
    matrix = Rotation.from_euler("xyz", euler).as_matrix()

    def written(orientation: str) -> np.ndarray[Any, Any]:
        return state(robot, fields=["tcp_euler"], orientation=orientation, dtype="float64")

    columns = written("rotation_6d_columns").reshape(2, 3).T
    np.testing.assert_allclose(columns, matrix[:, :2], atol=1e-9)
    interleaved = written("rotation_6d_interleaved").reshape(3, 2)
    np.testing.assert_allclose(interleaved, matrix[:, :2], atol=1e-9)
    quaternion = Rotation.from_quat(written("quaternion_xyzw"))
    np.testing.assert_allclose(quaternion.as_matrix(), matrix, atol=1e-9)
    vector = Rotation.from_rotvec(written("axis_angle"))
    np.testing.assert_allclose(vector.as_matrix(), matrix, atol=1e-9)
    assert np.array_equal(written("euler_xyz"), robot[3:6])


def test_normalising_the_state() -> None:
    numbers = {"mean": [1, 2, 3], "std": [2, 4, 8]}
    found = state(fields=["tcp_position"], **numbers)
    np.testing.assert_allclose(found, (ROBOT[:3] - [1, 2, 3]) / [2, 4, 8], rtol=1e-6)
    found = state(fields=["tcp_position"], low=[-1, -1, 0], high=[1, 1, 1])
    np.testing.assert_allclose(found, [0.1, -0.2, 0.0], atol=1e-6)
    with pytest.raises(PolicyError, match=r"expected 3 numbers each.*found 2"):
        state(fields=["tcp_position"], mean=[0, 0], std=[1, 1])


def test_every_set_is_made_of_fields() -> None:
    assert all(len(state(fields=name)) for name in SETS)


# instructions


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, " push the Red block"),
        ({"strip": True, "capitalize": True, "suffix": "."}, "Push the Red block."),
        ({"strip": True, "lower": True}, "push the red block"),
        ({"suffix": "block"}, " push the Red block"),
        (
            {"strip": True, "template": "What action for {instruction} {here}?"},
            "What action for push the Red block {here}?",
        ),
    ],
)
def test_instructions(options: dict[str, Any], expected: str) -> None:
    piped = pipeline(instruction=options)
    piped.act([request()])
    assert shown(piped).instruction == expected
    piped.reset(0, " push the Red block")
    assert piped.policy.instruction == expected  # type: ignore[attr-defined]


# mistakes


@pytest.mark.parametrize(
    ("stages", "kind", "message"),
    [
        ({"histroy": {"length": 3}}, UnknownNameError, "history"),
        ({"history": {"lenght": 3}}, UnknownNameError, "length"),
        ({"history": {}}, UsageError, "length"),
        ({"history": {"length": 0}}, UsageError, "from 1 up"),
        ({"history": {"length": 2, "pad": "repaet"}}, UnknownNameError, "repeat"),
        ({"images": {"filter": "cubic"}}, UnknownNameError, "bicubic"),
        ({"images": {"size": [1, 2, 3]}}, UsageError, "width, height"),
        ({"images": {"size": "large"}}, UsageError, "width, height"),
        ({"images": {"crop": 1.2}}, UsageError, "fraction"),
        ({"images": {"crop": [1, 2, 3]}}, UsageError, "fraction"),
        ({"images": {"jpeg": 101}}, UsageError, "quality"),
        ({"images": {"normalize": "clipp"}}, UnknownNameError, "clip"),
        ({"images": {"normalize": {"mean": [0, 0, 0]}}}, UsageError, "mean and std"),
        ({"images": {"normalize": {"mean": [0], "std": [1]}}}, UsageError, "three numbers"),
        ({"proprioception": {"fields": "eigth"}}, UnknownNameError, "eight"),
        ({"proprioception": {"fields": ["tcp_eular"]}}, UnknownNameError, "tcp_euler"),
        ({"proprioception": {"fields": [15]}}, UsageError, "0..14"),
        ({"proprioception": {"mean": [1.0]}}, UsageError, "mean and std together"),
        (
            {"proprioception": {"fields": [3, 4], "orientation": "axis_angle"}},
            UsageError,
            "tcp_euler",
        ),
        ({"instruction": {"template": "What to do?"}}, UsageError, "template"),
    ],
)
def test_mistakes_are_explained(
    stages: dict[str, Any], kind: type[CalvinEvalError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        build_stages(stages, OBSERVATION_STAGES, "policy.observe")


def test_images_that_were_changed_already_are_refused() -> None:
    twice = {
        "one": {"use": "images", "values": "unit"},
        "two": {"use": "images", "size": 10},
    }
    with pytest.raises(UsageError, match="float32"):
        seen(twice)


def test_the_documented_stages_are_these() -> None:
    text = (Path(__file__).parents[2] / "docs" / "stages.md").read_text()
    section = text[text.index("## Observation stages") :]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        "images", "history", "proprioception", "instruction",
    ]  # fmt: skip
    for name, kind in OBSERVATION_STAGES.items():
        (row,) = re.findall(rf"^\| `{name}` \| (.*?) \|", section, re.MULTILINE)
        options = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        assert re.findall(r"`(\w+)`", row) == options
