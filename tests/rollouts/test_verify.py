"""Verifying: an honest run agrees to the last bit, and every forgery is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forging import write_header
from policy_texts import PRESS

from calvin_eval.cli.main import main
from calvin_eval.errors import AssetError, RunFolderError, UsageError
from calvin_eval.protocol import BENCHMARK
from calvin_eval.results.conclude import conclude
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.verification import ChainCheck, Deviation, Verification
from calvin_eval.rollouts import pool
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.verify import inputs as verify_inputs
from calvin_eval.rollouts.verify.inputs import Sources
from calvin_eval.rollouts.verify.verify import verify_run
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.hashes import state_hash
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.render import RenderInfo
from calvin_eval.sim.selftest import SelftestResult

pytestmark = pytest.mark.processes

STEPS = 30
TASKS = ["turn_on_led", "turn_off_led", "open_drawer"]

Edit = Callable[[list[dict[str, Any]]], None]


def make_run(out: Path, *arguments: str) -> Path:
    command = ["--split", "D", *arguments, f"protocol.steps={STEPS}", "--workers", "0", "--quiet"]
    assert main([*command, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a chain list with two chains that it gets two tasks into, and its run."""
    root = tmp_path_factory.mktemp("honest")
    (root / "press.py").write_text(PRESS, encoding="utf-8")
    states = [dict(c.initial_state) for c in load_chains("official") if not c.initial_state["led"]]
    (root / "list.json").write_text(json.dumps([[s, TASKS] for s in states[:2]]), encoding="utf-8")
    make_run(
        root / "press", "--ckpt", f"{root / 'press.py'}:Press",
        f"protocol.chains={root / 'list.json'}",
    )  # fmt: skip
    make_run(root / "random", "--ckpt", "builtin:random", "--chains", "3,17")
    return root


@pytest.fixture
def press(places: Path, tmp_path: Path) -> RunFolder:
    """Two successes and a failure in each of two chains of a file."""
    return RunFolder.open(shutil.copytree(places / "press", tmp_path / "press"))


@pytest.fixture
def chance(places: Path, tmp_path: Path) -> RunFolder:
    """A failure in each of two official chains."""
    return RunFolder.open(shutil.copytree(places / "random", tmp_path / "random"))


def check(folder: RunFolder, chains: Sequence[int] | None = None, **options: Any) -> Verification:
    return verify_run(folder, chains=chains, **options)


def forge(folder: RunFolder, edit: Edit) -> None:
    """Change records and everything that follows from them, as a careful forger would."""
    data = [record.to_json() for record in folder.records()]
    edit(data)
    records = [ChainRecord.from_json(entry) for entry in data]
    (folder.path / "chains.jsonl").write_bytes(encode_journal(records))
    (folder.path / "results.json").unlink(missing_ok=True)
    conclude(folder)


def last(result: Verification, chain: int = 0) -> Deviation:
    """The only chain's last deviation; it is the run's only trouble."""
    assert result.deviations == ()
    (found,) = result.of("deviates")
    assert found.chain == chain
    return found.deviations[-1]


def test_an_honest_run_is_verified(press: RunFolder, places: Path) -> None:
    records = press.records()
    assert [[s.success for s in r.subtasks] for r in records] == [[True, True, False]] * 2
    seen: list[ChainCheck] = []
    result = check(press, watch=seen.append)
    assert result.status == "verified"
    assert [c.chain for c in result.of("verified")] == [0, 1] == [c.chain for c in seen]
    assert [c.steps for c in result.chains] == [sum(s.steps for s in r.subtasks) for r in records]
    assert any("list.json" in note for note in result.notes)
    assert json.loads(json.dumps(result.to_json()))["counts"]["verified"] == 2
    named = check(press, sources=Sources(chains=str(places / "list.json")))
    assert named.status == "verified"
    assert not any("list.json" in note for note in named.notes)


def test_processes_find_the_same(chance: RunFolder, press: RunFolder) -> None:
    forge(press, lambda data: data[1]["subtasks"][2].update(state_hash="0" * 32))
    for folder in (chance, press):
        assert check(folder, workers=2) == check(folder)
    assert check(press, workers=1).status == "deviates"


