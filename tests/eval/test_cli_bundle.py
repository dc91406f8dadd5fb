"""`bundle`, `verify` and `export` from the command line."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import subprocess
import zipfile
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result

from calvin_eval.cli.bundle import bundle, export
from calvin_eval.cli.main import main
from calvin_eval.cli.verify import verify
from calvin_eval.errors import CalvinEvalError, RunFolderError, UsageError
from calvin_eval.results.conclude import conclude
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.leaderboards import evo_entry, ve_row
from calvin_eval.results.model_card import parse_model_card
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.unbundle import read_bundle

CARD = {
    "name": "Chance",
    "training_split": "D",
    "parameters": 7_000_000_000,
    "observation_space": ["nothing"],
    "action_space": "relative tcp pose",
    "licence": "Apache-2.0",
    "links": {"paper": "https://example.org/paper", "code": "https://example.org/code"},
}
# Facts of the form of allenai/vla-evaluation-harness: required keys, and no others than these.
VE_REQUIRED = {"model", "display_name", "benchmark", "weight_type", "curated_by", "date_added"}
VE_OPTIONAL = {
    "name_in_paper", "overall_score", "suite_scores", "task_scores", "reported_paper",
    "reported_table", "notes", "params", "model_paper",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four chains, and a card."""
    root = tmp_path_factory.mktemp("made")
    (root / "model.json").write_text(json.dumps(CARD), encoding="utf-8")
    arguments = ["--ckpt", "builtin:random", "--num-chains", "4", "protocol.steps=10", "--quiet"]
    assert main([*arguments, "--workers", "0", "--out", str(root / "run")]) == 0
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "run", tmp_path / "run")


@pytest.fixture
def zipped(made: Path, tmp_path: Path) -> Path:
    path = tmp_path / "chance.zip"
    done = call(bundle, made / "run", "--meta", made / "model.json", "-o", path)
    assert done.exit_code == 0, done.output
    assert hashlib.sha256(path.read_bytes()).hexdigest() in done.stdout
    return path


def call(command: object, *arguments: object) -> Result:
    return CliRunner().invoke(command, list(map(str, arguments)))  # type: ignore[arg-type]


def flip(folder: Path, chain: int) -> None:
    """A failure becomes a success, and everything that follows from it is written anew."""
    run = RunFolder.open(folder)
    data = [record.to_json() for record in run.records()]
    data[chain]["subtasks"][-1]["success"] = True
    data[chain]["tasks"] = data[chain]["tasks"][:1]
    records = [ChainRecord.from_json(entry) for entry in data]
    (folder / "chains.jsonl").write_bytes(encode_journal(records))
    conclude(run)


@pytest.mark.slow
def test_a_run_and_its_bundle_are_verified(run: Path, zipped: Path) -> None:
    for path in (run, zipped):
        done = call(verify, path, "--workers", 0)
        assert done.exit_code == 0, done.output
        assert "verified: 4 verified, 0 deviate, 0 not checked of 4 chains" in done.stdout
        assert "no record can show it" in done.stdout


@pytest.mark.slow
def test_a_forged_bundle_deviates(run: Path, made: Path, tmp_path: Path) -> None:
    """Its manifest fits: only the simulation can tell."""
    flip(run, 2)
    path = tmp_path / "forged.zip"
    assert call(bundle, run, "--meta", made / "model.json", "-o", path).exit_code == 0
    done = call(verify, path, "--all", "--workers", 2)
    assert done.exit_code == 1
    assert "chain 2: tasks: expected" in done.stdout
    data = json.loads(call(verify, path, "--json", "--workers", 0).stdout)
    assert data["status"] == "deviates"
    assert data["counts"] == {"verified": 3, "deviates": 1, "unchecked": 0}
    assert [c["chain"] for c in data["chains"] if c["deviations"]] == [2]
    assert call(verify, path, "--chains", "0,3", "--workers", 0).exit_code == 0


def test_an_altered_bundle_is_refused(zipped: Path) -> None:
    with zipfile.ZipFile(zipped) as old:
        files = {name: old.read(name) for name in old.namelist()}
    files["summary.json"] = files["summary.json"].replace(b"0.0", b"5.0", 1)
    with zipfile.ZipFile(zipped, "w") as new:
        for name, data in files.items():
            new.writestr(name, data)
    done = call(verify, zipped)
    assert isinstance(done.exception, RunFolderError)
    assert done.exception.exit_code == 1
    assert "summary.json was altered" in str(done.exception)


