"""What executed actions alone tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demonstrating import UNITS, recorded

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.builtin.random import RandomPolicy
from calvin_eval.wrappers.check import examine

Change = Callable[[Any], Any]


def executed(change: Change = lambda actions: actions) -> list[Any]:
    return [list(change(motion.actions.copy())) for motion in recorded()]


def codes(change: Change) -> list[tuple[str, str]]:
    chains = [motion.chain for motion in recorded()]
    return [(f.code, f.severity) for f in examine(executed(change), chains=chains)]


def scaled(position: float, rotation: float = 1.0) -> Change:
    return lambda actions: actions * np.repeat([position, rotation, 1.0], [3, 3, 1])


def shifted(column: int, by: float) -> Change:
    return lambda actions: actions + by * np.eye(7)[column]


def turned(actions: Any) -> Any:
    actions[3::17, 3] += 125.66
    return actions


def poses(actions: Any) -> list[Any]:
    ways = np.array([0.05, -0.1, 0.5, 3.1, 0, 1.5]) + np.cumsum(actions[:, :6] * UNITS, axis=0)
    return [(way[:3], way[3:], action[6]) for way, action in zip(ways, actions, strict=True)]


def test_demonstrations_are_not_suspicious() -> None:
    assert codes(lambda actions: actions) == []
    assert codes(poses) == []


@pytest.mark.slow
def test_the_experts_chains_are_not_suspicious(golden: Path) -> None:
    with np.load(golden / "expert/pinned_sceneD.npz") as archive:
        index = json.loads(str(archive["index"]))
        for chain in {entry[0] for entry in index}:
            names = [f"chain{c:04d}_sub{p}_actions" for c, p, *_ in index if c == chain]
            subtasks = [list(archive[name]) for name in names]
            assert examine(subtasks) == [], f"chain {chain}"
            first = subtasks[: 1 + int(np.argmax(np.cumsum([len(s) for s in subtasks]) >= 200))]
            assert examine(first) == [], f"the beginning of chain {chain}"


def test_the_random_policy_is_not_suspicious() -> None:
    policy = RandomPolicy()
    chains = [[policy.action(chain, 0, step) for step in range(360)] for chain in range(4)]
    assert examine(chains, chains=range(4)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (scaled(0.02), ("position-scale", "error")),
        (scaled(50), ("position-scale", "error")),
        (scaled(1, 20), ("rotation-scale", "error")),
        (lambda a: a * np.nan, ("not-finite", "error")),
        (lambda a: a * 0 + 0.5, ("constant", "error")),
        (lambda a: np.column_stack([a[:, :6], 0 * a[:, 6] + 1]), ("gripper-constant", "warning")),
        (lambda a: np.sign(a), ("position-saturated", "warning")),
        (shifted(0, 0.6), ("position-drift", "warning")),
        (turned, ("rotation-jump", "warning")),
        (lambda a: [(50 * p, o, g) for p, o, g in poses(a)], ("pose-outside", "error")),
    ],
    ids=["metres", "x50 twice", "x20 twice", "nan", "constant", "gripper", "saturated", "drift",
         "full turns", "poses scaled"],
)  # fmt: skip
def test_marks_of_a_wrong_convention(change: Change, expected: tuple[str, str]) -> None:
    assert expected in codes(change)


def test_rotations_in_radians_show_after_a_thousand_actions() -> None:
    short, long = executed(scaled(1, 0.05)), executed(scaled(1, 0.05)) * 4
    assert examine(short) == []
    assert [finding.code for finding in examine(long)] == ["rotation-scale"]


def test_jitter_is_told_from_motion() -> None:
    draw = np.random.default_rng(0)
    jitter = codes(lambda a: np.column_stack([draw.uniform(-1, 1, (len(a), 6)), a[:, 6]]))
    assert jitter == [("jitter", "warning")]


def test_few_actions_say_nothing() -> None:
    assert examine([[np.full(7, np.nan)] * 199]) == []
    assert examine([]) == []


def test_a_chain_ends_where_the_next_begins() -> None:
    """Two chains that each go half a metre have not gone a metre together."""
    actions = executed(shifted(0, 0.15))
    assert examine(actions, chains=[0, 0, 0, 1, 1, 1]) == []
    assert [finding.code for finding in examine(actions * 2)] == ["position-drift"]


def test_what_is_no_action_is_refused() -> None:
    with pytest.raises(PolicyError, match="expected an action of 7 numbers"):
        examine([[np.zeros(5)] * 300])
