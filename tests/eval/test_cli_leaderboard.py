"""`leaderboard` from the command line: what is verified, what is believed, and what is not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from forging import bundled, chance_run, edit_records, forged_bundle

from calvin_eval.cli.main import main
from calvin_eval.results.signatures import sign
from calvin_eval.results.store import RunFolder
from calvin_eval.results.verification_record import digest_of, record_name

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chance_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def entries(run: Path, tmp_path: Path) -> Path:
    """An honest bundle and a forged one, in a folder."""
    folder = tmp_path / "entries"
    folder.mkdir()
    bundled(run, folder / "honest.zip", name="Honest")
    copy = RunFolder.open(shutil.copytree(run, tmp_path / "copy"))
    edit_records(copy, lambda data: data[0]["subtasks"][-1].update(state_hash="0" * 32))
    forged_bundle(copy.path, folder / "forged.zip", name="Forged")
    return folder


def build(entries: Path, site: Path, *arguments: object) -> int:
    command = ["leaderboard", "build", entries, "-o", site, "--workers", 0, *arguments]
    return main([str(word) for word in command])


def rows(site: Path) -> dict[str, Any]:
    data = json.loads((site / "index.json").read_text(encoding="utf-8"))
    return {row["name"]: row for section in data["sections"] for row in section["entries"]}


def test_a_forgery_is_no_entry_and_an_honest_bundle_has_a_badge(
    entries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    assert build(entries, site) == 1
    assert {name: row["badge"]["level"] for name, row in rows(site).items()} == {"Honest": "all"}
    assert "not accepted: forged.zip: what it claims is not what its actions give" in (
        capsys.readouterr().out
    )
    (entries / "forged.zip").unlink()
    assert build(entries, site, "--no-verify") == 0  # by the record
    assert rows(site)["Honest"]["badge"]["level"] == "all"


def test_a_record_beside_a_forgery_is_not_looked_at(entries: Path, tmp_path: Path) -> None:
    """Not under any name, and not if it was made of an honest bundle."""
    honest, forged = entries / "honest.zip", entries / "forged.zip"
    record = tmp_path / "record.json"
    assert main(["verify", str(honest), "--all", "--workers", "0", "--record", str(record)]) == 0
    told = json.loads(record.read_bytes())
    digest = digest_of(forged)
    told["bundle"] = {"sha256": digest.sha256, "bytes": digest.bytes}
    for name in (record_name(digest), "forged.json", "forged.zip.json", "record.json"):
        (entries / name).write_text(json.dumps(told), encoding="utf-8")
    site = tmp_path / "site"
    assert build(entries, site, "--no-verify") == 0
    assert {row["badge"]["level"] for row in rows(site).values()} == {"none"}
    # In the keeper's own folder it counts, and `--again` does not ask.
    (site / "records").mkdir(exist_ok=True)
    (site / "records" / record_name(digest)).write_text(json.dumps(told), encoding="utf-8")
    assert build(entries, site, "--again") == 1
    assert set(rows(site)) == {"Honest"}


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_signatures_of_records_and_of_bundles(entries: Path, tmp_path: Path) -> None:
    (entries / "forged.zip").unlink()
    key, signers, records = tmp_path / "key", tmp_path / "signers", tmp_path / "records"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text(encoding="utf-8")
    signers.write_text(f"board@example.org {public}", encoding="utf-8")
    honest = entries / "honest.zip"
    record = records / record_name(digest_of(honest))
    verify = ["verify", str(honest), "--all", "--workers", "0", "--record", str(record)]
    settings = ["--records", records, "--record-signers", signers, "--no-verify"]
    assert main(verify) == 0
    assert build(entries, tmp_path / "site", *settings) == 0
    assert rows(tmp_path / "site")["Honest"]["badge"]["level"] == "none"
    assert main([*verify, "--sign", str(key)]) == 0
    assert build(entries, tmp_path / "site", *settings) == 0
    assert rows(tmp_path / "site")["Honest"]["badge"]["level"] == "all"
    # A bundle's signature is looked at now, whatever the record says of it.
    sign(honest, key)
    assert build(entries, tmp_path / "site", *settings) == 0
    assert rows(tmp_path / "site")["Honest"]["badge"]["known"] is False
    assert build(entries, tmp_path / "site", *settings, "--signers", signers) == 0
    assert rows(tmp_path / "site")["Honest"]["badge"]["signer"] == "board@example.org"
    honest.with_suffix(".zip.sig").write_bytes(b"no signature")
    assert build(entries, tmp_path / "site", *settings) == 1
    assert rows(tmp_path / "site") == {}


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    assert build(tmp_path / "nowhere", tmp_path / "site") == 2
    (tmp_path / "entries").mkdir()
    assert build(tmp_path / "entries", tmp_path / "site", "--no-verify", "--again") == 2
    assert build(tmp_path / "entries", tmp_path / "site") == 0  # an empty board is one
