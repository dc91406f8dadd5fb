"""RoboAction and its parser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calvin_eval.errors import PolicyError, UnknownNameError, UsageError
from calvin_eval.sim.actions import parse_action
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Request
from calvin_eval.wrappers.robo_action import ControlMode, RoboAction
from calvin_eval.wrappers.robo_action_parser import RoboActionParser, classify
from calvin_eval.wrappers.robo_action_stage import RoboActions
from calvin_eval.wrappers.stages.base import Context

ARM = [0.1, -0.2, 0.3, -0.4, 0.5, -0.6]


def test_an_open_gripper_maps_to_one_under_both_conventions() -> None:
    for convention, opened, closed in (("1_open", 1.0, 0.0), ("1_closed", 0.0, 1.0)):
        for gripper, command in ((opened, 1), (closed, -1)):
            action = RoboAction(
                translation=(0.1, -0.2, 0.3),
                rotation=(-0.4, 0.5, -0.6),
                gripper=gripper,
                gripper_convention=convention,
            )
            vector = action.to_calvin()
            assert vector.tolist() == [*ARM, command]
            assert parse_action(vector).gripper == command


@given(
    arm=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    command=st.sampled_from([-1.0, 1.0]),
    conventions=st.permutations(["1_open", "1_closed"]),
)
@settings(max_examples=20)
def test_to_and_from_calvin(arm: list[float], command: float, conventions: list[str]) -> None:
    vector = np.array([*arm, command])
    action = RoboAction.from_calvin(vector, conventions[0], action_type="move")
    assert action.action_type == "move"
    assert action.to_calvin().tolist() == vector.tolist()
    other = action.with_convention(conventions[1])
    assert other.gripper == 1 - action.gripper
    assert other.to_calvin().tolist() == vector.tolist()
    assert other.with_convention(conventions[0]) == action


def test_defaults_of_the_record() -> None:
    action = RoboAction()
    assert (action.gripper, action.action_type, action.confidence) == (0.0, "unknown", 0.0)
    assert (action.control_mode, action.prediction_horizon) == (ControlMode.VELOCITY, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"translation": (1, 2)}, "3 numbers, found 2"),
        ({"gripper": -1}, "0 to 1"),
        ({"gripper": float("nan")}, "0 to 1"),
        ({"gripper_convention": "open"}, "1_open, 1_closed"),
    ],
)
def test_a_record_refuses_what_it_cannot_mean(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RoboAction(**fields)


def test_from_calvin_refuses_other_vectors() -> None:
    for wrong in (np.zeros(7), np.ones(6), np.ones((1, 7))):
        with pytest.raises(UsageError, match="CALVIN action"):
            RoboAction.from_calvin(wrong)


def numbered(*shape: int) -> Any:
    """An array (..., 7) in which the first number tells the index, all below 1."""
    array = np.zeros((*shape, 7), np.float32)
    array[..., 0] = np.arange(np.prod(shape)).reshape(shape) / 1000
    return array


def test_a_window_of_chunks_gives_batch_0_last_frame_step_0() -> None:
    output = numbered(1, 8, 10)
    for form in (output, torch.from_numpy(output), output.tolist()):
        action = RoboActionParser().parse(form)
        assert action.translation[0] == pytest.approx(0.070)
    chosen = RoboActionParser(batch=1, frame=2, step=3).parse(numbered(2, 8, 10))
    assert chosen.translation[0] == pytest.approx(0.103)


@pytest.mark.parametrize(
    ("shape", "index"), [((2, 5), 4), ((5,), 4), ((), 0)], ids=["3-D", "2-D", "1-D"]
)
def test_fewer_axes_give_batch_0_and_the_last_row(shape: tuple[int, ...], index: int) -> None:
    action = RoboActionParser().parse(numbered(*shape))
    assert action.translation[0] == pytest.approx(index / 1000)


@pytest.mark.parametrize("trailing", [True, False])
def test_what_the_model_returns_is_a_tuple_with_logits(trailing: bool) -> None:
    arm = torch.zeros(1, 8, 10, 6, dtype=torch.bfloat16, requires_grad=True)
    logit = torch.full((1, 8, 10, 1), -4.0)
    logit[0, 7, 0, 0] = 0.3
    output = (arm, logit if trailing else logit[..., 0])
    kept = RoboActionParser().parse(output)
    assert kept.gripper == pytest.approx(1 / (1 + np.exp(-0.3)))
    assert kept.to_calvin()[6] == 1
    split = RoboActionParser(threshold=0.5, convention="1_closed").parse(output)
    assert split.gripper == 0
    assert split.to_calvin()[6] == 1
    assert RoboActionParser(frame=0).parse(output).to_calvin()[6] == -1


@pytest.mark.parametrize(
    ("options", "value", "command"),
    [
        ({}, 1.0, 1),
        ({}, 0.0, -1),
        ({"gripper": "signed"}, -0.1, -1),
        ({"gripper": "signed"}, 0.1, 1),
        ({"gripper": "logit"}, 0.1, 1),
        ({"gripper_high": "close"}, 1.0, -1),
        ({"gripper": "probability", "threshold": 0.8}, 0.7, -1),
        ({"convention": "1_closed"}, 1.0, 1),
        ({"convention": "1_closed", "gripper_high": "close"}, 1.0, -1),
    ],
)
def test_the_seventh_number_is_read_by_convention(
    options: dict[str, Any], value: float, command: int
) -> None:
    action = RoboActionParser(**options).parse([*ARM, value])
    assert action.to_calvin().tolist() == [*ARM, command]


def test_short_vectors_are_filled_up_and_long_ones_cut() -> None:
    short = RoboActionParser().parse([0.1, 0.2, 0.3, 0.4])
    assert short.translation == (0.1, 0.2, 0.3)
    assert short.rotation == (0.4, 0, 0)
    assert short.gripper == 0
    assert RoboActionParser(missing_gripper=1.0).parse(ARM).to_calvin()[6] == 1
    assert RoboActionParser().parse([*ARM, 1.0, 9, 9]).to_calvin().tolist() == [*ARM, 1]


def test_values_are_cut_and_not_rescaled() -> None:
    action = RoboActionParser().parse([3.0, -3.0, 0.5, 0, 0, 0, 3.0])
    assert action.translation == (1.0, -1.0, 0.5)
    assert action.gripper == 1
    wide = RoboActionParser(low=-2, high=2.5).parse([3.0, -3.0, 0.5])
    assert wide.translation == (2.5, -2.0, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 1, 1, 1, 7)),
        np.float32(1),
        np.zeros((0, 7)),
        [np.nan] * 7,
        "left",
        (np.zeros((1, 1, 2, 6)), np.zeros((1, 1, 3, 1))),
        (np.zeros((1, 1, 2, 5)), np.zeros((1, 1, 2, 1))),
    ],
)
def test_other_outputs_are_refused(wrong: Any) -> None:
    with pytest.raises(PolicyError, match="expected"):
        RoboActionParser().parse(wrong)


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(PolicyError, match=r"batch, frame and step of 0, 9 and 0.*\(1, 8, 10, 7\)"):
        RoboActionParser(frame=9).parse(numbered(1, 8, 10))


def test_options_of_the_parser_are_checked() -> None:
    for wrong in ({"gripper": "sigmoid"}, {"gripper_high": "up"}, {"convention": "0_open"}):
        with pytest.raises(UnknownNameError):
            RoboActionParser(**wrong)
    with pytest.raises(UsageError, match="above 1"):
        RoboActionParser(low=1, high=-1)


@pytest.mark.parametrize(
    ("shape", "first", "count"), [((1, 8, 10), 70, 10), ((2, 5), 0, 5), ((4,), 0, 4), ((), 0, 1)]
)
def test_a_trajectory_has_every_action_with_what_is_left(
    shape: tuple[int, ...], first: int, count: int
) -> None:
    actions = RoboActionParser().parse_trajectory(numbered(*shape), "turn on the light")
    assert [a.prediction_horizon for a in actions] == list(range(count, 0, -1))
    indices = [round(a.translation[0] * 1000) for a in actions]
    assert indices == list(range(first, first + count))
    assert {a.action_type for a in actions} == {"turn"}


def test_bins_count_down_from_the_largest_value() -> None:
    middle = 1 - 1 / 255
    action = RoboActionParser().parse_discrete([0, 1, 128, 254, 255, 999, 0])
    assert action.translation == pytest.approx((middle, middle, 0))
    assert action.rotation == pytest.approx((2 / 255 - middle, -middle, -middle))
    assert action.to_calvin()[6] == 1
    assert RoboActionParser().parse_discrete(torch.tensor([255] * 7)).to_calvin()[6] == -1
    with pytest.raises(PolicyError, match="whole numbers"):
        RoboActionParser().parse_discrete([0.5] * 7)


@pytest.mark.parametrize(
    ("text", "kind", "mode"),
    [
        ("Push the sliding door to the left side", "move", ControlMode.VELOCITY),
        ("rotate the red block", "turn", ControlMode.VELOCITY),
        ("grasp and lift the blue block", "grab", ControlMode.POSITION),
        ("place it in the drawer", "release", ControlMode.POSITION),
        ("navigate to the table", "navigate", ControlMode.TRAJECTORY),
        ("앞으로 이동해", "move", ControlMode.VELOCITY),
        ("멈춰", "stop", ControlMode.VELOCITY),
        ("take a nonstop removal", "grab", ControlMode.POSITION),
        ("", "unknown", ControlMode.VELOCITY),
    ],
)
def test_instructions_give_a_type_and_a_control_mode(
    text: str, kind: str, mode: ControlMode
) -> None:
    assert classify(text) == kind
    assert RoboActionParser().parse(ARM, text).control_mode == mode


def test_the_stage_reads_rows_as_robo_actions() -> None:
    stage = resolve("builtin:still", actions={"robo_action": {"high": 0.5}}).metadata["stages"]
    assert stage["actions"]["robo_action"]["high"] == 0.5
    context = Context(request=Request(session=0, instruction="lift it", position=0, step=0, obs={}))
    rows = np.array([[0.1, -2, 0.9, 0, 0, 0, 0.6, 9], [0, 0, 0, 0, 0, 0.2, 0.5, 9]])
    found = RoboActions(high=0.5)(rows, context)
    assert found.tolist() == [[0.1, -1, 0.5, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0.2, -1]]
    records = RoboActions().records(rows, "lift it")
    assert [(r.action_type, r.prediction_horizon) for r in records] == [("grab", 2), ("grab", 1)]
    with pytest.raises(UsageError, match="high of robo_action: expected a number above"):
        RoboActions(low=1, high=1)


@pytest.mark.parametrize(
    ("logit", "expected"), [(0.0, 0.0), (2.0, 0.7616), (-2.0, 0.7616), (40.0, 1.0)]
)
def test_confidence_is_the_margin_of_the_gripper(logit: float, expected: float) -> None:
    output = (np.zeros((1, 1, 2, 6)), np.full((1, 1, 2, 1), logit))
    for convention in ("1_open", "1_closed"):
        action = RoboActionParser(convention=convention, threshold=0.5).parse(output)
        assert action.confidence == pytest.approx(expected, abs=1e-4)
    assert RoboActionParser().parse(np.zeros(6)).confidence == 0  # nobody said


def test_confidence_of_words_is_the_mean_of_their_probabilities() -> None:
    ids, parser = np.array([0, 255, 128, 128, 128, 128, 0]), RoboActionParser()
    sure = parser.parse_discrete(ids, probabilities=[1, 1, 1, 1, 1, 1, 0.5])
    assert sure.confidence == pytest.approx(0.5 ** (1 / 7))
    assert sure.translation == parser.parse_discrete(ids).translation
    assert parser.parse_discrete(ids, probabilities=np.zeros(7)).confidence < 1e-6
    with pytest.raises(PolicyError, match="probabilities from 0 to 1"):
        parser.parse_discrete(ids, probabilities=[2.0])


def test_confidence_of_an_ensemble_is_its_agreement() -> None:
    parser, low, high = RoboActionParser(), np.full(7, -1.0), np.full(7, 1.0)
    low[6], high[6] = 0, 1
    assert parser.parse_ensemble([low, low, low]).confidence == 1
    apart = parser.parse_ensemble([low, high])
    assert apart.confidence == 0
    assert (apart.translation, apart.gripper) == ((0, 0, 0), 0.5)
    half = parser.parse_ensemble([np.zeros(7), np.full(7, 0.5)])
    assert half.confidence == pytest.approx(0.75)
    with pytest.raises(PolicyError, match="at least one prediction"):
        parser.parse_ensemble([])


def test_the_horizon_is_what_the_chunk_still_has() -> None:
    output = np.zeros((1, 8, 10, 7))
    assert RoboActionParser().parse(output).prediction_horizon == 10
    assert RoboActionParser(step=7).parse(output).prediction_horizon == 3
    assert RoboActionParser(step=-1).parse(output).prediction_horizon == 1
    assert RoboActionParser().parse(np.zeros(7)).prediction_horizon == 1


def test_control_modes_can_be_chosen() -> None:
    parser = RoboActionParser(control_mode=ControlMode.FORCE)
    assert parser.parse(np.zeros(7), "lift it").control_mode == ControlMode.FORCE


def test_limits_shorten_and_keep_the_direction() -> None:
    action = RoboAction(translation=(3, 0, 4), rotation=(0, 0.1, 0)).limited(1, 0.5)
    assert action.translation == pytest.approx((0.6, 0, 0.8))
    assert action.rotation == (0, 0.1, 0)
    assert RoboAction(translation=(3, 0, 4)).limited().translation == (3, 0, 4)


def test_the_stage_has_limits_and_holds_still_where_the_network_is_unsure() -> None:
    context = Context(request=Request(session=0, instruction="", position=0, step=0, obs={}))
    stage = RoboActions(most_translation=0.5, most_rotation=0.1, least_confidence=0.4)
    rows = np.array([[0.6, 0, 0.8, 0, 0, 1, 0.9], [0.6, 0, 0.8, 0, 0, 1, 0.6]])
    np.testing.assert_allclose(
        stage(rows, context), [[0.3, 0, 0.4, 0, 0, 0.1, 1], [0, 0, 0, 0, 0, 0, 1]]
    )
    with pytest.raises(UsageError, match="most_rotation of robo_action"):
        RoboActions(most_rotation=-1)
