"""Policies that read their own past actions: in the loop, between stages, and behind a server."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from line_world import CHAIN, INSTRUCTIONS, Line, ReachOracle

from calvin_eval.errors import CheckpointError, PolicyError
from calvin_eval.protocol import Protocol, RealTime
from calvin_eval.rollouts.chain import ChainOutcome, ChainRunner
from calvin_eval.running.serving import PolicyServer, ServeRules
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Executed, Request, Requirements
from calvin_eval.wrappers.servers import dialect
from calvin_eval.wrappers.testing import check_policy, fake_request


class World(Line):
    def observe(self, *, rgb: Any = (), depth: Any = ()) -> dict[str, Any]:
        return {**super().observe(rgb=rgb, depth=depth), "robot_obs": np.full(15, self.x)}


class Reader:
    """Answers with chunks whose numbers never repeat, and notes what it is told was executed."""

    def __init__(self, length: int = 3, **requirements: Any) -> None:
        self.requirements = Requirements(**requirements)
        self.length, self.count = length, 0
        self.told: list[tuple[int, int, list[Executed]]] = []

    def reset(self, session: int, instruction: str) -> None: ...

    def act(self, requests: Sequence[Request]) -> list[Any]:
        (request,) = requests
        self.told.append((request.position, request.step, list(request.executed)))
        actions = np.zeros((self.length, 7))
        actions[:, 0] = 0.125
        actions[:, 1] = np.arange(self.count, self.count + self.length)
        actions[:, 6] = 1
        self.count += self.length
        return [actions]


def play(policy: Any, realtime: RealTime | None = None, **rules: Any) -> ChainOutcome:
    protocol = Protocol(realtime=realtime or RealTime(), **{"steps": 20, **rules})
    oracle: Any = ReachOracle()
    runner = ChainRunner(World(), oracle, policy, instructions=INSTRUCTIONS, rules=protocol)
    return runner.run(CHAIN)


def numbers(done: Sequence[Executed]) -> list[float]:
    return [float(one.sent[1]) for one in done]


def test_a_request_carries_the_newest_actions_since_the_reset() -> None:
    policy = Reader(actions=4)
    outcome = play(policy)
    first = [one for one in policy.told if one[0] == 0]
    assert [(step, numbers(done)) for _, step, done in first] == [
        (0, []), (3, [0, 1, 2]), (6, [2, 3, 4, 5]),
    ]  # fmt: skip
    assert next(numbers(done) for position, _, done in policy.told if position == 1) == []
    last = first[-1][2]
    assert [(one.decision, one.row) for one in last] == [
        ((0, 0), 2), ((0, 3), 0), ((0, 3), 1), ((0, 3), 2),
    ]  # fmt: skip
    assert all(np.array_equal(one.sent, one.raw) for one in last)
    executed = outcome.actions[0][2:6]
    np.testing.assert_array_equal([one.sent for one in last], executed)


def test_nobody_who_does_not_ask_is_told() -> None:
    policy = Reader()
    play(policy)
    assert all(done == [] for _, _, done in policy.told)


def test_the_record_does_not_change_with_what_a_policy_does_to_its_past() -> None:
    class Vandal(Reader):
        def act(self, requests: Sequence[Request]) -> list[Any]:
            for done in requests[0].executed:
                done.sent[:] = 99  # type: ignore[index]
            return super().act(requests)

    np.testing.assert_equal(play(Vandal(actions=9)).actions, play(Reader()).actions)


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ({}, []),
        ({"policy_reset": "chain"}, [5, 6, 7]),
        ({"policy_reset": "chain", "world_reset": "subtask"}, [5, 6, 7]),
        ({"leftover": "keep"}, [8]),  # executed since the reset, though decided before it
    ],
)
def test_actions_are_remembered_as_long_as_the_policy_remembers(
    rules: dict[str, Any], told: list[float]
) -> None:
    policy = Reader(actions=3)
    play(policy, **rules)
    _, _, done = next(one for one in policy.told if one[0] == 1)
    assert numbers(done) == told


def test_held_actions_are_executed_but_nobody_returned_them() -> None:
    policy = Reader(actions=5)
    outcome = play(policy, RealTime(latency=2, stale="drop"), steps=9)
    _, _, done = policy.told[1]
    assert [one.decision for one in done] == [None, None, (0, 0)]
    assert [None if one.raw is None else one.row for one in done] == [None, None, 2]
    np.testing.assert_array_equal([one.sent for one in done], outcome.actions[0][:3])


STAGED = '''
import numpy as np
from calvin_eval.wrappers.policy import BasePolicy, Requirements


class Ours(BasePolicy):
    """Every second number of its motion is that of its last but one action, plus one."""

    requirements = Requirements(actions=2)
    seen = []

    def act(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        past = [(done.sent, done.raw) for done in request.executed]
        self.seen.append(past)
        motion = past[-2][1][1] + 1 if len(past) == 2 else 0.0
        return np.array([[0.25, motion, 0, 0, 0, 0, 0.9], [0.25, motion, 0, 0, 0, 0, 0.2]])


class Upstreams:
    """CALVIN's own interface."""

    requirements = {"rgb": [], "actions": 8}
    seen = []

    def reset(self):
        self.steps = 0

    def step(self, obs, goal):
        self.seen.append({key: obs[key].copy() for key in obs if "actions" in key})
        assert len(obs["actions"]) == min(self.steps, 8)
        total = obs["raw_actions"][:, 1].sum()
        self.steps += 1
        return np.array([0.25, total + 1, 0, 0, 0, 0, 0.7])


