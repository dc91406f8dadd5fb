"""A checkpoint run as a policy gives what the original's steps, written out, give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robovlms_reference import Reference, make_run

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Request
from calvin_eval.wrappers.testing import check_policy

pytestmark = pytest.mark.slow

GOALS = ("push the red block", "open the drawer and look", "turn on the light")
DISCRETE = {
    "type": "DiscreteDecoder", "action_space": "discrete", "n_bin": 256, "min_action": -1,
    "max_action": 1,
}  # fmt: skip
HEADS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "fc": {"type": "FCDecoder"},
    "gpt": {"type": "GPTDecoder"},
    "discrete": DISCRETE,
}
OTHERS: dict[str, dict[str, Any]] = {
    "pre": {"act_head": {"history_type": "pre"}},
    # Without a recurrent head the oldest frame's action is that of its own image.
    "pre-fc": {"act_head": {"history_type": "pre", "type": "FCDecoder"}},
    "pre-discrete": {"act_head": {"history_type": "pre", **DISCRETE}},
    "pooled": {"act_head": {"action_space": "down_sample", "down_sample": "pooling"}},
    "one-camera": {"use_hand_rgb": False},
    "mu-law": {"use_mu_law": True, "mu_val": 255},
    "tcp": {"tcp_rel": True},
    "tcp-mu-law-discrete": {
        "tcp_rel": True,
        "use_mu_law": True,
        "mu_val": 255,
        "act_head": DISCRETE,
    },
    "plain": {"norm_action": False},
}


def request(session: int, step: int, *, goal: str | None = None) -> Request:
    draw = np.random.default_rng(1000 * session + step)
    robot_obs = draw.uniform(-0.4, 0.4, 15)
    robot_obs[3:6] += (2.7, 0.0, 1.5)  # the arm hangs down, near a roll of pi
    obs = {
        "rgb_obs": {
            # One grey level and a little noise: frames of one session differ a lot.
            "rgb_static": _picture(draw, 200),
            "rgb_gripper": _picture(draw, 84),
        },
        "robot_obs": robot_obs,
        "scene_obs": np.zeros(24),
    }
    goal = goal or GOALS[session % len(GOALS)]
    return Request(session=session, instruction=goal, position=0, step=step, obs=obs)


def _picture(draw: np.random.Generator, size: int) -> np.ndarray:
    level = draw.integers(0, 256, (4, 4, 3))
    picture = level.repeat(-(-size // 4), 0).repeat(-(-size // 4), 1)[:size, :size]
    noisy: np.ndarray = (picture * 0.9 + draw.integers(0, 25, picture.shape)).astype(np.uint8)
    return noisy


def compare(folder: Path, family: str, steps: int = 11, **options: Any) -> np.ndarray:
    """Run both on one session, more than two windows long, with a reset on the way."""
    loaded = resolve(str(folder), options=options)
    reference = Reference(folder, family, raw_calvin=options.get("raw_calvin", True))
    actions = []
    for start, goal in ((0, GOALS[0]), (steps, GOALS[1])):
        loaded.policy.reset(3, goal)
        reference.reset()
        for step in range(steps):
            asked = request(3, start + step, goal=goal)
            asked = Request(**{**vars(asked), "step": step})
            (chunk,) = loaded.policy.act([asked])
            found, expected = np.asarray(chunk), reference.step(asked.obs, goal)
            assert found.shape == (1, 7)
            np.testing.assert_allclose(found[0], expected, rtol=2e-4, atol=2e-5, err_msg=f"{step}")
            actions.append(found[0])
    return np.stack(actions)


@pytest.mark.parametrize("family", ["kosmos", "paligemma"])
@pytest.mark.parametrize("head", HEADS)
def test_families_and_heads(tmp_path: Path, family: str, head: str) -> None:
    folder = make_run(tmp_path, family, act_head=HEADS[head])
    actions = compare(folder, family)
    # Where nothing changed, nothing would have been compared.
    assert np.median(actions[:, :6].std(axis=0)) > 1e-3
    assert np.abs(actions[:, :6]).max() <= 0.65


def test_a_reset_restores_the_first_answer(tmp_path: Path) -> None:
    """Whatever was remembered over more than two windows is gone."""
    policy = resolve(str(make_run(tmp_path, "kosmos"))).policy
    answers = []
    for _ in range(2):
        policy.reset(3, GOALS[0])
        answers.append([policy.act([request(3, step)])[0] for step in range(9)])
    np.testing.assert_array_equal(answers[0], answers[1])
    again = policy.act([request(3, 0)])[0]  # the first observation, but without a reset
    assert np.abs(np.asarray(again) - answers[0][0]).max() > 1e-6


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "qwen2_5_vl", "idefics3", "smolvlm"])
def test_other_families_load_and_keep_the_contract(tmp_path: Path, family: str) -> None:
    """The original has no runnable counterpart of these: only loading and sessions are checked."""
    loaded = resolve(str(make_run(tmp_path, family)))
    report = loaded.metadata["load_report"]
    assert report["missing"]["count"] == report["unexpected"]["count"] == 0
    check_policy(loaded.policy)


@pytest.mark.parametrize("values", OTHERS.values(), ids=OTHERS)
def test_histories_cameras_and_action_spaces(tmp_path: Path, values: dict[str, Any]) -> None:
    compare(make_run(tmp_path, "kosmos", **values), "kosmos", steps=6)


def test_actions_in_the_tcp_frame(tmp_path: Path) -> None:
    compare(make_run(tmp_path, "kosmos"), "kosmos", steps=6, raw_calvin=False)


@pytest.mark.parametrize("values", [{}, OTHERS["pre"], {"act_head": DISCRETE}, OTHERS["pooled"]])
def test_a_batch_gives_what_a_loop_gives(tmp_path: Path, values: dict[str, Any]) -> None:
    """Sessions of different ages and instructions of different lengths."""
    folder = make_run(tmp_path, "kosmos", **values)
    together, apart = resolve(str(folder)).policy, resolve(str(folder)).policy
    check_policy(together)
    for session in range(4):
        for policy in (together, apart):
            policy.reset(session, GOALS[session % 3])
    for step in range(7):
        requests = [request(session, step) for session in range(4) if step >= session]
        batch = together.act(requests)
        for one, found in zip(requests, batch, strict=True):
            np.testing.assert_allclose(found, apart.act([one])[0], rtol=1e-4, atol=1e-5)


def test_a_small_batch_limit_changes_nothing(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "kosmos")
    requests = [request(session, 0) for session in range(3)]
    alone = resolve(str(folder), options={"max_batch": 1}).policy.act(requests)
    for found, expected in zip(resolve(str(folder)).policy.act(requests), alone, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_pre_can_take_the_present_frames_action(tmp_path: Path) -> None:
    """The fix differs from the original as soon as there are two frames."""
    folder = make_run(tmp_path, "kosmos", **OTHERS["pre"])
    oldest = resolve(str(folder)).policy
    latest = resolve(str(folder), options={"pre_select": "latest"}).policy
    first = [policy.act([request(0, 0)])[0] for policy in (oldest, latest)]
    np.testing.assert_array_equal(*first)
    second = [np.asarray(policy.act([request(0, 1)])[0]) for policy in (oldest, latest)]
    assert np.abs(second[0] - second[1]).max() > 1e-3
    np.testing.assert_allclose(second[0], first[0], rtol=1e-3, atol=1e-4)  # causal attention


def test_whole_chunks_can_be_executed(tmp_path: Path) -> None:
    """Without the ensemble stage all n actions come, the first of them as before."""
    folder = make_run(tmp_path, "kosmos")
    whole = resolve(str(folder), actions={"ensemble": None}).policy.act([request(0, 0)])[0]
    first = resolve(str(folder)).policy.act([request(0, 0)])[0]
    assert np.shape(whole) == (3, 7)
    np.testing.assert_allclose(np.asarray(whole)[:1], first)


def test_the_temporal_ensemble_averages_the_chunks_of_several_decisions(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "kosmos")
    stages = {"ensemble": None, "split": None, "unnormalize": None, "gripper": None}
    raw = resolve(str(folder), actions=stages).policy
    averaged = resolve(str(folder), options={"ensemble": "temporal"}).policy
    chunks = []
    for step in range(5):
        chunks.append(np.asarray(raw.act([request(0, step)])[0]))
        found = np.asarray(averaged.act([request(0, step)])[0])
        rows = [chunk[step - i] for i, chunk in enumerate(chunks) if step - i < 3]
        mean = np.mean(rows, axis=0)
        np.testing.assert_allclose(found[0, :6], 0.65 * mean[:6], rtol=1e-4, atol=1e-5)
        assert found[0, 6] == (1 if mean[6] > 0.5 else -1)


def test_half_precision_thresholds_in_its_own_type(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "kosmos", trainer={"precision": "bf16"})
    loaded = resolve(str(folder), actions={"ensemble": None, "gripper": None, "split": None,
                                           "unnormalize": None})  # fmt: skip
    assert loaded.metadata["dtype"] == "bfloat16"
    (chunk,) = loaded.policy.act([request(0, 0)])
    probability = np.asarray(chunk)[:, 6]
    assert (probability.astype(np.float32).view(np.uint32) & 0xFFFF == 0).all()  # bfloat16's values


@pytest.mark.parametrize("values", [{}, OTHERS["pre"]])
def test_a_failing_batch_leaves_memories_alone(
    tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine then asks again, one by one; nobody may have seen a frame twice."""
    folder = make_run(tmp_path, "kosmos", **values)
    disturbed, calm = resolve(str(folder)).policy, resolve(str(folder)).policy

    def fail(window: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(disturbed.policy._model.act_head, "forward", fail)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="out of memory"):
            disturbed.act([request(0, 0), request(1, 0)])
    for step in range(3):
        found, expected = (p.act([request(0, step)])[0] for p in (disturbed, calm))
        np.testing.assert_array_equal(found, expected)


