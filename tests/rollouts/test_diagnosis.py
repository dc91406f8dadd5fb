"""Diagnosing: known faults get their cause, and the same run gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import runner
from faulty_expert import (
    Bench,
    Detour,
    Drifts,
    Faulty,
    LetsGo,
    NeverCloses,
    Opposite,
    Still,
    StopsAt90,
    Upwards,
    WrongBlock,
    half_open,
    starts_with,
)

from calvin_eval.cli.main import cli, main
from calvin_eval.errors import RunFolderError
from calvin_eval.results.diagnosis import DIAGNOSIS, Diagnosis, read_diagnosis
from calvin_eval.results.store import JOURNAL, RunFolder
from calvin_eval.rollouts.diagnosis.attempts import Asked, try_expert
from calvin_eval.rollouts.diagnosis.diagnose import diagnose_run
from calvin_eval.rollouts.diagnosis.worker import Found
from calvin_eval.sim.chains import Chain
from calvin_eval.sim.oracle import TaskOracle

STEPS = 110
"""Enough for the expert to do most tasks, or to do something else instead."""

Chains = Callable[[Sequence[str], int], list[Chain]]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench(steps=STEPS)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "chains", "tasks", "cause"),
    [
        (Opposite, half_open, ("open_drawer", "close_drawer", "move_slider_left"),
         "wrong direction or place"),
        (Opposite, starts_with, ("push_blue_block_left", "push_pink_block_right"),
         "wrong direction or place"),
        (WrongBlock, starts_with, ("lift_red_block_table", "push_red_block_left",
                                   "rotate_red_block_right"), "touched the wrong object"),
        (StopsAt90, starts_with, ("push_red_block_left", "rotate_blue_block_left",
                                  "push_into_drawer"), "nearly there"),
        (NeverCloses, starts_with, ("lift_red_block_table", "lift_blue_block_slider",
                                    "rotate_red_block_right"), "reached and did not grasp"),
        (Still, starts_with, ("open_drawer",), "never moved"),
        (Upwards, starts_with, ("lift_red_block_table",), "never approached the target"),
    ],
)  # fmt: skip
def test_a_known_fault_is_the_cause(
    bench: Bench, policy: type[Faulty], chains: Chains, tasks: Sequence[str], cause: str
) -> None:
    failures = bench.failures(policy, chains(tasks, 1))
    assert failures, "a fault that makes nothing fail shows nothing"
    assert {failure.cause for failure in failures} == {cause}, [f.why for f in failures]


@pytest.mark.slow
def test_what_was_done_instead(bench: Bench) -> None:
    (lift,) = bench.failures(WrongBlock, starts_with(["lift_red_block_table"], 1))
    assert "block_blue" in lift.grasped
    assert lift.target == ("block_red",)
    assert any(one.task.startswith("lift_blue_block") for one in lift.achieved)
    assert all(one.task != "lift_red_block_table" for one in lift.achieved)
    assert lift.habits.first_contact is None
    assert lift.habits.path > 0.2


@pytest.mark.slow
def test_a_block_that_is_let_go_is_lost(bench: Bench) -> None:
    (chain,) = starts_with(["lift_red_block_table"], 1)
    outcome = bench.run(Faulty, chain)
    assert outcome.record.length == 1
    held = len(outcome.actions[0]) - 1  # the hand is closed, and the block nearly high enough

    class LetsGoThen(LetsGo):
        after = held

    (failure,) = bench.failures(LetsGoThen, [chain])
    assert failure.cause == "grasped and lost", failure.why
    assert failure.grasped == ("block_red",)
    assert "the hand opened" in failure.why


@pytest.mark.slow
def test_a_subtask_that_could_not_be_achieved_says_why(bench: Bench) -> None:
    (chain,) = starts_with(["turn_on_led"], 1)
    scene = chain.scene_obs.copy()
    scene[5] = 1
    (failure,) = bench.failures(Still, [replace(chain, scene_obs=scene)])
    assert failure.obstacle == "the led was on"
    assert failure.cause == "never moved"


@pytest.mark.slow
def test_a_success_has_side_effects(bench: Bench) -> None:
    """What was achieved beside the task that was asked."""
    (chain,) = starts_with(["open_drawer"], 1)
    scene = chain.scene_obs.copy()
    scene[5] = 0
    dark = replace(chain, scene_obs=scene)
    assert bench.look(chain, bench.run(Faulty, chain)) == Found()
    (effect,) = bench.look(dark, bench.run(Detour, dark)).side_effects
    assert (effect.task, effect.also) == ("open_drawer", ("turn_on_led",))


@pytest.mark.slow
def test_the_expert_says_whether_a_state_was_solvable() -> None:
    bench = Bench(steps=STEPS, expert=True)
    (chain,) = starts_with(["open_drawer"], 1)
    (failure,) = bench.failures(Drifts, [chain])
    assert failure.from_begin is not None
    assert failure.from_end is not None
    assert failure.from_begin.solved
    assert failure.from_begin.steps == bench.run(Faulty, chain).record.subtasks[0].steps
    assert failure.from_end.solved, "its target was two metres away, and is not the expert's"
    assert failure.from_begin.path > 0.1
    lit = chain.scene_obs.copy()
    lit[5] = 1
    impossible = replace(chain, tasks=("turn_on_led",), scene_obs=lit)
    (failure,) = bench.failures(Still, [impossible])
    assert failure.from_begin == failure.from_end
    assert failure.from_begin is not None
    assert not failure.from_begin.solved
    bench.close()


@pytest.mark.slow
def test_a_block_out_of_reach_is_not_solvable(bench: Bench) -> None:
    (chain,) = starts_with(["lift_red_block_table"], 1)
    bench.env.start(chain.robot_obs, chain.scene_obs)
    asked = Asked(task=chain.tasks[0], start_info=bench.env.get_info(), steps=30)
    body = bench.env.world.blocks["block_red"]
    bench.env.world.bullet.resetBasePositionAndOrientation(body, (2, 2, 0.02), (0, 0, 0, 1))
    attempt = try_expert(bench.env, TaskOracle(), asked)
    assert not attempt.solved
    assert attempt.problem is not None or attempt.steps == 30


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the random policy: three chains, each failed at once."""
    out = tmp_path_factory.mktemp("random") / "run"
    assert main([
        "--ckpt", "builtin:random", "--split", "D", "--chains", "3,17,40", "protocol.steps=25",
        "--workers", "0", "--quiet", "--out", str(out),
    ]) == 0  # fmt: skip
    return out


