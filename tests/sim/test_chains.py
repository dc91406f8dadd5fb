"""Chain lists against the recorded ones, and the rules and random draws behind them."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.sim import chains as chains_module
from calvin_eval.sim import initial_states, sequences
from calvin_eval.sim.chains import DEV_SHA256, OFFICIAL_SHA256, load_chains
from calvin_eval.sim.initial_states import initial_robot_obs, initial_scene_obs
from calvin_eval.sim.sequences import draw_sequences, encode, fnv1_32, generate
from calvin_eval.sim.symbolic import (
    BLOCKS,
    TASK_NAMES,
    SymbolicState,
    is_valid,
    outcomes,
)
from calvin_eval.sim.symbolic import initial_states as symbolic_states

STATE: dict[str, Any] = {
    "led": 0,
    "lightbulb": 0,
    "slider": "right",
    "drawer": "closed",
    "red_block": "table",
    "blue_block": "slider_right",
    "pink_block": "table",
    "grasped": 0,
}
TASKS = ["open_drawer", "close_drawer"]

# Of upstream's own `get_sequences(7)`, run at fa03f01.
UPSTREAM_7_SHA256 = "6dde88f346fb371262bfa2616840bf013f509dfbef07d86b54c7ce7279aef28e"


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def no_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("chains were drawn")

    monkeypatch.setattr(sequences, "draw_sequences", fail)
    monkeypatch.setattr(sequences, "_transitions", fail)
    chains_module._shipped.cache_clear()


# The lists


def test_official_equals_the_recorded_sequences(golden: Path) -> None:
    recorded = json.loads((golden / "sequences.json").read_text(encoding="utf-8"))
    ours = [[dict(c.initial_state), list(c.tasks)] for c in load_chains("official")]
    assert ours == recorded
    assert json.dumps(ours) == json.dumps(recorded)  # plain ints, the same order of keys


def test_official_equals_the_recorded_initial_states(golden: Path) -> None:
    recorded = np.load(golden / "initial_states.npz")
    official = load_chains("official")
    assert np.array_equal([c.robot_obs for c in official], recorded["robot_obs"])
    assert np.array_equal([c.scene_obs for c in official], recorded["scene_obs"])


def test_the_recorded_file_is_the_official_list(golden: Path) -> None:
    from_file = load_chains(golden / "sequences.json")
    assert from_file.name == "sequences.json"
    assert from_file.sha256 == OFFICIAL_SHA256


@pytest.mark.parametrize(("name", "sha256"), [("official", OFFICIAL_SHA256), ("dev", DEV_SHA256)])
def test_shipped_lists_are_what_they_were(name: str, sha256: str) -> None:
    chains = load_chains(name)
    assert (chains.name, len(chains), chains.sha256) == (name, 1000, sha256)
    assert [c.id for c in chains] == list(range(1000))


@pytest.mark.slow
def test_shipped_lists_are_what_the_rules_give() -> None:
    official = sequences.generate_official()
    dev = sequences.generate_dev(official)
    assert sequences.data_file("official").read_text(encoding="utf-8") == encode(official)
    assert sequences.data_file("dev").read_text(encoding="utf-8") == encode(dev)


@pytest.mark.parametrize("name", ["official", "dev"])
@pytest.mark.usefixtures("no_generator")
def test_loading_a_shipped_list_draws_nothing(name: str) -> None:
    assert len(load_chains(name)) == 1000


def test_dev_has_no_official_chain_and_none_twice() -> None:
    official, dev = (
        {(c.initial_state, c.tasks) for c in load_chains(name)} for name in ("official", "dev")
    )
    assert len(dev) == 1000
    assert not official & dev
    assert all(is_valid(SymbolicState.initial(state), tasks) for state, tasks in dev)


def test_dev_has_unseen_poses_in_the_same_slots() -> None:
    official, dev = (
        np.array([c.scene_obs for c in load_chains(name)]) for name in ("official", "dev")
    )
    yaw = [11, 17, 23]
    assert not set(official[:, yaw].ravel()) & set(dev[:, yaw].ravel())
    positions = [
        {p.tobytes() for x in (6, 12, 18) for p in s[:, x : x + 3]} for s in (official, dev)
    ]
    assert positions[0] == positions[1]
    assert len(positions[0]) == 4


def test_upstream_list_has_its_own_name_and_is_no_prefix() -> None:
    chains = load_chains("upstream:7")
    assert (chains.name, len(chains)) == ("upstream:7", 7)
    assert chains.sha256 == UPSTREAM_7_SHA256
    pairs = [(c.initial_state, c.tasks) for c in chains]
    assert pairs != [(c.initial_state, c.tasks) for c in load_chains("official").chains[:7]]


@pytest.mark.parametrize("text", ["0", "5001", "-3", "x", "", "1e3"])
def test_upstream_list_needs_a_number(text: str) -> None:
    with pytest.raises(UsageError, match="N from 1 to 5000"):
        load_chains(f"upstream:{text}")


@pytest.mark.slow
def test_draws_are_those_of_numpy_choice() -> None:
    state = symbolic_states()[100]
    rng = np.random.RandomState(100)
    expected: list[tuple[str, ...]] = []
    while len(expected) < 2:
        drawn = rng.choice(list(TASK_NAMES), 5, replace=False)
        if is_valid(state, drawn):
            expected.append(tuple(drawn))
    draws = draw_sequences(100, 100)
    assert [tuple(TASK_NAMES[i] for i in next(draws)) for _ in expected] == expected


def test_generation_without_repetitions_leaves_out_what_it_is_told() -> None:
    some = generate(5)
    assert not set(some) & set(generate(5, exclude=some))


# The rules


def test_there_are_192_initial_states() -> None:
    assert len(symbolic_states()) == len(set(symbolic_states())) == 192


def test_a_block_behind_the_door_cannot_be_lifted() -> None:
    state = SymbolicState.initial(STATE)
    assert outcomes(state, "lift_blue_block_slider") == []
    (opened,) = outcomes(state, "move_slider_left")
    (lifted,) = outcomes(opened, "lift_blue_block_slider")
    assert (lifted["blue_block"], lifted["grasped"]) == ("grasped", 1)


def test_a_task_that_can_be_done_in_two_ways_is_not_valid() -> None:
    state = SymbolicState.initial(STATE)
    lifted = outcomes(outcomes(state, "move_slider_left")[0], "lift_blue_block_slider")[0]
    assert len(outcomes(lifted, "stack_block")) == 2
    assert not is_valid(lifted, ["stack_block"])


def test_two_tasks_of_a_category_are_not_valid() -> None:
    state = SymbolicState.initial(STATE)
    assert is_valid(state, ["turn_on_led"])
    assert not is_valid(state, ["turn_on_led", "turn_on_lightbulb"])


# Initial states


def test_hash_is_that_of_pyhash() -> None:
    assert fnv1_32("") == 0
    assert fnv1_32("a") == 0x61 * 0x01000193 & 0xFFFFFFFF  # the second byte of UTF-16 is 0


def test_textbook_hash_gives_other_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    def textbook(text: str) -> int:
        value = 0x811C9DC5
        for byte in text.encode():
            value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
        return value

    ours = {s: initial_scene_obs(s) for s in symbolic_states()}
    monkeypatch.setattr(initial_states, "fnv1_32", textbook)
    assert not any(np.array_equal(initial_scene_obs(s), obs) for s, obs in ours.items())


def test_state_text_is_upstreams() -> None:
    text = "dict_values([0, 0, 'right', 'closed', 'table', 'slider_right', 'table', 0])"
    assert SymbolicState.initial(STATE).text == text == str(STATE.values())


@pytest.mark.parametrize(
    "state",
    [
        {k: np.array([v])[0] for k, v in STATE.items()},
        {k: bool(v) if v in (0, 1) else v for k, v in STATE.items()},
        dict(reversed(STATE.items())),
    ],
    ids=["numpy scalars", "bools", "other order"],
)
def test_poses_do_not_depend_on_how_the_state_is_spelt(state: Any) -> None:
    assert np.array_equal(initial_scene_obs(state), initial_scene_obs(STATE))
    canonical = SymbolicState.initial(state)
    assert {type(v) for v in canonical.values()} == {int, str}


def test_scene_obs_shows_the_symbolic_state() -> None:
    state = {**STATE, "led": 1, "lightbulb": 1, "slider": "left", "drawer": "open"}
    scene_obs = initial_scene_obs(state)
    assert scene_obs[:6].tolist() == [0.28, 0.22, 0.0, 0.088, 1.0, 1.0]
    assert scene_obs[12] > 0  # the blue block is on the right
    assert np.all(np.abs(scene_obs[[11, 17, 23]] - np.pi / 2) < np.pi / 8)


@pytest.mark.parametrize("state", symbolic_states(), ids=lambda s: s.text)
def test_no_two_blocks_share_a_place(state: Any) -> None:
    places = initial_scene_obs(state)[6:].reshape(3, 6)[:, :3]
    assert len(np.unique(places, axis=0)) == len(BLOCKS)


def test_global_random_state_is_untouched() -> None:
    chains_module._shipped.cache_clear()
    np.random.seed(42)
    before = np.random.get_state()
    load_chains("official")
    load_chains("upstream:3")
    generate(2)
    initial_scene_obs(STATE)
    after = np.random.get_state()
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_global_random_state_has_no_influence() -> None:
    np.random.seed(1)
    one = generate(3), initial_scene_obs(STATE)
    np.random.seed(2)
    two = generate(3), initial_scene_obs(STATE)
    assert one[0] == two[0]
    assert np.array_equal(one[1], two[1])


# Chains


@pytest.mark.parametrize("array", ["robot_obs", "scene_obs"])
def test_arrays_are_read_only_also_in_another_process(array: str) -> None:
    chain = load_chains("official")[0]
    for copy in (chain, pickle.loads(pickle.dumps(chain))):
        assert np.array_equal(getattr(copy, array), getattr(chain, array))
        with pytest.raises(ValueError, match="read-only"):
            getattr(copy, array)[0] = 1.0


def test_chain_is_immutable() -> None:
    chain: Any = load_chains("official")[0]
    with pytest.raises(AttributeError):
        chain.id = 1
    with pytest.raises(TypeError):
        chain.initial_state["led"] = 1


def test_shapes() -> None:
    chain = load_chains("official")[999]
    assert (chain.id, chain.robot_obs.shape, chain.scene_obs.shape) == (999, (15,), (24,))
    assert chain.robot_obs.dtype == chain.scene_obs.dtype == np.float64
    assert np.array_equal(chain.robot_obs, initial_robot_obs())


def test_the_hash_covers_states_tasks_and_order(tmp_path: Path) -> None:
    lists = [
        [[STATE, TASKS], [STATE, TASKS[:1]]],
        [[STATE, TASKS[:1]], [STATE, TASKS]],
        [[STATE, TASKS], [STATE, TASKS[1:]]],
        [[{**STATE, "led": 1}, TASKS], [STATE, TASKS[:1]]],
    ]
    hashes = [load_chains(write(tmp_path / f"{i}.json", x)).sha256 for i, x in enumerate(lists)]
    assert len(set(hashes)) == len(lists)
    again = load_chains(write(tmp_path / "again.json", lists[0]))
    assert again.sha256 == hashes[0]


# Files


def test_chains_of_a_file_may_be_short_or_long(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", [[STATE, TASKS[:1]], [STATE, TASKS * 25]])
    assert [len(c.tasks) for c in load_chains(str(path))] == [1, 50]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected a non-empty list"),
        ({"chains": []}, "expected a non-empty list"),
        ([[STATE, TASKS], [STATE]], "entry 1: expected \\[initial_state"),
        ([[STATE, "open_drawer"]], "entry 0: expected \\[initial_state"),
        ([[STATE, []]], "expected 1 to 50 tasks, found 0"),
        ([[STATE, TASKS * 26]], "expected 1 to 50 tasks, found 52"),
        ([[STATE, ["open_draw"]]], "unknown task 'open_draw'.*Did you mean 'open_drawer'"),
        ([[{**STATE, "led": 2}, TASKS]], "expected led to be one of 0, 1, found 2"),
        ([[{**STATE, "red_block": "drawer"}, TASKS]], "expected red_block to be one of 'table'"),
        ([[{**STATE, "grasped": 1}, TASKS]], "expected grasped to be one of 0, found 1"),
        ([[{**STATE, "blue_block": "table"}, TASKS]], "one or two blocks on the table"),
        ([[{**STATE, "green": 1}, TASKS]], "unknown: green"),
        ([[{k: v for k, v in STATE.items() if k != "led"}, TASKS]], "missing or unknown: led"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_chains(write(tmp_path / "mine.json", content))


def test_a_file_that_is_not_json_is_explained(tmp_path: Path) -> None:
    (path := tmp_path / "mine.json").write_text("[1, ", encoding="utf-8")
    with pytest.raises(UsageError, match="expected JSON, found"):
        load_chains(path)


def test_a_missing_file_is_explained() -> None:
    with pytest.raises(UsageError, match=r"expected a JSON file, found none there"):
        load_chains("nowhere/mine.json")


def test_an_unknown_name_is_explained() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'official'"):
        load_chains("offical")


# Single tasks


def test_single_tasks_come_task_by_task_from_different_states() -> None:
    chains = load_chains("single:3")
    counts = Counter(task for chain in chains for task in chain.tasks)
    assert set(counts.values()) == {3}
    assert len(counts) == 27  # the other seven need a block in the hand, in the drawer or stacked
    assert all(is_valid(chain.initial_state, chain.tasks) for chain in chains)
    assert len({(c.tasks, tuple(c.initial_state.items())) for c in chains}) == len(chains)


def test_single_tasks_may_be_named() -> None:
    chains = load_chains("single:100:open_drawer+push_into_drawer")
    assert Counter(chain.tasks[0] for chain in chains) == {
        "open_drawer": 96,
        "push_into_drawer": 48,
    }
    known = {c.scene_obs.tobytes() for name in ("official", "dev") for c in load_chains(name)}
    assert not known & {chain.scene_obs.tobytes() for chain in chains}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("single:", "N from 1 up"),
        ("single:0", "N from 1 up"),
        ("single:2:open_draw", "open_drawer"),
        ("single:2:stack_block", "needs another"),
    ],
)
def test_impossible_lists_of_single_tasks_are_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_chains(name)
