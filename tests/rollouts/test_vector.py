"""Many play tables as one environment: the same as Gymnasium's own over the single one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from requirements import need_package
from waiting import wait_until

import calvin_eval
from calvin_eval.errors import InvalidActionError, UnknownNameError, UsageError

gymnasium = need_package("gymnasium", "the extra gym")
from gymnasium.error import ClosedEnvironmentError, ResetNeeded  # noqa: E402
from gymnasium.vector import AutoresetMode, SyncVectorEnv  # noqa: E402
from gymnasium.wrappers import TimeLimit  # noqa: E402

from calvin_eval.rollouts.vector.crew import WorldLostError  # noqa: E402
from calvin_eval.rollouts.vector.make import make_vec  # noqa: E402
from calvin_eval.sim.gym import PlayTable  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.processes]

TABLE = {"task": ("close_drawer", "open_drawer"), "reward": "progress"}
STEPS = 3
"""Until an episode is truncated."""


@pytest.fixture(scope="module")
def patient() -> Iterator[Any]:
    made = make_vec(3, workers=2, max_episode_steps=STEPS, **TABLE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def by_itself() -> Iterator[Any]:
    """One process for each of two worlds, and nobody waits for a start."""
    made = make_vec(2, workers=2, wait_for_resets=False, max_episode_steps=STEPS, **TABLE)
    yield made
    made.close()


def theirs(worlds: int, mode: str) -> Any:
    def make() -> Any:
        return TimeLimit(PlayTable(**TABLE), STEPS)  # type: ignore[arg-type]

    return SyncVectorEnv([make] * worlds, autoreset_mode=AutoresetMode(mode))


def assert_same(ours: Any, others: Any, where: str = "") -> None:
    """Arrays, dicts and tuples of them, to the last bit."""
    if isinstance(ours, dict):
        assert sorted(ours) == sorted(others), where
        for key in ours:
            assert_same(ours[key], others[key], f"{where}[{key}]")
    elif isinstance(ours, tuple):
        for number, (one, other) in enumerate(zip(ours, others, strict=True)):
            assert_same(one, other, f"{where}[{number}]")
    elif isinstance(ours, np.ndarray) and ours.dtype == object:
        for one, other in zip(ours, others, strict=True):
            assert_same(one, other, where)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == np.asarray(others).dtype, where
        assert np.array_equal(ours, others), where
    else:
        assert ours == others, where


def motions(worlds: int, count: int) -> Any:
    return np.random.default_rng(3).uniform(-1, 1, (count, worlds, 7)).astype(np.float32)


def test_it_is_public_and_costs_nothing_to_import() -> None:
    assert calvin_eval.make_vec is make_vec


def test_starting_by_themselves_is_what_gymnasium_does(patient: Any) -> None:
    """Two of three worlds share a process; the reset in between comes when starts are under way."""
    sync = theirs(3, "NextStep")
    assert_same(patient.reset(seed=7), sync.reset(seed=7))
    for number, actions in enumerate(motions(3, 6)):
        if number == 3:  # every world has just ended: its next start is being built
            assert_same(patient.reset(), sync.reset())
        assert_same(patient.step(actions), sync.step(actions))
    sync.close()


def test_a_world_depends_on_its_seed_alone(patient: Any, by_itself: Any) -> None:
    """Neither on how many worlds there are, nor on how they share processes."""
    actions = motions(1, STEPS)
    alone, _ = patient.reset(seed=[11, 5, 6])
    beside, _ = by_itself.reset(seed=[4, 11])
    assert np.array_equal(alone["scene_obs"][0], beside["scene_obs"][1])
    for row in actions:
        first = patient.step(np.repeat(row, 3, axis=0))
        second = by_itself.step(np.repeat(row, 2, axis=0))
        assert np.array_equal(first[0]["robot_obs"][0], second[0]["robot_obs"][1])


def test_a_start_with_options_takes_back_one_that_nobody_saw(patient: Any) -> None:
    """What a world draws does not depend on how far the next start had come."""
    starts = []
    for steps in (STEPS, STEPS - 1):  # the start has begun; it has not
        patient.reset(seed=1)
        for actions in motions(3, steps):
            patient.step(actions)
        obs, infos = patient.reset(options={"task": "open_drawer"})
        assert set(infos["task"]) == {"open_drawer"}
        starts.append(obs["scene_obs"])
    assert np.array_equal(starts[0], starts[1])


def test_a_mask_starts_the_worlds_that_it_names(patient: Any) -> None:
    before, _ = patient.reset(seed=3)
    moved = patient.step(motions(3, 1)[0])[0]
    mask = np.array([False, True, False])
    obs, infos = patient.reset(seed=[None, 4, None], options={"reset_mask": mask})
    assert np.array_equal(obs["robot_obs"][[0, 2]], moved["robot_obs"][[0, 2]])
    assert np.array_equal(obs["scene_obs"][1], before["scene_obs"][1])
    assert infos["_task"].tolist() == mask.tolist()


def test_starting_in_the_same_step_is_what_gymnasium_does() -> None:
    sync = theirs(2, "SameStep")
    made = make_vec(2, workers=1, autoreset_mode="SameStep", max_episode_steps=STEPS, **TABLE)
    assert_same(made.reset(seed=7), sync.reset(seed=7))
    for actions in motions(2, 4):
        assert_same(made.step(actions), sync.step(actions))
    made.close()
    sync.close()


def test_disabled_worlds_stay_at_their_end_until_they_are_started() -> None:
    disabled = AutoresetMode.DISABLED
    made = make_vec(2, workers=1, autoreset_mode=disabled, max_episode_steps=1, **TABLE)
    with pytest.raises(ResetNeeded, match="not started"):
        made.step(np.zeros((2, 7)))
    made.reset(seed=0)
    assert made.step(np.zeros((2, 7)))[3].tolist() == [True, True]
    made.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"worlds \[1\] are at the end"):
        made.step(np.zeros((2, 7)))
    made.close()
    with pytest.raises(ClosedEnvironmentError):
        made.reset()


def test_a_start_holds_nobody_up(by_itself: Any) -> None:
    """World 1 is stopped while it is to start over: world 0 goes on all the same."""
    env, still = by_itself, np.zeros((2, 7))
    env.reset(seed=0)
    child = env._crew.pids()[1]
    os.kill(child, signal.SIGSTOP)
    try:
        env.reset_async(options={"reset_mask": np.array([False, True])})
        for _ in range(2):
            *_, infos = env.step(still)
            assert infos["stepped"].tolist() == [True, False]
            assert infos["resetting"].tolist() == [False, True]
    finally:
        os.kill(child, signal.SIGCONT)
    shown: list[Any] = []

    def started() -> bool:
        shown.append(env.step(still)[-1])
        return "_task" in shown[-1] and bool(shown[-1]["_task"][1])

    wait_until(started, "the first observation of world 1")
    assert not shown[-1]["stepped"][1]  # its first observation; its action was ignored
    assert env.step(still)[-1]["stepped"][1]


def test_what_cannot_be_meant_is_refused_and_nothing_moves(patient: Any) -> None:
    obs, _ = patient.reset(seed=0)
    for wrong in (np.zeros((2, 7)), np.full((3, 7), np.nan)):
        with pytest.raises(InvalidActionError, match=r"shape \(3, 7\)"):
            patient.step(wrong)
    with pytest.raises(UsageError, match="at least one of them True"):
        patient.reset(options={"reset_mask": np.zeros(3, bool)})
    with pytest.raises(UsageError, match="one for each of 3"):
        patient.reset(seed=[1, 2])
    with pytest.raises(UsageError, match="cannot be the first task"):
        patient.reset(options={"task": "stack_block"})
    again, _ = patient.reset(seed=0)
    assert np.array_equal(obs["scene_obs"], again["scene_obs"])


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"num_envs": 0}, UsageError, "num_envs"),
        ({"num_envs": 2, "workers": 0}, UsageError, "workers"),
        ({"num_envs": 2, "repeat": 0}, UsageError, "repeat"),
        ({"num_envs": 1, "camera": ()}, UnknownNameError, "cameras"),
        ({"num_envs": 1, "autoreset_mode": "Next"}, UnknownNameError, "NextStep"),
        ({"num_envs": 1, "scene": "E"}, UnknownNameError, "scene"),
        ({"num_envs": 1, "task": "open_drawr"}, UnknownNameError, "open_drawer"),
    ],
)
def test_wrong_arguments_are_named(arguments: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        make_vec(**arguments)


def test_egl_needs_a_process_for_each_world(monkeypatch: pytest.MonkeyPatch) -> None:
    from calvin_eval.rollouts.vector import make
    from calvin_eval.sim.render import RenderInfo

    egl = partial(RenderInfo, backend="egl", requested="egl")
    monkeypatch.setattr(make, "resolve_backend", lambda _: egl())
    with pytest.raises(UsageError, match="expected workers=3"):
        make_vec(3, workers=2, cameras=("static",), backend="egl")


def test_images_and_shifts_are_those_of_the_single_environment() -> None:
    table: Any = {
        "task": "open_drawer", "cameras": ("static", "gripper"), "render_mode": "rgb_array",
        "shift": "camera=2", "repeat": 2,
    }  # fmt: skip
    single, made = PlayTable(**table), make_vec(1, copy=False, **table)
    expected, _ = single.reset(seed=9)
    obs, _ = made.reset(seed=9)
    actions = motions(1, 1)[0]
    assert_same({name: rows[0] for name, rows in obs.items()}, expected)
    expected, *_ = single.step(actions[0])
    obs, *_ = made.step(actions)
    assert_same({name: rows[0] for name, rows in obs.items()}, expected)
    assert np.array_equal(made.render()[0], single.render())  # type: ignore[index]
    made.close()
    single.close()
    assert obs["rgb_static"].shape == (1, 200, 200, 3)  # still there


def test_a_lost_process_is_named_and_ends_the_environment() -> None:
    made = make_vec(2, workers=2, task="close_drawer")
    made.reset(seed=0)
    pids = made._crew.pids()
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(WorldLostError, match=r"worlds 1 is gone \(killed by SIGKILL"):
        made.step(np.zeros((2, 7)))
    with pytest.raises(WorldLostError):
        made.reset()
    made.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_worker_processes_never_import_torch() -> None:
    script = (
        "import sys, calvin_eval.rollouts.vector.worker as w\n"
        "table = w.TimeLimit(w.PlayTable(reward='progress'), 2); table.reset(seed=0)\n"
        "table.step(table.action_space.sample()); print('torch' in sys.modules)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "False"
