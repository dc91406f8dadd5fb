"""A shifted run: what its folder says, that it can be verified, and what it is kept apart from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calvin_eval.api import evaluate
from calvin_eval.cli.main import main
from calvin_eval.config.compose import compose_config
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.comparability import differing, protocol_facts
from calvin_eval.results.merge import merge_runs
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.verify.verify import verify_run
from calvin_eval.shifts import AXES

STEPS = "protocol.steps=5"


def run(out: Path, *arguments: str) -> RunFolder:
    which = [] if "--chains" in arguments else ["--num-chains", "2"]
    command = ["--ckpt", "builtin:random", "--split", "D", *which, "--workers", "0"]
    assert main([*command, "--quiet", "--out", str(out), STEPS, *arguments]) == 0
    return RunFolder.open(out)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(tmp_path_factory.mktemp("clean") / "run")


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    out = tmp_path_factory.mktemp("shifted") / "run"
    return run(out, "--shift", "layout=2", "--shift", "start=3")


@pytest.mark.slow
def test_the_header_and_the_verdict_name_axes_and_levels(shifted: RunFolder) -> None:
    header = shifted.header()
    assert header.document["config"]["protocol"]["shift"] == "start=3,layout=2"
    verdict = header.verdict
    assert verdict is not None
    assert not verdict.official
    assert "Shifts: expected none, found start=3,layout=2." in verdict.reasons


@pytest.mark.slow
def test_two_runs_of_a_shift_are_equal_and_unlike_a_clean_one(
    clean: RunFolder, shifted: RunFolder, tmp_path: Path
) -> None:
    again = run(tmp_path / "again", "protocol.shift=start=3,layout=2", "--chains", "1")
    first = next(r for r in shifted.records() if r.chain == 1)
    assert [r.outcome() for r in again.records()] == [first.outcome()]
    assert again.records()[0].start == first.start
    assert first.start is not None
    assert clean.records()[1].outcome() != first.outcome()
    assert clean.records()[1].start is None
    assert clean.header().chains.sha256 == shifted.header().chains.sha256


@pytest.mark.slow
def test_a_shifted_run_is_verified_and_another_claim_is_found(
    shifted: RunFolder, tmp_path: Path
) -> None:
    checked = verify_run(shifted)
    assert [check.status for check in checked.chains] == ["verified"] * 2
    assert checked.deviations == ()
    path = shifted.path / "header.json"
    honest = path.read_text(encoding="utf-8")
    for claim in ('"start=3,layout=1"', '"start=3,layout=2,seed=1"', "null"):
        path.write_text(honest.replace('"start=3,layout=2"', claim), encoding="utf-8")
        found = verify_run(RunFolder.open(shifted.path))
        assert [check.status for check in found.chains] == ["deviates"] * 2, claim
        assert found.chains[0].deviations[0].what == "start state"
    path.write_text(honest, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["dynamics", "distractors"])
def test_a_physical_shift_is_simulated_again_from_the_header_alone(
    tmp_path: Path, axis: str
) -> None:
    """Errors, delays and things are in no record: axis, level and seed bring them back."""
    made = run(tmp_path / "run", "--shift", f"{axis}=4", "protocol.steps=25")
    assert [check.status for check in verify_run(made).chains] == ["verified"] * 2
    path = made.path / "header.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'"{axis}=4"', '"dynamics=5"'), encoding="utf-8")
    assert [check.status for check in verify_run(made).chains] == ["deviates"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("axis", [a for a, x in AXES.items() if x.kind in ("visual", "sensor")])
def test_a_policy_that_looks_at_nothing_has_the_same_records(
    clean: RunFolder, tmp_path: Path, axis: str
) -> None:
    blind = run(tmp_path / "run", "--shift", f"{axis}=3")
    assert [r.outcome() for r in blind.records()] == [r.outcome() for r in clean.records()]
    assert [check.status for check in verify_run(blind, chains=[0]).chains] == ["verified"]


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_shift_only(shifted: RunFolder) -> None:
    again = ["--ckpt", "builtin:random", "--num-chains", "2", "--workers", "0", "--quiet", STEPS]
    command = [*again, "--out", str(shifted.path), "--resume"]
    assert main([*command, "--shift", "start=3,layout=3"]) == 2
    assert main(command) == 2
    assert main([*command, "--shift", "start=3,layout=2"]) == 0


@pytest.mark.slow
def test_shards_of_other_shifts_are_not_merged(tmp_path: Path) -> None:
    parts = [
        run(tmp_path / "1", "--shard", "1/2", "--shift", "start=1").path,
        run(tmp_path / "2", "--shard", "2/2", "--shift", "start=2").path,
    ]
    with pytest.raises(RunFolderError, match=r"config\.protocol\.shift"):
        merge_runs(parts, tmp_path / "whole", provenance={})


@pytest.mark.slow
def test_a_comparison_names_the_shift(clean: RunFolder, shifted: RunFolder) -> None:
    found = differing(protocol_facts(clean.header()), protocol_facts(shifted.header()))
    assert [d.key for d in found] == ["protocol.shift"]
    assert str(found[0]) == "protocol.shift: nothing and start=3,layout=2"


@pytest.mark.slow
def test_the_python_interface_takes_shifts(tmp_path: Path) -> None:
    done = evaluate(
        "builtin:still", chains="7", shift=["layout=1", "start=2"], overrides=[STEPS], workers=0,
        out=tmp_path / "run", quiet=True,
    )  # fmt: skip
    header = json.loads((done.folder / "header.json").read_text(encoding="utf-8"))
    assert header["config"]["protocol"]["shift"] == "start=2,layout=1"


def test_shifts_are_in_one_order_and_need_our_own_world() -> None:
    config = compose_config(["ckpt=builtin:still"], {"protocol.shift": ("layout=2", "start=1")})
    assert config.protocol.shift == "start=1,layout=2"
    assert config.protocol.shifts.level("layout") == 2
    with pytest.raises(UsageError, match="upstream's own world has no shifts"):
        compose_config(["ckpt=builtin:still", "sim=calvin_env", "protocol.shift=start=1"])


@pytest.mark.slow
@pytest.mark.parametrize("level", ["2", "5", "empty", "another"])
def test_what_was_said_is_in_the_records_and_verified(level: str, tmp_path: Path) -> None:
    done = run(tmp_path / "run", "--shift", f"language={level}")
    said = [subtask.instruction for record in done.records() for subtask in record.subtasks]
    assert len(said) == 2
    assert (said == ["", ""]) == (level == "empty")
    checked = verify_run(done)
    assert [check.status for check in checked.chains] == ["verified"] * 2
    path = done.path / "header.json"
    honest = path.read_text(encoding="utf-8")
    path.write_text(honest.replace(f'"language={level}"', '"language=1"'), encoding="utf-8")
    found = verify_run(RunFolder.open(done.path))
    assert [d.what for check in found.chains for d in check.deviations] == ["instruction"] * 2


@pytest.mark.slow
def test_the_policy_is_told_something_else_and_the_oracle_judges_the_task(
    clean: RunFolder, tmp_path: Path
) -> None:
    """A policy that does not listen leaves the same states whatever it is told."""
    told = run(tmp_path / "run", "--shift", "language=another")
    for before, after in zip(clean.records(), told.records(), strict=True):
        assert before.tasks == after.tasks
        for one, two in zip(before.subtasks, after.subtasks, strict=True):
            assert (one.task, one.state_hash) == (two.task, two.state_hash)
            assert one.instruction != two.instruction