def test_what_cannot_be_checked_is_said(run: Path) -> None:
    folder = RunFolder.open(run)
    config = folder.document()["config"]
    folder.update_header(
        assets={"name": "mine", "fingerprint": "1" * 64},
        config={**config, "sim": {**config["sim"], "assets": "mine"}},
    )
    conclude(folder)
    done = call(verify, run)
    assert done.exit_code == 3
    assert "unchecked: 0 verified, 0 deviate, 4 not checked" in done.stdout
    assert "4 chains: its asset pack is needed: expected the asset pack 'mine'" in done.stdout
    assert "claim: average length 0.000 (95 % 0.000 to " in done.stdout
    assert "4 of 4 chains of the list 'official'; not official (" in done.stdout
    assert "config.protocol.policy_reset, config.protocol.leftover" in done.stdout


@pytest.mark.slow
def test_a_sample_can_be_drawn_again(run: Path) -> None:
    def drawn(*arguments: object) -> tuple[list[int], int]:
        data = json.loads(call(verify, run, "--json", "--workers", 0, *arguments).stdout)
        return [check["chain"] for check in data["chains"]], data["sample_seed"]

    first, seed = drawn("--sample", 2)
    assert len(first) == 2
    assert drawn("--sample", 2, "--seed", seed) == (first, seed)
    assert {tuple(drawn("--sample", 1, "--seed", i)[0]) for i in range(4)} != {(0,)}
    assert drawn("--sample", 9) == ([0, 1, 2, 3], None)


def test_a_damaged_journal_is_a_finding(run: Path) -> None:
    path = run / "chains.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"steps":10', b'"steps":11', 1))
    done = call(verify, run)
    assert done.exit_code == 1
    assert "journal: expected whole records" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("--all", "--sample", 3), ("--chains", "9"), ("--chains", "x"), ("--chains", "3-")],
)
def test_usage(run: Path, arguments: tuple[object, ...]) -> None:
    done = call(verify, run, *arguments)
    assert isinstance(done.exception, CalvinEvalError)
    assert done.exception.exit_code == 2


def test_markup_in_a_strangers_file_is_shown_as_it_is(run: Path) -> None:
    folder = RunFolder.open(run)
    folder.write_json("summary.json", {**folder.read_json("summary.json"), "[bold]x": "[/red]"})
    done = call(verify, run, "--workers", 0)
    assert done.exit_code == 1
    assert "[bold]x: expected nothing; found" in done.stdout


