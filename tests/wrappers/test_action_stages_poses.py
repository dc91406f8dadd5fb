"""Frames, rotations, and absolute poses."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from action_contexts import context_at
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.sim.actions import parse_action
from calvin_eval.wrappers.stages.frames import (
    StateRelative,
    TcpToWorld,
    WorldToTcp,
    compose_state_relative,
    tcp_to_world,
    world_to_tcp,
)
from calvin_eval.wrappers.stages.poses import Absolute, Accumulate, Orientation, Relative
from calvin_eval.wrappers.stages.rotations import (
    REPRESENTATIONS,
    convert,
    from_matrix,
    to_matrix,
    wrap,
)
from calvin_eval.wrappers.stages.scale import Scale

# Pitch stays away from +-pi/2, where Euler angles are not unique.
EULER = st.tuples(
    st.one_of(st.floats(-np.pi, np.pi), st.sampled_from([3.1415, -3.1415, np.pi, 3.09])),
    st.floats(-1.4, 1.4),
    st.floats(-np.pi, np.pi),
).map(np.array)
ACTION = hnp.arrays(np.float64, 7, elements=st.floats(-1, 1))


def same_rotation(one: NDArray[Any], other: NDArray[Any], kind: str = "euler_xyz") -> bool:
    return bool(np.allclose(to_matrix(one, kind), to_matrix(other, kind), atol=1e-9))


@pytest.mark.slow
@given(euler=EULER)
@settings(max_examples=20, deadline=None)
def test_every_form_of_a_rotation_leads_to_every_other_and_back(euler: NDArray[Any]) -> None:
    for source, target in itertools.product(REPRESENTATIONS, repeat=2):
        values = convert(euler, "euler_xyz", source)
        assert values.shape == (REPRESENTATIONS[source],)
        assert same_rotation(convert(convert(values, source, target), target, "euler_xyz"), euler)


def test_forms_are_what_their_names_say() -> None:
    """A quarter turn about z, then one about the fixed x axis."""
    matrix = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    half = 0.5
    expected = {
        "euler_xyz_intrinsic": [np.pi / 2, 0, np.pi / 2],
        "quaternion_xyzw": [half, -half, half, half],
        "quaternion_wxyz": [half, half, -half, half],
        "axis_angle": np.array([1, -1, 1]) / np.sqrt(3) * 2 * np.pi / 3,
        "rotation_6d_columns": [0, 0, 1, -1, 0, 0],
        "rotation_6d_rows": [0, -1, 0, 0, 0, -1],
        "rotation_6d_interleaved": [0, -1, 0, 0, 1, 0],
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(from_matrix(matrix, kind), values, atol=1e-12, err_msg=kind)
        np.testing.assert_allclose(to_matrix(np.array(values), kind), matrix, atol=1e-12)
    about_z, about_x = (to_matrix(np.array(v), "euler_xyz") for v in ([0, 0, 0.3], [0.2, 0, 0]))
    np.testing.assert_allclose(to_matrix(np.array([0.2, 0, 0.3]), "euler_xyz"), about_z @ about_x)


def test_a_network_need_not_return_unit_vectors() -> None:
    euler = np.array([3.1, -0.4, 1.2])
    for kind in ("quaternion_xyzw", "quaternion_wxyz", "rotation_6d_rows", "rotation_6d_columns"):
        assert same_rotation(
            convert(1.7 * convert(euler, "euler_xyz", kind), kind, "euler_xyz"), euler
        )
    skew = convert(euler, "euler_xyz", "rotation_6d_columns")
    skew[3:] += 0.3 * skew[:3]
    assert same_rotation(convert(skew, "rotation_6d_columns", "euler_xyz"), euler)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("quaternion_xyzw", [0, 0, 0, 0]),
        ("rotation_6d_rows", [1, 0, 0, 2, 0, 0]),
        ("rotation_6d_interleaved", [0] * 6),
        ("axis_angle", [np.nan, 0, 0]),
        ("euler_xyz", [np.inf, 0, 0]),
    ],
)
def test_what_is_no_rotation_is_an_error(kind: str, values: list[float]) -> None:
    with pytest.raises(PolicyError, match=f"expected a rotation as {kind}"):
        convert(np.array(values, np.float64), kind, "rotation_6d_columns")


def test_reordering_a_quaternion_changes_no_bit() -> None:
    xyzw = np.array([[0.1, 0.7, -0.3, 0.2]])
    wxyz = convert(xyzw, "quaternion_xyzw", "quaternion_wxyz")
    assert wxyz.tolist() == [[0.2, 0.1, 0.7, -0.3]]
    assert convert(wxyz, "quaternion_wxyz", "quaternion_xyzw").tolist() == xyzw.tolist()


def test_angles_are_wrapped_by_whole_turns() -> None:
    inside = np.array([-np.pi, -3.0, 0.0, 1e-9, np.pi])
    assert wrap(inside).tolist() == inside.tolist()
    np.testing.assert_allclose(wrap(inside[1:4] + 2 * np.pi), inside[1:4], atol=1e-12)
    np.testing.assert_allclose(wrap(np.array([3.2, -9.5])), [3.2 - 2 * np.pi, -9.5 + 4 * np.pi])


@given(action=ACTION, euler=EULER)
@settings(max_examples=60, deadline=None)
def test_world_and_tcp_frame_undo_each_other(action: NDArray[Any], euler: NDArray[Any]) -> None:
    there_and_back = tcp_to_world(world_to_tcp(action, euler), euler)
    np.testing.assert_allclose(there_and_back, action, atol=1e-4)
    back_and_there = world_to_tcp(tcp_to_world(action, euler), euler)
    np.testing.assert_allclose(back_and_there, action, atol=1e-4)


def test_frames_of_a_chunk_are_those_of_its_actions() -> None:
    draw = np.random.default_rng(0)
    actions, euler = draw.uniform(-1, 1, (2, 3, 4, 7)), draw.uniform(-1, 1, (2, 3, 4, 3))
    for transform in (world_to_tcp, tcp_to_world):
        whole = transform(actions, euler)
        assert whole.shape == actions.shape
        for index in np.ndindex(2, 3, 4):
            alone = transform(actions[index], euler[index])
            np.testing.assert_allclose(whole[index], alone, atol=1e-12)
        flattened = transform(actions, euler, shape="flattened")
        assert flattened.shape == (2, 12, 1, 7)
        np.testing.assert_array_equal(flattened.ravel(), whole.ravel())


def test_frame_stages_use_the_measured_pose_and_return_doubles() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 7)).astype(np.float32)
    there = WorldToTcp()(actions, context_at())
    assert there.dtype == np.float64
    back = TcpToWorld()(there, context_at())
    np.testing.assert_allclose(back, actions, atol=1e-4)
    elsewhere = TcpToWorld()(there, context_at((0.1, -0.1, 0.5, 3.09, -0.02, 0.5)))
    assert np.abs(elsewhere - actions).max() > 0.1


def test_a_centimetre_at_an_orientation_of_zero_is_half_a_unit() -> None:
    action = np.array([[0.01, 0, 0, 0, 0, 0, 1]], np.float32)
    context = context_at((0.3, 0.1, 0.5, 0, 0, 0))
    result = Scale()(StateRelative()(action, context), context)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, [[0.5, 0, 0, 0, 0, 0, 1]], atol=1e-6)


def test_near_a_roll_of_pi_the_unwrapped_difference_is_one_turn_off() -> None:
    action = np.array([[0.01, 0.01, 0, 0.05, 0, 0, 1]], np.float64)
    context = context_at((0.3, 0.1, 0.5, 3.12, 0, 0.2))
    wrapped, plain = (
        Scale()(StateRelative(euler_wrap=w)(action, context), context)[0] for w in (True, False)
    )
    np.testing.assert_allclose(wrapped - plain, [0, 0, 0, 2 * np.pi * 20, 0, 0, 0], atol=1e-9)
    assert wrapped[3] == pytest.approx(0.05 * 20)


@given(motion=hnp.arrays(np.float64, 6, elements=st.floats(-0.3, 0.3)), euler=EULER)
@settings(max_examples=40, deadline=None)
def test_a_composed_motion_arrives_where_matrices_say(
    motion: NDArray[Any], euler: NDArray[Any]
) -> None:
    pose = np.concatenate([[0.2, -0.3, 0.5], euler])
    reached = pose + compose_state_relative(motion, pose, euler_wrap=True)
    start = to_matrix(euler, "euler_xyz")
    np.testing.assert_allclose(reached[:3], pose[:3] + start @ motion[:3], atol=1e-12)
    turned = start @ to_matrix(motion[3:], "euler_xyz")
    np.testing.assert_allclose(to_matrix(reached[3:], "euler_xyz"), turned, atol=1e-9)


def test_orientation_replaces_the_rotation_alone() -> None:
    euler = np.array([[3.1, -0.2, 1.4], [-3.1, 0.3, 0.2]])
    poses = np.concatenate([np.full((2, 3), 0.3), euler, [[1], [-1]]], axis=1)
    for kind, width in REPRESENTATIONS.items():
        written = Orientation(source="euler_xyz", target=kind)(poses, context_at())
        assert written.shape == (2, 4 + width)
        np.testing.assert_allclose(
            Orientation(source=kind)(written, context_at()), poses, atol=1e-9
        )
    with pytest.raises(PolicyError, match=r"\(k, 10\), found shape \(2, 7\)"):
        Orientation(source="rotation_6d_rows")(poses, context_at())


@pytest.mark.parametrize("target", ["euler_xyz", "quaternion_xyzw"])
def test_absolute_actions_are_what_the_simulator_takes(target: str) -> None:
    poses = np.array([[0.3, 0.1, 0.5, 3.1, -0.2, 1.4, 1], [0.2, 0.1, 0.5, 3.0, -0.2, 1.4, -1]])
    written = Orientation(source="euler_xyz", target=target)(poses, context_at())
    actions = Absolute()(written, context_at())
    parsed = [parse_action(action) for action in actions]
    assert [p.kind for p in parsed] == ["cartesian_abs"] * 2
    assert [p.gripper for p in parsed] == [1, -1]
    for row, p in zip(poses, parsed, strict=True):
        assert p.position is not None
        assert p.orientation is not None
        assert p.position.tolist() == row[:3].tolist()
        assert same_rotation(convert(p.orientation, target, "euler_xyz"), row[3:6])


def test_differences_add_up_on_the_commanded_pose_across_chunks() -> None:
    """vla-eval: from the measured pose at the subtask's start, then on its own commands."""
    memory: dict[str, Any] = {}
    stage = Accumulate()
    start = np.array([0.1, 0.2, 0.5, 3.1, 0.0, 1.0])
    step = np.array([[0.01, 0, 0, 0.03, 0, 0, -1.0]])
    first = stage(np.repeat(step, 2, axis=0), context_at(start, memory=memory))
    np.testing.assert_allclose(first[:, 0], [0.11, 0.12])
    np.testing.assert_allclose(first[:, 3], [3.13, 3.16 - 2 * np.pi])
    assert first[:, 6].tolist() == [-1, -1]
    second = stage(step, context_at(start + 0.5, memory=memory))
    np.testing.assert_allclose(second[0, :6], first[1, :6] + step[0, :6])
    np.testing.assert_allclose(stage(step, context_at(start))[0], first[0])