def test_a_process_that_dies_costs_its_chain(
    chance: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def first_one_dies(module: str, environment: Any) -> Child:
        started.append(module)
        return Child("no.such.module" if len(started) == 1 else module, environment)

    monkeypatch.setattr(pool, "Child", first_one_dies)
    result = check(chance, workers=1)
    assert [c.status for c in result.chains] == ["unchecked", "verified"]
    assert "ModuleNotFoundError" in str(result.chains[0].reason)
    assert result.status == "unchecked"
    assert len(started) == 2


def test_some_chains_only(chance: RunFolder) -> None:
    forge(chance, lambda data: data[1]["subtasks"][0].update(state_hash="0" * 32))
    assert check(chance, [3]).status == "verified"
    assert check(chance, [17]).status == "deviates"
    with pytest.raises(UsageError, match="found 4, 5"):
        check(chance, [3, 4, 5])


def test_a_failure_that_became_a_success(press: RunFolder) -> None:
    forge(press, lambda data: data[0]["subtasks"][2].update(success=True))
    found = last(check(press))
    assert (found.what, found.position, found.step) == ("verdict", 2, STEPS)
    assert found.expected == f"no success in {STEPS} steps"
    assert found.found == f"success at step {STEPS}"


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_success_that_was_moved(press: RunFolder, shift: int) -> None:
    at = press.records()[0].subtasks[1].steps
    forge(press, lambda data: data[0]["subtasks"][1].update(steps=at + shift))
    result = check(press)
    assert {d.what for d in result.of("deviates")[0].deviations} == {"verdict", "stored actions"}
    found = last(result)
    assert (found.position, found.step) == (1, at)
    assert found.expected == f"success at step {at}"
    assert found.found == f"success at step {at + shift}"


def test_a_success_that_was_prolonged(press: RunFolder) -> None:
    """Actions after the success, counted in the record and hashed at their end."""
    actions = press.read_actions(0)
    actions[0].append(actions[0][-1])
    press.write_actions(0, list(actions.values()))
    steps = len(actions[0])
    forge(press, lambda data: data[0]["subtasks"][0].update(steps=steps))
    found = check(press).of("deviates")[0].deviations[0]
    assert (found.what, found.position, found.step) == ("verdict", 0, steps - 1)


def test_actions_that_were_cut(chance: RunFolder) -> None:
    actions = chance.read_actions(3)
    chance.write_actions(3, [actions[0][:-5]])
    result = check(chance)
    assert [d.what for d in result.of("deviates")[0].deviations] == [
        "stored actions", "hash of the state",
    ]  # fmt: skip
    assert last(result, 3).step == STEPS - 5
    # The same with a record that fits: a failure needs its whole budget.
    state = replayed(actions[0][:-5], 3)
    forge(chance, lambda data: data[0]["subtasks"][0].update(steps=STEPS - 5, state_hash=state))
    found = last(check(chance), 3)
    assert (found.what, found.step) == ("budget", STEPS - 4)
    assert found.found == f"{STEPS - 5} steps"


def test_actions_beyond_the_budget(chance: RunFolder) -> None:
    actions = chance.read_actions(3)[0] * 2
    chance.write_actions(3, [actions])
    state = replayed(actions, 3)
    forge(chance, lambda data: data[0]["subtasks"][0].update(steps=2 * STEPS, state_hash=state))
    found = last(check(chance), 3)
    assert (found.what, found.step) == ("budget", STEPS + 1)


def replayed(actions: Sequence[Any], chain: int) -> str:
    """The state after these actions, by a simulator of its own."""
    env = SimulatorSpec(
        backend="calvin_eval", assets="builtin", scene="D", revision="pinned", cameras=(),
        render=RenderInfo(backend="none", requested="none"),
    ).build()  # fmt: skip
    start = load_chains("official")[chain]
    env.start(start.robot_obs, start.scene_obs)
    for action in actions:
        env.advance(action)
    state = state_hash(env.get_state_obs())
    env.close()
    return state


def test_an_action_that_differs_in_its_last_bit(press: RunFolder) -> None:
    actions = press.read_actions(1)
    position, orientation, gripper = actions[2][0]
    actions[2][0] = (np.nextafter(position, 1), orientation, gripper)
    press.write_actions(1, list(actions.values()))
    found = last(check(press), 1)
    assert (found.what, found.position, found.step) == ("hash of the state", 2, STEPS)


def test_an_action_that_none_is(chance: RunFolder) -> None:
    actions = chance.read_actions(3)[0]
    actions[9] = np.full(7, np.nan)
    chance.write_actions(3, [actions])
    found = last(check(chance), 3)
    assert (found.what, found.position, found.step) == ("action", 0, 10)


@pytest.mark.parametrize("harm", ["missing", "cut", "bomb", "more"])
def test_a_file_of_actions_that_none_is(chance: RunFolder, harm: str) -> None:
    path = chance.actions_path(3)
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    elif harm == "bomb":
        np.savez_compressed(path, sub0_actions=np.zeros((600_000, 8)))
    else:
        chance.write_actions(3, [chance.read_actions(3)[0]] * 2)
    words = {
        "missing": f"{STEPS} steps", "cut": "ends with its table", "bomb": "more than", "more": "1",
    }  # fmt: skip
    assert words[harm] in last(check(chance), 3).found


@pytest.mark.parametrize("what", ["hash of the state", "instruction", "tasks", "initial state"])
def test_another_claim(chance: RunFolder, what: str) -> None:
    def edit(data: list[dict[str, Any]]) -> None:
        if what == "tasks":
            data[0]["tasks"][1] = "open_drawer"
        elif what == "initial state":
            data[0]["initial_state"]["led"] ^= 1
        elif what == "instruction":
            data[0]["subtasks"][0]["instruction"] = "do it"
        else:
            data[0]["subtasks"][0]["state_hash"] = "0" * 32

    forge(chance, edit)
    found = last(check(chance), 3)
    assert found.what == what
    assert found.expected != found.found


def test_an_order_of_values_that_upstream_would_hash_otherwise(chance: RunFolder) -> None:
    def edit(data: list[dict[str, Any]]) -> None:
        data[0]["initial_state"] = dict(reversed(data[0]["initial_state"].items()))

    forge(chance, edit)
    assert last(check(chance), 3).what == "initial state"


def test_records_of_a_file_that_no_chain_can_leave(press: RunFolder) -> None:
    """The list is not at hand, so the record is all there is."""
    forge(press, lambda data: data[0]["initial_state"].update(led=7))
    assert "led" in last(check(press)).found
    forge(press, lambda data: data[0]["initial_state"].update(led=0))

    def edit(data: list[dict[str, Any]]) -> None:
        data[0]["tasks"][0] = data[0]["subtasks"][0]["task"] = "make_coffee"

    forge(press, edit)
    assert "make_coffee" in str(check(press).of("deviates")[0].deviations)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("summary.json", ("average_length",), 4.5),
        ("summary.json", ("success_rates", "1"), 0.5),
        ("summary.json", ("per_task", "lift_pink_block_slider", "success"), 1),
        ("summary.json", ("verdict", "official"), True),
        ("summary.json", ("comment",), "best"),
        ("results.json", ("null", "avg_seq_len"), 4.5),
        ("header.json", ("verdict",), {"official": True, "reasons": []}),
    ],
)
def test_an_edited_summary(chance: RunFolder, name: str, path: tuple[str, ...], value: Any) -> None:
    data = chance.read_json(name)
    inner = data
    for key in path[:-1]:
        inner = inner.setdefault(key, {})
    inner[path[-1]] = value
    chance.write_json(name, data)
    result = check(chance, [3])
    assert result.status == "deviates"
    assert result.of("verified")  # the chains themselves are as they were
    assert all(d.what.startswith(name) for d in result.deviations)