def test_export(zipped: Path, run: Path, made: Path, tmp_path: Path) -> None:
    assert call(export, zipped, "-o", tmp_path / "a").exit_code == 0  # with its own card
    assert call(export, run, "--meta", made / "model.json", "-o", tmp_path / "b").exit_code == 0
    names = {"results.json", "vla-leaderboard.json", "evo-sota.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "a" / "results.json").read_bytes() == (run / "results.json").read_bytes()
    table = json.loads((tmp_path / "a" / "vla-leaderboard.json").read_text(encoding="utf-8"))
    (row,) = table["results"]
    assert VE_REQUIRED <= row.keys() <= VE_REQUIRED | VE_OPTIONAL
    assert row["overall_score"] is None  # neither official nor on ABC->D
    assert row["task_scores"] == {"reported_avg": 0.0}
    assert row["params"] == "7B"
    assert "Planned chains: expected 1000, found 4" in row["notes"]
    lists = json.loads((tmp_path / "a" / "evo-sota.json").read_text(encoding="utf-8"))
    assert not lists["d_d"]["non_standard"][0]["is_standard"]


def test_nothing_false_is_exported(run: Path, made: Path, tmp_path: Path) -> None:
    def refused(words: str, *arguments: object) -> None:
        done = call(export, run, "-o", tmp_path / "out", *arguments)
        assert isinstance(done.exception, CalvinEvalError)
        assert words in str(done.exception)
        assert not (tmp_path / "out").exists()

    card = ("--meta", made / "model.json")
    refused("--meta FILE")
    folder = RunFolder.open(run)
    before = folder.read_json("summary.json")
    folder.write_json("summary.json", {**before, "average_length": 4.5})
    refused("average_length: expected 0.0, found 4.5", *card)
    folder.write_json("summary.json", before)
    (run / "chains.jsonl").write_bytes(encode_journal(folder.records()[:3]))
    (run / "results.json").unlink()
    conclude(folder)
    refused("found 3 of 4 chains", *card)


def official_summary() -> dict[str, object]:
    return {
        "complete": True,
        "planned": 1000,
        "completed": 1000,
        "average_length": 4.123456,
        "average_length_interval": {"low": 4.05, "high": 4.2},
        "success_rates": {"1": 0.987, "2": 0.9, "3": 0.8, "4": 0.75, "5": 0.686456},
        "verdict": {"official": True, "reasons": []},
    }


def test_rows_of_an_official_run() -> None:
    card = parse_model_card(
        {**CARD, "training_split": "ABC_D", "submitter": "@me", "published": "2026-11"}, "card"
    )
    summary = official_summary()
    row = ve_row(card, summary, "ABC_D", datetime.date(2026, 11, 23))
    assert row["overall_score"] == 4.1235
    assert "task_scores" not in row
    assert row["suite_scores"] == {
        "1_task": 98.7, "2_task": 90.0, "3_task": 80.0, "4_task": 75.0, "5_task": 68.65,
    }  # fmt: skip
    assert (row["curated_by"], row["date_added"]) == ("@me", "2026-11-23")
    assert ve_row(card, summary, "D", datetime.date.today())["overall_score"] is None
    (entry,) = evo_entry(card, summary, "ABC_D")["abc_d"]["standard_opensource"]
    assert (entry["inst1"], entry["inst5"], entry["avg_len"]) == (0.987, 0.6865, 4.1235)
    assert entry["is_standard"]
    closed = parse_model_card({**CARD, "links": {}}, "card")
    assert "standard_closed" in evo_entry(closed, summary, "ABCD_D")["abcd_d"]


def test_the_cards_schema_is_in_the_package(zipped: Path) -> None:
    text = files("calvin_eval.results").joinpath("model_card.schema.json").read_text("utf-8")
    with read_bundle(zipped) as folder:
        jsonschema.validate(folder.read_json("meta.json"), json.loads(text))


def test_a_card_for_another_split(run: Path, made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**CARD, "training_split": "ABC_D"}), encoding="utf-8")
    done = call(bundle, run, "--meta", other, "-o", tmp_path / "x.zip")
    assert isinstance(done.exception, UsageError)
    assert not (tmp_path / "x.zip").exists()


def test_a_card_for_another_split_is_found_on_reading(zipped: Path) -> None:
    """A bundle that was made by hand, with a manifest that fits."""
    with zipfile.ZipFile(zipped) as old:
        files = {name: old.read(name) for name in old.namelist()}
    files["meta.json"] = json.dumps({**CARD, "training_split": "ABC_D"}).encode()
    manifest = json.loads(files["manifest.json"])
    manifest["files"]["meta.json"] = {
        "sha256": hashlib.sha256(files["meta.json"]).hexdigest(), "bytes": len(files["meta.json"]),
    }  # fmt: skip
    files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(zipped, "w") as new:
        for name, data in files.items():
            new.writestr(name, data)
    for command in (verify, export):
        arguments = ("-o", zipped.parent / "out") if command is export else ("--all",)
        done = call(command, zipped, *arguments)
        assert isinstance(done.exception, RunFolderError)
        assert "expected training_split 'D'" in str(done.exception)


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
@pytest.mark.slow
def test_a_signed_bundle_says_who_vouches_for_it(made: Path, tmp_path: Path) -> None:
    key, signers, out = tmp_path / "key", tmp_path / "signers", tmp_path / "signed.zip"
    make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(make, check=True)
    signers.write_text(f"lab@example.org {key.with_suffix('.pub').read_text()}")
    pack = [bundle, made / "run", "--meta", made / "model.json", "-o", out]
    assert f"signed: {out}.sig" in call(*pack, "--sign", key).stdout

    look = [verify, out, "--chains", "0", "--workers", "0"]
    known, unknown = call(*look, "--signers", signers), call(*look)
    assert (known.exit_code, unknown.exit_code) == (0, 0)
    assert "signed by lab@example.org (ED25519 key SHA256:" in known.stdout
    assert "whose it is was not checked (--signers FILE)" in unknown.stdout

    assert call(*pack, "--overwrite").exit_code == 0  # without --sign: the old signature goes
    assert call(*look).exit_code == 0
    unsigned = call(*look, "--signers", signers)
    assert unsigned.exit_code == 1
    assert "the signature: expected" in unsigned.stdout
    folder = call(verify, made / "run", "--signers", signers)
    assert isinstance(folder.exception, UsageError)