def test_differences_to_the_measured_pose_do_not_add_up() -> None:
    """3D Diffuser Actor: every pose of a plan is predicted relative to the present one."""
    memory: dict[str, Any] = {}
    stage = Accumulate(start="measured", rows="fixed")
    steps = np.array([[0.01, 0, 0, 0, 0.1, 0, 1.0], [0.02, 0, 0, 0, 0.2, 0, 1.0]])
    for start in (np.full(6, 0.2), np.full(6, 0.4)):
        poses = stage(steps, context_at(start, memory=memory))
        np.testing.assert_allclose(poses[:, :6], start + steps[:, :6])


@given(action=ACTION, euler=EULER)
@settings(max_examples=30, deadline=None)
def test_frames_of_accumulation(action: NDArray[Any], euler: NDArray[Any]) -> None:
    pose = np.concatenate([[0.2, -0.3, 0.5], euler])
    before, turn = to_matrix(euler, "euler_xyz"), to_matrix(action[3:6], "euler_xyz")
    world = Accumulate(frame="world")(action[None], context_at(pose))[0]
    np.testing.assert_allclose(world[:3], pose[:3] + action[:3])
    np.testing.assert_allclose(to_matrix(world[3:6], "euler_xyz"), turn @ before, atol=1e-9)
    tcp = Accumulate(frame="tcp")(action[None], context_at(pose))[0]
    np.testing.assert_allclose(tcp[:3], pose[:3] + before @ action[:3])
    np.testing.assert_allclose(to_matrix(tcp[3:6], "euler_xyz"), before @ turn, atol=1e-9)
    moved = pose + compose_state_relative(action[:6], pose)
    np.testing.assert_allclose(tcp[:3], moved[:3], atol=1e-12)
    assert same_rotation(tcp[3:6], moved[3:])


@pytest.mark.parametrize("start", ["commanded", "measured"])
def test_relative_undoes_accumulation(start: str) -> None:
    draw = np.random.default_rng(4)
    add, take = {}, {}  # type: ignore[var-annotated]
    for decision in range(3):
        steps = np.concatenate([draw.uniform(-0.5, 0.5, (4, 6)), np.ones((4, 1))], axis=1)
        pose = draw.uniform(-3, 3, 6)
        poses = Accumulate(start=start)(steps, context_at(pose, step=decision, memory=add))
        back = Relative(start=start)(poses, context_at(pose, step=decision, memory=take))
        np.testing.assert_allclose(back, steps, atol=1e-9)