def test_a_session_is_kept_until_it_ends_and_not_beyond(tmp_path: Path) -> None:
    policy = resolve(str(make_run(tmp_path, "kosmos"))).policy
    for session in range(300):  # once, more than 256 were an error
        policy.reset(session, GOALS[0])
    policy.act([request(0, 0)])
    policy.act([request(0, 1)])
    policy.end(0)
    with pytest.raises(PolicyError, match="session 0 is unknown at step 2"):
        policy.act([request(0, 2)])


def test_a_batch_of_which_a_part_fails_leaves_all_memories_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions with windows of different lengths are decided in groups, one after another."""
    folder = make_run(tmp_path, "kosmos", **OTHERS["pre"])
    disturbed, calm = resolve(str(folder)).policy, resolve(str(folder)).policy
    for policy in (disturbed, calm):
        policy.act([request(0, 0)])
    features = disturbed.policy._model.features  # type: ignore[attr-defined]
    calls = []

    def second_fails(*inputs: Any) -> Any:
        calls.append(inputs)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return features(*inputs)

    with monkeypatch.context() as patch:
        patch.setattr(disturbed.policy._model, "features", second_fails)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="out of memory"):
            disturbed.act([request(0, 1), request(1, 0)])
    found = disturbed.act([replace(request(0, 1), attempt=1)])
    np.testing.assert_array_equal(found, calm.act([request(0, 1)]))
