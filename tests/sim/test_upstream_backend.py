"""The user's own `calvin_env` behind our interface: against recorded traces and our simulator.

Runs where `calvin_env` is installed, at either revision; without it only its absence is tested.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from requirements import need_egl, without

from calvin_eval.errors import (
    AssetError,
    InvalidActionError,
    InvalidStateError,
    RenderError,
    UnknownNameError,
    UsageError,
)
from calvin_eval.sim import TaskOracle, make_env
from calvin_eval.sim.upstream import UpstreamEnv
from calvin_eval.sim.upstream_package import installed_revision

INSTALLED = importlib.util.find_spec("calvin_env") is not None
installed = without("calvin_env", "upstream's calvin_env")
REVISION: Any = installed_revision() if INSTALLED else "none"
unmodified = pytest.mark.skipif(REVISION == "modified", reason="calvin_env is modified")
ACTION = np.array([0.1, -0.2, 0.3, 0.0, 0.1, -0.1, 1.0])

SCENES = [*(("D", f"chain{c:04d}") for c in range(12))]
if REVISION == "pinned":
    SCENES += [(s, f"scene{s}_chain{c:04d}") for s in "ABC" for c in (6, 7)]
FORMS: Any = {
    "abs_euler": lambda a: (a[:3], a[3:6], a[6]),
    "abs_quat": lambda a: (a[:3], a[3:7], a[7]),
    "joint_abs": lambda a: {"type": "joint_abs", "action": a},
    "joint_rel": lambda a: {"type": "joint_rel", "action": a},
}


@pytest.fixture
def start(initial_states: Any) -> tuple[Any, Any]:
    return initial_states["robot_obs"][6], initial_states["scene_obs"][6]


@pytest.fixture
def env(official: str) -> Iterator[UpstreamEnv]:
    with UpstreamEnv(assets=official) as made:
        yield made


def assert_same_state(env: UpstreamEnv, trace: Any, key: str, moment: int) -> None:
    for name, value in env.get_state_obs().items():
        assert np.array_equal(value, trace[f"{key}_{name}"][moment]), f"{name} differs at {moment}"


def state_of(env: Any) -> Any:
    return np.concatenate([*env.get_state_obs().values()])


def plain(info: Any) -> Any:
    """An info in plain Python, so that two can be compared with `==`."""
    if isinstance(info, dict):
        return {key: plain(value) for key, value in info.items()}
    if isinstance(info, list | tuple | np.ndarray):
        return [plain(value) for value in info]
    return info


# Against upstream's own recordings


@installed
@unmodified
@pytest.mark.slow
@pytest.mark.parametrize(("scene", "key"), SCENES)
def test_states_and_verdicts_are_the_recorded_ones(
    golden: Path, official: str, initial_states: Any, scene: str, key: str
) -> None:
    trace = np.load(golden / REVISION / f"scene{scene}.npz")
    chain = int(key[-4:])
    oracle = TaskOracle(official)
    with UpstreamEnv(scene, assets=official, revision=REVISION) as env:
        env.start(initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
        before = env.get_info()
        for i, action in enumerate([None, *trace[f"{key}_actions"]]):
            if action is not None:
                env.advance(action)
                done = oracle.achieved(before, env.get_info())
                mask = sum(1 << k for k, name in enumerate(trace["task_names"]) if name in done)
                assert mask == trace[f"{key}_achieved"][i - 1], f"verdicts differ at {i}"
            assert_same_state(env, trace, key, i)


@installed
@pytest.mark.skipif(REVISION != "head", reason="needs calvin_env at head")
@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_action_form_moves_as_recorded(
    golden: Path, env: UpstreamEnv, initial_states: Any, form: str
) -> None:
    trace = np.load(golden / "head/action_modes.npz")
    for chain in (6, 7):
        key = f"{form}_chain{chain:04d}"
        env.start(initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
        for i, action in enumerate(trace[f"{key}_actions"]):
            env.advance(FORMS[form](action))
            assert_same_state(env, trace, key, i + 1)


@installed
@unmodified
@pytest.mark.slow
@pytest.mark.parametrize("folder", ["frames_tiny", "frames_egl_llvmpipe"])
def test_images_are_the_recorded_ones(
    golden: Path, official: str, initial_states: Any, folder: str
) -> None:
    import imageio.v3 as iio

    backend = folder.split("_")[1]
    if backend == "egl":
        need_egl()
    actions = np.load(golden / "head/sceneD.npz")
    files = sorted(path.stem for path in (golden / folder).glob("sceneD*.png"))
    depths = np.load(golden / folder / "depth_sceneD.npz")
    assert files
    with UpstreamEnv(assets=official, render=backend) as env:
        for moment, names in groupby(files, key=lambda name: name.rsplit("_", 1)[0]):
            _, chain, step = moment.split("_")
            env.start(*(initial_states[k][int(chain[5:])] for k in ("robot_obs", "scene_obs")))
            for action in actions[f"{chain}_actions"][: int(step[4:])]:
                env.advance(action)
            for name in names:
                camera = name.rsplit("_", 1)[1]
                obs = env.observe(rgb=(camera,), depth=(camera,))
                image = obs["rgb_obs"][f"rgb_{camera}"]
                error = np.mean(
                    (image - iio.imread(golden / folder / f"{name}.png")[..., :3].astype(float))
                    ** 2
                )
                if backend == "tiny":
                    assert error == 0
                    assert np.array_equal(obs["depth_obs"][f"depth_{camera}"], depths[name])
                assert error <= 255**2 / 10**3.5, f"{name}: PSNR below 35 dB"


# Against our own simulator


@installed
@unmodified
@pytest.mark.slow
@pytest.mark.parametrize("scene", ["A", "B", "C", "D"])
def test_our_simulator_agrees_in_state_info_and_verdict(
    official: str, initial_states: Any, scene: str
) -> None:
    oracle = TaskOracle(official)
    rng = np.random.default_rng(7)
    with (
        UpstreamEnv(scene, assets=official) as theirs,
        make_env(scene, assets=official, revision=REVISION) as ours,
    ):
        for chain in (3, 5, 9):
            before = []
            for env in (theirs, ours):
                env.start(initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
                before.append(env.get_info())
            drift = rng.uniform(-1, 1, 6)
            for i in range(90):
                gripper = 1 if i % 40 < 20 else -1
                action = np.append(np.clip(drift + rng.normal(0, 0.5, 6), -1, 1), gripper)
                for env in (theirs, ours):
                    env.advance(action)
                assert np.array_equal(state_of(theirs), state_of(ours)), f"chain {chain}, {i}"
                infos = [env.get_info() for env in (theirs, ours)]
                assert plain(infos[0]["scene_info"]) == plain(infos[1]["scene_info"])
                verdicts = [oracle.achieved(b, n) for b, n in zip(before, infos, strict=True)]
                assert verdicts[0] == verdicts[1]


@installed
def test_observations_and_info_have_our_form(official: str, start: Any) -> None:
    with (
        UpstreamEnv(assets=official, render="tiny") as theirs,
        make_env(assets=official, render="tiny") as ours,
    ):
        for env in (theirs, ours):
            env.reset(*start)
        steps = [env.step(ACTION) for env in (theirs, ours)]
        for part in ("rgb_obs", "depth_obs"):
            a, b = (step[0][part] for step in steps)
            assert list(a) == list(b)
            for name in a:
                assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
                assert np.array_equal(a[name], b[name])
        assert [step[1:3] for step in steps] == [(0, False)] * 2
        infos = [step[3] for step in steps]
        assert infos[0].keys() == infos[1].keys()
        assert infos[0]["robot_info"].keys() == infos[1]["robot_info"].keys()
        assert np.array_equal(theirs.render(), ours.render())


# Determinism


@installed
@pytest.mark.slow
def test_a_chain_does_not_depend_on_those_before_it(
    golden: Path, env: UpstreamEnv, initial_states: Any
) -> None:
    trace = np.load(golden / "head/sceneD.npz")
    ends: dict[int, set[bytes]] = {3: set(), 6: set()}
    for chain in (6, 3, 6, 6, 3):
        env.start(initial_states["robot_obs"][chain], initial_states["scene_obs"][chain])
        assert env.get_state_obs()["robot_obs"][14] == 1
        for action in trace[f"chain{chain:04d}_actions"][:200]:
            env.advance(action)
        ends[chain].add(state_of(env).tobytes())
    assert {chain: len(seen) for chain, seen in ends.items()} == {3: 1, 6: 1}


@installed
def test_upstream_as_it_is_builds_once_and_keeps_its_ways(official: str, start: Any) -> None:
    with UpstreamEnv(assets=official, deterministic=False) as env:
        scene = env._sim.scene
        for _ in range(2):
            env.start(*start)
            blocks = list(scene.movable_objects)
            env.advance([*ACTION[:6], -1])
            assert env.get_state_obs()["robot_obs"][14] == -1
        env.start(*start)
        assert env.get_state_obs()["robot_obs"][14] == -1  # the last chain's command
        assert all(a is b for a, b in zip(blocks, scene.movable_objects, strict=True))
        assert np.allclose(env.get_state_obs()["robot_obs"][:14], start[0][:14], atol=1e-2)


@installed
@pytest.mark.parametrize("deterministic", [True, False])
def test_reset_without_a_state_samples_from_the_seed(official: str, deterministic: bool) -> None:
    states = []
    for seed in (0, 0, 1):
        with UpstreamEnv(assets=official, deterministic=deterministic, seed=seed) as env:
            env.start()
            first = state_of(env)
            env.start()
            assert not np.array_equal(first[15:], state_of(env)[15:])
            assert np.all(first[[23, 29, 35]] < 0.6)  # the blocks' heights: on the table
            states.append(first)
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


# Use and misuse


@installed
def test_the_callers_arrays_stay_as_they_are(env: UpstreamEnv, start: Any) -> None:
    action, (robot_obs, scene_obs) = ACTION.copy(), (array.copy() for array in start)
    env.start(robot_obs, scene_obs)
    env.advance(action)
    pose = (action[:3], action[3:6], 1)
    env.advance(pose)
    assert np.array_equal(action, ACTION)
    assert np.array_equal(robot_obs, start[0])
    assert np.array_equal(scene_obs, start[1])


@installed
def test_wrong_states_and_actions_are_refused(env: UpstreamEnv, start: Any) -> None:
    env.start(*start)
    before = state_of(env)
    light = start[1].copy()
    light[4] = 0.5
    for states in ((start[0][:14], start[1]), (start[0], start[1] * np.nan), (start[0], light)):
        with pytest.raises(InvalidStateError):
            env.start(*states)
    for action in (ACTION[:6], ACTION * np.nan, [*ACTION[:6], 0.5]):
        with pytest.raises(InvalidActionError):
            env.advance(action)
    assert np.array_equal(state_of(env), before)


@installed
@pytest.mark.skipif(REVISION != "pinned", reason="needs calvin_env at its pinned revision")
def test_the_pinned_revision_has_no_joint_actions(env: UpstreamEnv, start: Any) -> None:
    env.start(*start)
    with pytest.raises(InvalidActionError, match="no joint_abs actions; its head revision has"):
        env.advance({"type": "joint_abs", "action": np.ones(8)})
    cartesian = {"type": "cartesian_rel", "action": ACTION}
    env.advance(cartesian)
    once = state_of(env)
    env.start(*start)
    env.advance(ACTION)
    assert np.array_equal(state_of(env), once)


@installed
def test_calls_out_of_order_are_refused(env: UpstreamEnv, start: Any) -> None:
    with pytest.raises(UsageError, match=r"expected reset\(\) before"):
        env.get_state_obs()
    env.start(*start)
    with pytest.raises(RenderError, match="render='none'"):
        env.observe(rgb=("static",))
    env.close()
    env.close()
    for call in (env.get_info, env.start, lambda: env.advance(ACTION)):
        with pytest.raises(UsageError, match="closed"):
            call()


@installed
def test_it_must_have_the_first_physics_server(official: str, start: Any) -> None:
    with (
        make_env(assets=official),
        pytest.raises(UsageError, match="before any other"),
    ):
        UpstreamEnv(assets=official)
    env = UpstreamEnv(assets=official)
    theirs = env._sim
    env.close()
    with make_env(assets=official) as ours:  # has server 0 now
        ours.start(*start)
        del theirs  # upstream's destructor closes once more
        ours.advance(ACTION)


@installed
def test_nothing_is_printed_and_the_excepthook_stays(
    official: str, start: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = sys.excepthook
    with UpstreamEnv(assets=official) as env:
        env.start(*start)
        env.advance(ACTION)
    del env
    assert capfd.readouterr() == ("", "")
    assert sys.excepthook is hook


@installed
@unmodified
def test_the_wrong_revision_is_refused(official: str) -> None:
    other: Any = "pinned" if REVISION == "head" else "head"
    with pytest.raises(UsageError, match=f"expected calvin_env at revision '{other}'; found"):
        UpstreamEnv(assets=official, revision=other)
    wrong: Any = "main"
    with pytest.raises(UnknownNameError):
        UpstreamEnv(assets=official, revision=wrong)


@installed
def test_a_modified_installation_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calvin_eval.sim.upstream_package._SOURCE_SHA256", {})
    assert installed_revision() == "modified"


@installed
def test_the_builtin_pack_is_refused() -> None:
    with pytest.raises(AssetError, match="cannot read the built-in pack"):
        UpstreamEnv(assets="builtin")


@pytest.mark.skipif(INSTALLED, reason="calvin_env is installed")
def test_a_missing_installation_is_explained(official: str) -> None:
    with pytest.raises(UsageError, match="expected upstream's package calvin_env to be importable"):
        UpstreamEnv(assets=official)