class Windows(Upstreams):
    """The same, with a window that a stage makes."""

    requirements = {"rgb": []}

    def step(self, obs, goal):
        self.seen.append({key: obs[key].copy() for key in obs if "actions" in key})
        self.steps += 1
        return np.array([0.25, self.steps, 0, 0, 0, 0, 0.7])
'''
SIGN = {"scale": {"position": 2, "rotation": 1}, "gripper": {"input": "probability"}}


@pytest.fixture
def policies(tmp_path: Path) -> str:
    path = tmp_path / "past.py"
    path.write_text(STAGED)
    return str(path)


def test_a_policy_of_ours_reads_what_it_returned_and_what_the_world_got(policies: str) -> None:
    loaded = resolve(f"{policies}:Ours", actions=SIGN)
    outcome = play(loaded.policy, policy_reset="chain")
    seen = loaded.policy.policy.seen  # type: ignore[attr-defined]
    sent, raw = zip(*seen[1], strict=True)
    np.testing.assert_array_equal(np.array(raw)[:, 6], [0.9, 0.2])
    np.testing.assert_array_equal(sent, outcome.actions[0][:2])
    np.testing.assert_array_equal(np.array(sent)[:, [0, 6]], [[0.5, 1], [0.5, -1]])
    # Two actions reach a subtask's end: every decision builds on the one of the subtask before.
    assert [action[1] for subtask in outcome.actions for action in subtask] == [0, 0, 2, 2, 4, 4]


def test_a_class_in_upstreams_style_reads_its_own_past_actions(policies: str) -> None:
    loaded = resolve(f"{policies}:Upstreams", actions=SIGN)
    outcome = play(loaded.policy, policy_reset="chain")
    # 1, then 1 + 1, then 1 + 1 + 2, ...: every number is the sum of all before it, plus one.
    assert [a[1] / 2 for subtask in outcome.actions for a in subtask] == [1, 2, 4, 8, 16, 32]
    last = loaded.policy.policy.model.seen[-1]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(last["raw_actions"][:, 6], [0.7] * 5)
    np.testing.assert_array_equal(last["actions"][:, 6], [1] * 5)
    assert last["actions_mask"].tolist() == [True] * 5


@pytest.mark.parametrize("pad", ["none", "zeros", "repeat"])
def test_a_stage_makes_windows_of_actions_without_drawing_anything(policies: str, pad: str) -> None:
    window = {"length": 3, "pad": pad, "keys": ["actions", "raw_actions"]}
    loaded = resolve(f"{policies}:Windows", actions=SIGN, observe={"history": window})
    needs = loaded.policy.requirements
    assert (needs.every_step, needs.actions) == (False, 3)
    play(loaded.policy, policy_reset="chain")
    seen = loaded.policy.policy.model.seen  # type: ignore[attr-defined]
    raw = [one["raw_actions"][:, 1].tolist() for one in seen]
    masks = [one["actions_mask"].tolist() for one in seen]
    if pad == "none":
        assert raw[:4] == [[0], [0, 1], [0, 1, 2], [1, 2, 3]]
        assert masks[:4] == [[False], [False, True], [False, True, True], [True] * 3]
    else:
        assert raw[:4] == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
        assert masks[:3] == [[False] * 3, [False, False, True], [False, True, True]]
    assert seen[3]["actions"][:, [1, 6]].tolist() == [[2, 1], [4, 1], [6, 1]]


def serve(ckpt: str, **stages: Any) -> tuple[PolicyServer, threading.Thread, Any]:
    loaded = resolve(ckpt, **stages)
    again = lambda: resolve(ckpt, **stages).policy  # noqa: E731
    server = PolicyServer(loaded, make=again, rules=ServeRules(port=0))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    return server, thread, loaded


@pytest.mark.processes
@pytest.mark.parametrize("name", ["Ours", "Upstreams"])
@pytest.mark.parametrize("where", ["there", "here"])
def test_a_served_policy_reads_the_same_as_one_that_is_here(
    policies: str, name: str, where: str
) -> None:
    """Whether the stages are at the server or at the client."""
    ckpt = f"{policies}:{name}"
    local = play(resolve(ckpt, actions=SIGN).policy)
    server, thread, _ = serve(ckpt, **({"actions": SIGN} if where == "there" else {}))
    try:
        remote = resolve(server.address, **({"actions": SIGN} if where == "here" else {})).policy
        assert remote.requirements.actions == (2 if name == "Ours" else 8)
        outcome = play(remote)
    finally:
        server.close()
        thread.join()
    np.testing.assert_equal(outcome.actions, local.actions)


def test_messages_of_policies_that_do_not_ask_are_what_they_were() -> None:
    asked = fake_request(Requirements(rgb=("static",)), step=4)
    message = dialect.request_message(asked, client="c", serial=1, reset=False)
    assert dialect.EXECUTED not in message
    said = dialect.metadata("p", Requirements(rgb=("static",)))["calvin_eval"]["requirements"]
    assert list(said) == ["rgb", "depth", "sizes", "every_step", "privileged"]


def test_executed_actions_travel_in_every_form() -> None:
    pose = (np.zeros(3), np.ones(3), 1.0)
    done = (
        Executed(sent=np.arange(7.0), raw=np.arange(9.0), decision=(1, 2), row=3),
        Executed(sent=pose),
    )
    needs = Requirements(actions=2)
    asked = Request(
        session=0, instruction="x", position=0, step=1, obs={"robot_obs": np.zeros(15)},
        executed=done,
    )  # fmt: skip
    message = dialect.request_message(asked, client="c", serial=1, reset=False)
    flat = dialect_round_trip(message)
    found = dialect.read_executed(flat, needs, 1)
    assert (found[0].decision, found[0].row, found[1].decision) == ((1, 2), 3, None)
    np.testing.assert_array_equal(found[0].raw, np.arange(9.0))
    assert isinstance(found[1].sent, tuple)
    np.testing.assert_array_equal(found[1].sent[1], np.ones(3))
    malformed: list[Any] = [
        "x", [1], [{"at": None}], [{"sent": np.zeros(7), "at": [0, 0]}], [{}] * 3,
    ]  # fmt: skip
    for wrong in malformed:
        with pytest.raises(PolicyError):
            dialect.read_executed({dialect.EXECUTED: wrong}, needs, 1)
    with pytest.raises(PolicyError, match="openpi's protocol has no place for"):
        dialect.read_executed({}, needs, 1)
    assert dialect.read_executed({}, needs, 0) == ()


def dialect_round_trip(message: Any) -> Any:
    from calvin_eval.wrappers.servers.codec import OPENPI

    return OPENPI.unpack(OPENPI.pack(message))


def test_a_number_of_actions_that_is_none_is_refused() -> None:
    for wrong in (-1, True, 1.5):
        with pytest.raises(CheckpointError, match=r"requirements\.actions"):
            Requirements(actions=wrong)  # type: ignore[arg-type]


def test_the_contract_check_tells_a_policy_its_past(policies: str) -> None:
    check_policy(resolve(f"{policies}:Upstreams", actions=SIGN).policy)
    check_policy(resolve(f"{policies}:Ours", actions=SIGN).policy)


WANDERER = '''
import numpy as np
from calvin_eval.wrappers.policy import BasePolicy


