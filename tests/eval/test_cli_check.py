"""`calvin-eval check`, and the same look beside a run."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from demonstrating import recorded, write_recording

from calvin_eval.cli.main import main
from calvin_eval.results.schema import ChainRecord
from calvin_eval.rollouts.chain import ChainOutcome
from calvin_eval.running.checking import HEADER_KEY, ActionWatch

KNOWER = '''
import numpy as np

class Knower:
    """Plays a recording in metres and radians, its gripper 1 where it closes."""

    from calvin_eval.wrappers.policy import Requirements
    requirements = Requirements()

    def __init__(self, file, bad=-1):
        self.actions = dict(np.load(file))
        self.bad = bad

    def reset(self, session, instruction):
        assert instruction

    def act(self, requests):
        return [self.one(r.session, r.position, r.step) for r in requests]

    def one(self, session, position, step):
        actions = self.actions[f"chain{session:04d}_sub{position}_actions"]
        row = actions[min(step, len(actions) - 1)].copy()
        row[:6] *= [0.02] * 3 + [0.05] * 3
        row[6] = row[6] < 0
        if step == self.bad:
            row[0] = np.nan
        return row[None]
'''
RIGHT = ("policy.actions.scale.position=50", "policy.actions.gripper.input=zero_one",
         "policy.actions.gripper.high=close")  # fmt: skip


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recording and with a policy that knows it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "knower.py").write_text(KNOWER)
    return write_recording(tmp_path / "demos.npz")


def check(*arguments: str, capsys: Any) -> tuple[int, str, str]:
    code = main(["check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def knower(*overrides: str) -> list[str]:
    return ["--ckpt", "knower.py:Knower", "policy.options.file=demos.npz", *overrides]


@pytest.mark.slow
def test_a_right_pipeline_passes(ready: Path, capsys: Any) -> None:
    code, out, err = check(*knower(*RIGHT), "--demos", "demos.npz", capsys=capsys)
    assert code == 0
    assert out == "checked 300 actions: 6 demonstrations from demos.npz\nnothing suspicious\n"
    assert err.startswith("policy: ")


@pytest.mark.slow
def test_wrong_ones_are_told_with_what_would_mend_them(ready: Path, capsys: Any) -> None:
    wrong = ("policy.actions.scale.position=1", *RIGHT[1:2])
    code, out, _ = check(*knower(*wrong), "--demos", "demos.npz", capsys=capsys)
    assert code == 1
    lines = out.splitlines()
    assert lines[1].startswith("error: positions have a mean size of 0.0")
    assert lines[1].endswith("x50 scaling is missing.")
    assert lines[2] == (
        "  -> policy.actions.scale.position=50 (with rotation=1 if that makes a new stage)"
    )
    assert "open and close are swapped" in lines[3]
    assert lines[4] == "  -> policy.actions.gripper.high=close (=open where it is close)"


@pytest.mark.slow
def test_json_holds_all_of_it(ready: Path, capsys: Any) -> None:
    arguments = ("--demos", "demos.npz", "--num-demos", "4", "--json")
    code, out, _ = check(*knower(), *arguments, capsys=capsys)
    content = json.loads(out)
    assert code == 1
    assert content["passed"] is False
    assert content["actions"] == 200
    assert {"position-scale", "gripper-values"} <= {f["code"] for f in content["findings"]}
    assert set(content["findings"][0]) == {"code", "severity", "sentence", "remedy"}


@pytest.mark.slow
def test_without_demonstrations_the_policy_acts(tmp_path: Path, capsys: Any) -> None:
    code, out, _ = check("--ckpt", "builtin:still", "--num-chains", "1", capsys=capsys)
    assert code == 0
    assert out.splitlines()[0] == "checked 360 actions: its own actions on 1 chains"
    assert out.splitlines()[1].startswith("info: all 360 actions are the same")


@pytest.mark.slow
def test_not_a_number_is_a_clear_error(ready: Path, capsys: Any) -> None:
    code, out, _ = check(
        *knower(*RIGHT, "policy.options.bad=3"), "--num-chains", "1", "protocol.steps=20",
        capsys=capsys,
    )  # fmt: skip
    assert code == 1
    assert "chain 0 ended with an error: " in out
    assert "expected finite numbers" in out
    code, out, _ = check(
        *knower(*RIGHT, "policy.options.bad=3"), "--demos", "demos.npz", capsys=capsys
    )
    assert code == 1
    assert "6 of 300 actions hold NaN or infinity" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--demos", "missing.npz"], "no such file or folder of demonstrations: missing.npz"),
        (
            ["--demos", "."],
            "or auto_lang_ann.npy in another folder, in . or in its folder",
        ),
        (["policy.actions.scal.position=50"], "unknown stage in policy.actions 'scal'"),
    ],
)
def test_mistakes_of_the_user_are_told(
    arguments: list[str], said: str, ready: Path, capsys: Any
) -> None:
    code, _, err = check("--ckpt", "builtin:random", *arguments, capsys=capsys)
    assert code == 2
    assert said in err


@pytest.mark.slow
def test_a_run_says_it_once_and_the_report_shows_it(
    ready: Path, tmp_path: Path, capsys: Any
) -> None:
    code = main(["--ckpt", "demos.npz", "--num-chains", "1", "--out", "fine"])
    assert code == 0
    assert "actions:" not in capsys.readouterr().err
    scaled = {name: array * ([0.02] * 3 + [1.0] * 4) for name, array in np.load(ready).items()}
    np.savez("metres.npz", **scaled)
    code = main(["--ckpt", "metres.npz", "--num-chains", "2", "--out", "metres"])
    assert code == 0
    assert capsys.readouterr().err.count("actions: error: positions have a median size of") == 1
    header = json.loads(Path("metres/header.json").read_text())
    assert header[HEADER_KEY]["actions"] >= 200
    assert "x50 is missing" in header[HEADER_KEY]["findings"][0]
    for name in ("report.html", "report.md"):
        assert "Suspicious actions" in (Path("metres") / name).read_text()
        assert "Suspicious actions" not in (Path("fine") / name).read_text()


def outcome(chain: int, actions: Any) -> ChainOutcome:
    record = ChainRecord(
        chain=chain, initial_state={}, tasks=("a",), subtasks=(), status="error", error="stopped"
    )
    return ChainOutcome(record=record, actions=(tuple(actions),), seconds={})


def test_a_watch_looks_twice_and_then_no_more() -> None:
    actions = np.concatenate([motion.actions for motion in recorded()])
    watch = ActionWatch({})
    looked = [watch.add(outcome(chain, actions)) is not None for chain in range(8)]
    assert looked == [True, False, False, True, False, False, False, False]
    assert watch.actions == 4 * len(actions)


def test_what_a_built_in_policy_means_to_do_is_no_reproach() -> None:
    still = [np.array([0, 0, 0, 0, 0, 0, 1.0])] * 300
    (own,) = ActionWatch({"kind": "builtin"}).add(outcome(0, still)) or ()  # type: ignore[misc]
    (other,) = ActionWatch({"kind": "torchscript"}).add(outcome(0, still)) or ()  # type: ignore[misc]
    assert (own.severity, other.severity) == ("info", "error")


def test_help_says_what_it_is_for() -> None:
    from calvin_eval.cli.check import check as command

    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "before a long run" in result.output


DOCS = Path(__file__).parents[2] / "docs" / "check.md"


@pytest.mark.slow
def test_the_examples_of_the_docs_say_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = DOCS.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n# circles\.py\n(.*?)```", text, re.DOTALL)
    (tmp_path / "circles.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    consoles = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    (console,) = [c for c in consoles if c.startswith("$ calvin-eval check --ckpt circles.py")]
    examples = console.replace("\\\n", "").removeprefix("$ ").split("\n$ ")
    assert len(examples) == 2
    for example in examples:
        command, _, shown = example.partition("\n")
        main(shlex.split(command)[1:])
        assert capsys.readouterr().out.strip() == shown.strip()