def test_a_missing_summary(chance: RunFolder) -> None:
    (chance.path / "summary.json").unlink()
    assert [d.what for d in check(chance, [3]).deviations] == ["summary.json"]
    chance.update_header(status="interrupted")
    result = check(chance, [3])
    assert result.status == "verified"
    assert any("any summary" in note for note in result.notes)


@pytest.mark.parametrize("status", ["started", "interrupted", "error"])
def test_false_claims_in_a_run_that_is_not_over(chance: RunFolder, status: str) -> None:
    """Without a summary, and whatever the status says, a verdict and results are compared."""
    (chance.path / "summary.json").unlink()
    chance.update_header(status=status, verdict={"official": True, "reasons": []})
    chance.write_json("results.json", {"null": {"avg_seq_len": 9}})
    result = check(chance, [3])
    assert result.status == "deviates"
    whats = {d.what for d in result.deviations}
    assert "header.json: verdict: official" in whats
    assert any(what.startswith("results.json") for what in whats)


def test_a_run_that_is_not_over_and_claims_nothing(chance: RunFolder) -> None:
    for name in ("summary.json", "results.json"):
        (chance.path / name).unlink()
    chance.update_header(status="started", verdict=None)
    assert check(chance, [3]).deviations == ()


def test_results_of_an_incomplete_run(chance: RunFolder) -> None:
    results = chance.read_json("results.json")
    forge(chance, lambda data: data.pop())
    chance.write_json("results.json", results)
    assert [d.what for d in check(chance).deviations] == ["results.json"]