class Wanderer(BasePolicy):
    """Chunks of changing length and motion; notes what the stages show."""

    seen = []

    def act(self, requests):
        (request,) = requests
        self.seen.append((request.position, dict(request.obs)))
        k = 1 + request.step % 3
        motion = 0.0625 * (1 + np.arange(k) % 2)
        return [np.column_stack([motion, np.zeros((k, 5)), np.ones(k)])]
'''


@pytest.mark.parametrize("every_frame", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pad", ["none", "repeat"])
def test_the_row_beside_a_frame_is_the_action_that_led_to_it(
    tmp_path: Path, every_frame: bool, stride: int, pad: str
) -> None:
    (tmp_path / "wanderer.py").write_text(WANDERER)
    window = {
        "length": 4, "stride": stride, "pad": pad, "every_frame": every_frame,
        "keys": ["robot_obs", "actions"],
    }  # fmt: skip
    loaded = resolve(f"{tmp_path}/wanderer.py:Wanderer", observe={"history": window})
    assert loaded.policy.requirements.every_step == every_frame
    outcome = play(loaded.policy, steps=30)
    led_to = {}  # every place on the line is reached once, by one action
    x = 0.0
    for subtask in outcome.actions:
        for action in subtask:
            x += float(action[0])
            led_to[x] = action
    checked = 0
    for _, obs in loaded.policy.policy.seen:  # type: ignore[attr-defined]
        places, rows = obs["robot_obs"][:, 0], obs["actions"]
        assert rows.shape == (len(places), 7)
        real = obs["actions_mask"]
        assert not rows[~real].any()
        for place, row in zip(places[real], rows[real], strict=True):
            np.testing.assert_array_equal(row, led_to[place])
            checked += 1
        # Nothing led to the first frame since the reset, nor to the padding before it.
        seen = obs["history_mask"]
        assert real.sum() == seen.sum() - (places[seen][0] == places[0] and not real[seen][0])
    assert checked > 20
