from __future__ import annotations

import numpy as np
import pytest

from calvin_eval.sim import make_env
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.packs import load_pack

pytestmark = pytest.mark.slow

OFFICIAL = load_chains("official")
PACK = load_pack("builtin")
SURFACES = {"table": "base_link", "slider_left": "plank_link", "slider_right": "plank_link"}


def test_scene_d_keeps_the_benchmarks_own_states():
    assert load_chains("official", scene=PACK.scene("D")) is load_chains("official")


@pytest.mark.parametrize("scene", ["A", "B", "C"])
def test_chains_and_tasks_stay_and_only_start_states_differ(scene):
    fitted = load_chains("official", scene=PACK.scene(scene))
    assert fitted.name == "official"
    assert fitted.sha256 != OFFICIAL.sha256
    for chain, original in zip(fitted, OFFICIAL, strict=True):
        assert (chain.id, chain.tasks) == (original.id, original.tasks)
        assert chain.initial_state == original.initial_state
        assert not chain.scene_obs.flags.writeable


@pytest.mark.parametrize("scene", ["A", "B", "C", "D"])
def test_blocks_rest_where_the_symbolic_state_says(scene):
    fitted = load_chains("official", scene=PACK.scene(scene))
    env = make_env(scene, render="none")
    states = {tuple(chain.initial_state.values()): chain for chain in fitted}
    for chain in list(states.values())[::16]:
        env.start(chain.robot_obs, chain.scene_obs)
        before = env.get_state_obs()["scene_obs"].copy()
        for _ in range(10):
            env.advance(np.array([0, 0, 0, 0, 0, 0, 1.0]))
        info, after = env.get_info()["scene_info"], env.get_state_obs()["scene_obs"]
        table = info["fixed_objects"]["table"]
        for name, block in info["movable_objects"].items():
            place = chain.initial_state[f"{name.removeprefix('block_')}_block"]
            touched = {(c[2], c[4]) for c in block["contacts"]}
            assert touched == {(table["uid"], table["links"][SURFACES[place]])}, (name, place)
        moved = (after - before)[6:].reshape(3, 6)[:, :3]
        assert np.abs(moved).max() < 0.002
        assert (after[0] > 0.15) == (chain.initial_state["slider"] == "left")
    env.close()