def test_a_chain_that_was_left_out(chance: RunFolder) -> None:
    header = chance.document()
    chance.update_header(chains={**header["chains"], "planned": [3]})
    forge(chance, lambda data: data.pop())
    (found,) = check(chance).deviations
    assert found.what == "planned chains"


def test_a_chain_that_nobody_planned(chance: RunFolder) -> None:
    header = chance.document()
    chance.update_header(chains={**header["chains"], "planned": [3, 18]})
    whats = [d.what for d in check(chance, [3]).deviations]
    assert whats == ["planned chains", "chains with a record"]


@pytest.mark.parametrize(
    ("section", "key", "what"),
    [("chains", "sha256", "chain list"), ("instructions", "sha256", "instructions")],
)
def test_hashes_of_other_things(chance: RunFolder, section: str, key: str, what: str) -> None:
    header = chance.document()
    chance.update_header(**{section: {**header[section], key: "0" * 64}})
    conclude(chance)
    (found,) = check(chance, [3]).deviations
    assert found.what.startswith(what)


def test_official_hashes_for_other_chains(press: RunFolder) -> None:
    header = press.document()
    press.update_header(chains={**header["chains"], "sha256": BENCHMARK.chain_list})
    conclude(press)
    result = check(press)
    assert {d.what for c in result.of("deviates") for d in c.deviations} >= {"tasks"}


def test_a_journal_with_another_checksum(chance: RunFolder) -> None:
    path = chance.path / "chains.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"success":false', b'"success":true ', 1))
    (found,) = check(chance).deviations
    assert found.what == "journal"


def test_a_torn_last_line(chance: RunFolder) -> None:
    """The journal drops it, and then the summary does not fit."""
    path = chance.path / "chains.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    result = check(chance)
    assert result.recorded == 1
    assert result.status == "deviates"


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "split of another scene": ({"config.split": "A"}, "scene"),
    "unknown split": ({"config.split": "CALVIN"}, "scene"),
    "another checkpoint": ({"config.ckpt": "reach2.pt"}, "policy.ckpt"),
    "another seed": ({"config.seed": 7}, "policy.seed"),
    "another pack": ({"config.sim.assets": "official"}, "assets.name"),
    "another list": ({"config.protocol.chains": "mine/list.json"}, "chains.list"),
    "other sentences": ({"config.protocol.instructions": "a/b.yaml"}, "instructions.name"),
    "a camera without a renderer": (
        {"policy.requirements.rgb": ["static"], "renderer.requested": "auto"}, "renderer.backend",
    ),
    "a renderer without a camera": ({"renderer.backend": "egl"}, "renderer.backend"),
    "another renderer": (
        {"policy.requirements.rgb": ["static"], "renderer.backend": "egl"}, "renderer.requested",
    ),
    "sizes of a camera that is not seen": (
        {"policy.requirements.sizes": {"static": [9, 9]}}, "policy.requirements.sizes",
    ),
    "a stage that is not in use": (
        {"config.policy.observe": {"say": {"use": "instruction"}}}, "policy.stages.observe.say",
    ),
    "a stage of another name": (
        {
            "config.policy.observe": {"say": {"use": "instruction"}},
            "policy.stages": {"observe": {"say": {"use": "images"}}},
        },
        "policy.stages.observe.say.use",
    ),
    "a stage that was taken away": (
        {
            "config.policy.actions": {"scale": None},
            "policy.stages": {"actions": {"scale": {"use": "scale"}}},
        },
        "policy.stages.actions.scale",
    ),
    "resets that the client kept back": (
        {"config.policy.options": {"reset": "chain"}}, "policy.options.reset",
    ),
}  # fmt: skip