def written(path: Path, *options: str) -> bytes:
    (path / DIAGNOSIS).unlink(missing_ok=True)
    assert main(["diagnose", str(path), "--json", *options]) == 0
    return (path / DIAGNOSIS).read_bytes()


@pytest.mark.processes
@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    first = written(run, "--workers", "0")
    assert written(run, "--workers", "2") == first
    journal = run / JOURNAL
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(reversed(lines)))  # as another order of work leaves it
    assert written(run, "--workers", "0") == first
    found = read_diagnosis(RunFolder.open(run))
    assert found is not None
    assert found == Diagnosis.from_json(json.loads(first), "file")
    assert [failure.chain for failure in found.failures] == [3, 17, 40]
    assert sum(found.causes.values()) == 3
    assert found.solvable()["all"]["failures"] == 3
    alone = json.loads(written(run, "--workers", "0", "--no-expert"))
    assert alone["solvable_by_position"] == {}
    assert {f["from_begin"] for f in alone["failures"]} == {None}


@pytest.mark.slow
def test_what_is_printed(run: Path) -> None:
    result = runner().invoke(cli, ["diagnose", str(run), "--workers", "0"])
    assert result.exit_code == 0
    assert "3 failed subtasks in 3 chains" in result.stdout
    assert "unofficial" in result.stdout
    shown = runner().invoke(cli, ["diagnose", str(run), "--workers", "0", "--json"])
    assert json.loads(shown.stdout)["schema_version"] == 1


@pytest.mark.slow
def test_a_run_is_diagnosed_at_its_end(tmp_path: Path) -> None:
    command = [
        "--ckpt", "builtin:still", "--split", "D", "--num-chains", "1", "protocol.steps=9",
        "--workers", "0", "--quiet", "--diagnose", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    result = runner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert "never moved" in result.stdout
    found = read_diagnosis(RunFolder.open(tmp_path / "run"))
    assert found is not None
    assert found.causes["never moved"] == 1
    assert (tmp_path / "run" / "diagnosis.html").exists()


@pytest.mark.slow
def test_a_diagnosis_of_other_chains_is_refused(run: Path) -> None:
    written(run, "--workers", "0")
    folder = RunFolder.open(run)
    document = folder.read_json(DIAGNOSIS)
    folder.write_json(DIAGNOSIS, {**document, "records_sha256": "0" * 64})
    with pytest.raises(RunFolderError, match="diagnose"):
        read_diagnosis(folder)
    folder.write_json(DIAGNOSIS, {**document, "schema_version": 2})
    with pytest.raises(RunFolderError, match="schema_version 1"):
        read_diagnosis(folder)
    (run / DIAGNOSIS).unlink()
    assert read_diagnosis(folder) is None


@pytest.mark.slow
def test_changed_actions_are_not_diagnosed(run: Path) -> None:
    folder = RunFolder.open(run)
    before = folder.actions_path(17).read_bytes()
    try:
        (subtask,) = folder.read_actions(17).values()
        folder.write_actions(17, [[action * np.float64(0.5) for action in subtask]])
        found = diagnose_run(folder)
    finally:
        folder.actions_path(17).write_bytes(before)
    (lost,) = found.undiagnosed
    assert lost.chain == 17
    assert "recorded state" in lost.reason or "gripper" in lost.reason
    assert "17" not in found.lengths
