"""A run in real time: its settings, what its folder says, and that it can be verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from calvin_eval.api import evaluate
from calvin_eval.cli.main import main
from calvin_eval.config.compose import compose_config
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.results.comparability import differing, protocol_facts
from calvin_eval.results.conclude import facts_from_header
from calvin_eval.results.header import Header
from calvin_eval.results.metrics import summarize
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.verify.inputs import Sources
from calvin_eval.rollouts.verify.verify import verify_run
from calvin_eval.sim.chains import load_chains
from handmade import document_of

CKPT = "ckpt=builtin:still"

# Single precision and absolute poses: what is held while waiting must not disturb their bits.
POLICIES = """
import numpy as np
from calvin_eval.wrappers.policy import Requirements

class Chunks:
    requirements = Requirements()
    def reset(self, session, instruction):
        pass
    def act(self, requests):
        rows = np.linspace(-1, 1, 35).reshape(5, 7).astype(np.float32) / 3
        rows[:, 6] = -1
        return [rows for _ in requests]

class Poses(Chunks):
    def act(self, requests):
        z = 0.55 if requests[0].step < 10 else 0.47
        pose = np.array([-0.12, -0.12, z]), np.array([np.pi, 0, np.pi / 2]), -1
        return [[pose] * 3 for _ in requests]