def edit_header(folder: RunFolder, changes: dict[str, Any]) -> None:
    """Put values into the header by their paths, and conclude the run again."""
    write_header(folder, changes)
    conclude(folder)


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_configuration_that_contradicts_its_header(chance: RunFolder, name: str) -> None:
    changes, what = CONTRADICTIONS[name]
    edit_header(chance, changes)
    result = check(chance, [3])
    assert f"header.json: {what}" in {d.what for d in result.deviations}


def test_rules_that_leave_no_trace_are_named(press: RunFolder) -> None:
    """A forger who edits header, verdict and summary alike is not found, and that is said."""
    edit_header(press, {"config.protocol.leftover": "keep", "config.protocol.execute": 3})
    edit_header(press, {"config.protocol.leftover": "drop", "config.protocol.execute": None})
    result = check(press)
    assert result.status == "verified"
    ledger = {f: entry["treatment"] for entry in result.to_json()["ledger"] for f in entry["facts"]}
    for rule in ("policy_reset", "leftover", "execute", "realtime.*"):
        assert ledger[f"config.protocol.{rule}"] == "not checked"


def test_the_claim_is_computed_and_not_read(press: RunFolder) -> None:
    for name in ("summary.json", "results.json"):
        (press.path / name).write_text("{}", encoding="utf-8")
    claim = check(press, [0]).claim
    assert claim is not None
    assert (claim.planned, claim.completed, claim.average_length) == (2, 2, 2.0)
    assert not claim.official
    assert "average length 2.000" in str(claim)
    assert "2 of 2 chains of the list 'list.json'; not official" in str(claim)


def test_an_incomplete_run_claims_no_score(chance: RunFolder) -> None:
    forge(chance, lambda data: data.pop())
    claim = check(chance).claim
    assert claim is not None
    assert (claim.completed, claim.average_length, claim.official) == (1, None, False)
    assert str(claim).startswith("incomplete, 1 of 2 chains")


def test_times_of_a_world_that_went_on(chance: RunFolder) -> None:
    profile = chance.read_json("profile.json")
    chance.write_json("profile.json", {**profile, "realtime": {"waited_steps": 9}})
    (found,) = check(chance, [3]).deviations
    assert found.what == "header.json: config.protocol.realtime"


def test_other_rules(press: RunFolder) -> None:
    """A world reset per subtask leaves other states."""
    config = press.document()["config"]
    other = {**config, "protocol": {**config["protocol"], "world_reset": "subtask"}}
    press.update_header(config=other)
    conclude(press)
    assert last(check(press, [0])).position == 1


def test_a_run_with_other_rules_is_verified(places: Path, tmp_path: Path) -> None:
    folder = make_run(
        tmp_path / "run", "--ckpt", f"{places / 'press.py'}:Press", "--chains", "0",
        f"protocol.chains={places / 'list.json'}", "protocol.world_reset=subtask",
        "protocol.budget=decisions", "protocol.leftover=keep", "--revision", "head",
    )  # fmt: skip
    result = check(RunFolder.open(folder))
    assert result.status == "verified"
    assert any("decisions" in note for note in result.notes)
    steps = RunFolder.open(folder).records()[0].subtasks[0].steps
    assert result.chains[0].steps > steps  # more than one subtask, each from the start


