"""The contract check finds what it says it finds."""

from __future__ import annotations

import numpy as np
import pytest

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.testing import check_chunk, check_policy, fake_request


class Good:
    """Counts decisions per session; the count is in the action."""

    requirements = Requirements(rgb=("static",), depth=("gripper",))

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def reset(self, session, instruction):
        self.counts[session] = 0

    def act(self, requests):
        return [self.decide(r) for r in requests]

    def decide(self, request):
        self.counts[request.session] += 1
        chunk = np.zeros((2, 7))
        chunk[:, 0] = self.counts[request.session] * 0.1
        chunk[:, 6] = 1
        return chunk


def test_good_policies_pass():
    check_policy(Good())


def test_a_policy_that_frees_at_the_end_passes():
    check_policy(FreesImages())
    with pytest.raises(KeyError):  # a session that has ended may end again
        check_policy(EndsOnce())


class NeverForgets(Good):
    def reset(self, session, instruction):
        self.counts.setdefault(session, 0)


class SharesState(Good):
    def decide(self, request):
        self.counts[0] = self.counts.get(0, 0) + 1
        return np.full((1, 7), float(self.counts[0] % 2 or -1))


class Draws(Good):
    def decide(self, request):
        return np.append(np.random.default_rng().uniform(-1, 1, 6), 1.0)[None]


class DependsOnOrder(Good):
    def act(self, requests):
        return [np.append(np.full(6, 0.1 * i), 1.0)[None] for i, _ in enumerate(requests)]


class Mutates(Good):
    def decide(self, request):
        request.obs["rgb_obs"]["rgb_static"][:] = 0
        return super().decide(request)


class MutatesFrames(Good):
    requirements = Requirements(every_step=True)

    def decide(self, request):
        for frame in request.frames:
            frame["robot_obs"][:] = 0
        return super().decide(request)


class KeepsImages(Good):
    """Has a window of images per session, and frees it at the next reset only."""

    def __init__(self):
        super().__init__()
        self.windows = {}

    def reset(self, session, instruction):
        super().reset(session, instruction)
        self.windows[session] = []

    def decide(self, request):
        self.windows[request.session].append(request.obs["rgb_obs"]["rgb_static"].copy())
        return super().decide(request)


class FreesImages(KeepsImages):
    def end(self, session):
        self.windows.pop(session, None)
        self.counts.pop(session, None)


class EndsOnce(FreesImages):
    def end(self, session):
        del self.windows[session]


class EndsAll(Good):
    def end(self, session):
        self.counts = dict.fromkeys(self.counts, 0)


class LooksFurther(Good):
    def decide(self, request):
        assert request.obs["rgb_obs"]["rgb_gripper"] is not None
        return super().decide(request)


class Drops(Good):
    def act(self, requests):
        return super().act(requests)[1:]


class Flat(Good):
    def decide(self, request):
        return super().decide(request)[0]


class HalfOpen(Good):
    def decide(self, request):
        return super().decide(request) * 0.5


class Explodes(Good):
    def decide(self, request):
        return super().decide(request) * np.nan


class Demanding(Good):
    requirements = Requirements(rgb=("tactile",))


class Undeclared(Good):
    requirements = {"rgb": ["static"]}  # type: ignore[assignment]  # noqa: RUF012 - the mistake under test


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (NeverForgets, "a second time"),
        (SharesState, "a second time|another order|one session at a time"),
        (Draws, "a second time"),
        (DependsOnOrder, "another order"),
        (Mutates, "changed its observation"),
        (MutatesFrames, "changed its observation"),
        (KeepsImages, "has ended to keep nothing, found about 36[01] kB"),
        (EndsAll, "another session ends early"),
        (LooksFurther, "rgb_gripper.*list it there"),
        (Drops, "one chunk for each of 1 requests, found 0"),
        (Flat, r"shape \(k, 7\)"),
        (HalfOpen, "exactly -1"),
        (Explodes, "finite"),
        (Demanding, "tactile"),
        (Undeclared, "to be a Requirements"),
    ],
)
def test_bad_policies_are_found(policy, message):
    with pytest.raises(PolicyError, match=message):
        check_policy(policy())


def test_policies_that_draw_can_be_checked_for_form():
    check_policy(Draws(), deterministic=False)


@pytest.mark.parametrize("limit", [1, 2])
def test_batches_are_no_larger_than_the_policy_allows(limit):
    sizes = []

    class Limited(Good):
        max_sessions = limit

        def act(self, requests):
            sizes.append(len(requests))
            return super().act(requests)

    check_policy(Limited())
    assert max(sizes) == limit


def test_history_policies_get_the_frames_between_their_decisions():
    steps = []

    class History(Good):
        requirements = Requirements(rgb=("gripper",), every_step=True)

        def decide(self, request):
            steps.append((request.step, len(request.frames)))
            assert all(set(frame["rgb_obs"]) == {"rgb_gripper"} for frame in request.frames)
            return super().decide(request)

    check_policy(History(), sessions=(0,))
    assert steps[:4] == [(0, 0), (2, 1), (4, 1), (0, 0)]


@pytest.mark.parametrize(
    "chunk",
    [
        np.array([[0, 0, 0, 0, 0, 0, 1.0]]),
        [(np.zeros(3), np.zeros(4), -1)],
        [{"type": "joint_abs", "action": [0, 0, 0, 0, 0, 0, 0, 1]}],
        [{"type": "cartesian_abs", "action": (np.zeros(3), np.zeros(3), 1)}],
    ],
)
def test_every_form_of_action_is_a_chunk(chunk):
    check_chunk(chunk, "here")


@pytest.mark.parametrize("chunk", [[], np.zeros((0, 7)), [np.array([0.0, 0, 0, 1.0])]])
def test_other_forms_are_not(chunk):
    with pytest.raises(PolicyError, match="here: expected"):
        check_chunk(chunk, "here")


def test_fake_requests_hold_what_is_required_and_nothing_else():
    asked = fake_request(Requirements(rgb=("gripper",), privileged=True), 4, 1, 9)
    assert set(asked.obs["rgb_obs"]) == {"rgb_gripper"}
    assert asked.obs["rgb_obs"]["rgb_gripper"].shape == (84, 84, 3)
    assert asked.obs["depth_obs"] == {}
    assert asked.info == {}
    assert (asked.session, asked.position, asked.step) == (4, 1, 9)