"""


def run(out: Path, ckpt: str, *arguments: str) -> RunFolder:
    command = ["--ckpt", ckpt, "--split", "D", "--out", str(out), "--workers", "0", "--quiet"]
    assert main([*command, "protocol.steps=30", *arguments]) == 0
    return RunFolder.open(out)


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies.py"
    path.write_text(POLICIES)
    return path


def profile(folder: RunFolder) -> Any:
    return folder.read_json("profile.json")


@pytest.mark.slow
def test_no_latency_leaves_the_same_run_as_a_world_that_waits(
    tmp_path: Path, policies: Path
) -> None:
    ckpt, chains = f"{policies}:Chunks", ("--num-chains", "2")
    waits = run(tmp_path / "waits", ckpt, *chains)
    real = run(tmp_path / "real", ckpt, *chains, "--realtime", "0")
    pairs = list(zip(waits.records(), real.records(), strict=True))
    assert len(pairs) == 2
    assert all(a.outcome() == b.outcome() for a, b in pairs)  # the states' hashes included
    for chain in (0, 1):
        actions = [folder.actions_path(chain).read_bytes() for folder in (waits, real)]
        assert actions[0] == actions[1]
    assert waits.document()["config"]["protocol"]["realtime"] is None
    assert "realtime" not in profile(waits)
    assert profile(real)["realtime"]["latency_steps"] == {"0": 12}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "length"), [("Chunks", 0), ("Poses", 2)])
def test_a_run_in_real_time_is_repeatable_verified_and_not_official(
    tmp_path: Path, policies: Path, name: str, length: int
) -> None:
    dark = next(c.initial_state for c in load_chains("official") if not c.initial_state["led"])
    tasks = ["turn_on_led", "turn_off_led", "open_drawer"]
    (tmp_path / "list.json").write_text(json.dumps([[dict(dark), tasks]]))
    chains = str(tmp_path / "list.json")
    options = ("--realtime", "3", "protocol.realtime.ask=ahead", f"protocol.chains={chains}")
    first, second = (run(tmp_path / n, f"{policies}:{name}", *options) for n in ("a", "b"))
    both = zip(first.records(), second.records(), strict=True)
    assert all(a.outcome() == b.outcome() for a, b in both)
    assert [record.length for record in first.records()] == [length]
    verified = verify_run(first, sources=Sources(chains=chains))
    assert verified.status == "verified"
    reasons = first.document()["verdict"]["reasons"]
    found = "expected waits, found goes on, latency 3 steps."
    assert f"World while the policy thinks: {found}" in reasons
    stored = profile(first)["realtime"]
    assert set(stored["latency_steps"]) == {"3"}
    assert stored["waited_steps"] >= 3 * sum(len(record.subtasks) for record in first.records())
    assert [len(subtasks) for subtasks in stored["chains"].values()] == [
        len(record.subtasks) for record in first.records()
    ]
    page = (first.path / "report.html").read_text()
    assert f"<dt>Decisions</dt><dd>{stored['decisions']}</dd>" in page


@pytest.mark.slow
def test_a_measured_latency_is_said_not_to_be_repeatable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--ckpt", "builtin:still", "--split", "D", "--out", str(tmp_path / "run")]
    command += ["--workers", "0", "--num-chains", "1", "protocol.steps=6", "--realtime"]
    assert main(command) == 0
    assert "no second run need give the same" in capsys.readouterr().err
    folder = RunFolder.open(tmp_path / "run")
    assert folder.document()["config"]["protocol"]["realtime"]["latency"] == "measured"
    (reason,) = [r for r in folder.document()["verdict"]["reasons"] if r.startswith("World while")]
    assert "as long as measured at 30 Hz, so no second run need give the same" in reason
    assert reason in (folder.path / "report.md").read_text()
    assert verify_run(folder).status == "verified"


def test_the_api_takes_it_too(tmp_path: Path) -> None:
    run = evaluate(
        "builtin:still", num_chains=1, realtime=2, workers=0, out=str(tmp_path / "run"),
        overrides=["protocol.steps=5"], quiet=True,
    )  # fmt: skip
    realtime = json.loads((run.folder / "profile.json").read_text())["realtime"]
    assert realtime["chains"] == {"0": [{"decisions": 2, "waited_steps": 4}]}


@pytest.mark.parametrize(
    ("arguments", "latency"),
    [
        ([], None),
        (["--realtime"], "measured"),
        (["--realtime", "measured"], "measured"),
        (["--realtime", "4"], 4),
        (["--realtime=0"], 0),
        (["protocol.realtime.latency=7"], 7),
    ],
)
def test_spellings(arguments: list[str], latency: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--ckpt", "builtin:still", "--print-config", *arguments]) == 0
    realtime = yaml.safe_load(capsys.readouterr().out)["protocol"]["realtime"]
    assert realtime == {
        "latency": latency, "hz": 30, "ask": "empty", "while_waiting": "hold", "stale": "keep",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("latency=-1", "expected --realtime .* from 0 up; found -1"),
        ("latency=1.5", "found 1.5"),
        ("latency=true", "found True"),
        ("latency=often", "to be measured, or a number of steps from 0 up; found 'often'"),
        ("hz=0", "above 0; found 0"),
        ("hz=fast", "found 'fast'"),
        ("ask=later", "expected one of|unknown"),
        ("lag=3", r"Did you mean protocol\.realtime\."),
    ],
)
def test_what_cannot_be_is_refused(override: str, message: str) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=message):
        compose_config([CKPT, f"protocol.realtime.{override}"])


def test_a_value_without_a_key_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"expected protocol\.realtime\.KEY=VALUE; found the value 3"
    ):
        compose_config([CKPT, "protocol.realtime=3"], {"protocol.realtime.latency": 3})


def test_a_budget_of_decisions_has_no_time() -> None:
    with pytest.raises(UsageError, match=r"expected protocol\.budget=env_steps with --realtime"):
        compose_config([CKPT, "protocol.budget=decisions", "protocol.realtime.latency=3"])


def test_runs_differ_by_single_settings_and_a_world_that_waits_by_none_of_them() -> None:
    def facts(*overrides: str) -> Any:
        config = compose_config([CKPT, *overrides]).decisive()
        return protocol_facts(Header.from_json(document_of(config=config)))

    one, three = (facts(f"protocol.realtime.latency={n}") for n in (1, 3))
    assert [str(d) for d in differing(one, three)] == ["protocol.realtime.latency: 1 and 3"]
    assert differing(facts(), facts("protocol.realtime.stale=drop")) == ()
    assert not [key for key in facts() if "realtime" in key]


def test_headers_from_before_real_time_say_that_the_world_waits() -> None:
    golden = Path(__file__).parents[1] / "golden" / "schema_1"
    header = RunFolder.open(golden).header()
    assert "realtime" not in header.config.protocol
    assert facts_from_header(header, summarize([], 2)).protocol.realtime.text == "waits"