@pytest.mark.parametrize("chains", ["single:1:open_drawer+close_drawer", "upstream:3", "dev"])
def test_a_run_on_a_list_that_is_made_anew_is_verified(tmp_path: Path, chains: str) -> None:
    folder = RunFolder.open(
        make_run(
            tmp_path / "run", "--ckpt", "builtin:random", "--split", "B", "--chains", "0,1",
            f"protocol.chains={chains}",
        )
    )  # fmt: skip
    result = check(folder)
    assert result.status == "verified"
    forge(folder, lambda data: data[1].update(tasks=[*data[1]["tasks"], "turn_on_led"]))
    assert last(check(folder), 1).what == "tasks"  # compared with the list, not with its own word


def test_an_error_has_no_verdict(chance: RunFolder) -> None:
    forge(chance, lambda data: data[1].update(status="error", error="boom", subtasks=[]))
    result = check(chance)
    assert [c.status for c in result.chains] == ["verified", "unchecked"]
    assert "ended by an error" in str(result.chains[1].reason)
    assert result.status == "unchecked"


@pytest.mark.parametrize("name", ["builtin", "official", "custom"])
def test_assets_that_are_not_here(
    chance: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CALVIN_EVAL_ASSETS", str(tmp_path / "none"))
    config = chance.document()["config"]
    chance.update_header(
        assets={"name": name, "fingerprint": "0" * 64},
        config={**config, "sim": {**config["sim"], "assets": name, "verify": False}},
    )
    conclude(chance)
    result = check(chance)
    assert result.status == "unchecked"
    assert {c.status for c in result.chains} == {"unchecked"}
    reason = str(result.chains[0].reason)
    assert f"the {name} asset pack" in reason or f"the asset pack {name!r}" in reason
    assert "--assets" in reason or "CALVIN_EVAL_ASSETS" in reason
    with pytest.raises(AssetError):
        check(chance, sources=Sources(assets=str(tmp_path / "none")))


def test_sources_that_are_not_the_runs(press: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the chain list .* that the run used"):
        check(press, sources=Sources(chains="dev"))
    other = tmp_path / "other.json"
    sentences = dict.fromkeys(load_pack("builtin").instructions, "do it")
    other.write_text(json.dumps(sentences), encoding="utf-8")
    with pytest.raises(UsageError, match=r"the instructions .* that the run used"):
        check(press, sources=Sources(instructions=str(other)))


def test_a_run_that_depends_on_its_order(chance: RunFolder) -> None:
    config = chance.document()["config"]
    chance.update_header(config={**config, "sim": {**config["sim"], "deterministic": False}})
    conclude(chance)
    assert "deterministic=false" in str(check(chance).chains[0].reason)


@pytest.mark.parametrize(
    ("section", "value"),
    [("scene", "E"), ("revision", "new"), ("chains", {}), ("config", {"protocol": {"steps": 0}})],
)
def test_a_header_that_says_nothing(chance: RunFolder, section: str, value: Any) -> None:
    chance.update_header(**{section: value})
    with pytest.raises(RunFolderError, match=r"header\.json"):
        check(chance)


def test_a_simulator_that_raises_is_no_verdict(
    chance: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: Any, *states: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(TaskOracle, "needs", no_room)
    result = check(chance, [3])
    assert result.status == "unchecked"
    assert "MemoryError: no room" in str(result.chains[0].reason)


def test_a_machine_that_rounds_otherwise_judges_nobody(
    chance: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SelftestResult(
        kind="physics", subject="scene D", outcome="different", expected="a", found="b",
        causes=("the processor is another",),
    )  # fmt: skip
    monkeypatch.setattr(verify_inputs, "quick_selftest", lambda *arguments: other)
    result = check(chance)
    assert result.status == "unchecked"
    assert "the processor is another" in str(result.chains[0].reason)
