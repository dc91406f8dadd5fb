"""The expert solves the physically shifted chains of the shipped list, as the list says."""

from __future__ import annotations

import pytest

from calvin_eval.protocol import OFFICIAL
from calvin_eval.rollouts.chain import ChainRunner
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.shifts import AXES, LEVELS, Shifts
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.env import make_env
from calvin_eval.sim.instructions import PACK, load_instructions
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.shifts.certificate import SHA256, attempts_of, list_sha256, read_list
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.shifts.variant import Variant

ASSETS = load_pack("builtin")
REDRAWN = [
    (axis, int(level), int(chain), attempt)
    for axis, levels in read_list()["axes"].items()
    for level, facts in levels.items()
    for chain, attempt in facts["attempts"].items()
]


def done(axis: str, level: int, chain: int, attempt: int | None = None) -> int:
    """How many of a variant's tasks the expert does; of the listed draw, if none is named."""
    scene, shifts = ASSETS.scene("D"), Shifts(((axis, level),))
    variant = None
    if attempt is not None:
        variant = Variant(shifts=shifts, chain=chain, attempts=((axis, attempt),))
    moved = shifted(load_chains("official")[chain], shifts, scene, variant)
    spec = PolicySpec(ckpt="builtin:expert", trust=False, seed=0, options={}, scene="D")
    with make_env("D", assets=ASSETS) as env:
        runner = ChainRunner(
            env, TaskOracle(ASSETS), spec.load().policy, rules=OFFICIAL,
            instructions=load_instructions(PACK, ASSETS.instructions),
        )  # fmt: skip
        return sum(subtask.success for subtask in runner.run(moved).record.subtasks)


def test_the_list_is_the_one_that_was_published() -> None:
    assert list_sha256() == SHA256, "another list is another suite: say so in the changelog"


def test_every_physical_level_is_certified() -> None:
    for name, axis in AXES.items():
        for level in filter(axis.is_physical, LEVELS):
            facts = read_list()["axes"][name][str(level)]
            assert facts["chains"] >= 20
            assert facts["unsolved"] == []
            assert len(facts["attempts"]) <= 0.05 * facts["chains"]


@pytest.mark.slow
@pytest.mark.parametrize("axis", [a for a in AXES if AXES[a].is_physical(5)])
def test_the_expert_solves_a_shifted_chain(axis: str) -> None:
    assert done(axis, 5, 3) == 5


@pytest.mark.slow
def test_a_draw_that_was_not_solved_is_replaced_by_one_that_is() -> None:
    axis, level, chain, attempt = REDRAWN[0]
    assert dict(attempts_of(Shifts(((axis, level),)), chain)) == {axis: attempt}
    assert done(axis, level, chain, 0) < 5
    assert done(axis, level, chain) == 5


def test_another_seed_has_no_certificate() -> None:
    axis, level, chain, _ = REDRAWN[0]
    assert attempts_of(Shifts(((axis, level),), seed=1), chain) == ()
    assert attempts_of(Shifts(((axis, level),)), chain + 1) == ()
