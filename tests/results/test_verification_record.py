"""Records of verifications: of these bytes only, from a trusted place only, and never half true."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.results.badge import badge_of
from calvin_eval.results.intervals import Interval
from calvin_eval.results.ledger import Claim
from calvin_eval.results.signatures import Signature, sign, signature_path
from calvin_eval.results.verification import ChainCheck, Deviation, Verification
from calvin_eval.results.verification_record import (
    VerificationRecord,
    digest_of,
    find_record,
    make_record,
    ranges_of,
    read_record,
    record_name,
)

CLAIM = Claim(
    planned=4, completed=4, chain_list="official", average_length=1.5,
    interval=Interval(low=1, high=2), official=False, reasons=("few chains",),
)  # fmt: skip


def found(*status: str, planned: int = 4, **changes: Any) -> Verification:
    checks = tuple(
        ChainCheck(
            chain=chain, status=one,  # type: ignore[arg-type]
            deviations=(Deviation(what="verdict", expected="no", found="yes"),)
            if one == "deviates" else (),
        )
        for chain, one in enumerate(status)
    )  # fmt: skip
    result = Verification(
        recorded=planned, planned=planned, chains=checks, deviations=(), notes=(), claim=CLAIM
    )
    return replace(result, **changes)


ALL = found(*["verified"] * 4)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "run.zip"
    path.write_bytes(b"PK of a run")
    return path


def record(bundle: Path, result: Verification = ALL, seed: int | None = None) -> VerificationRecord:
    return make_record(bundle, result, seed=seed, version="1.2.3")


def test_what_is_written_is_read_and_is_the_same_twice(bundle: Path, tmp_path: Path) -> None:
    made = record(bundle)
    made.write(tmp_path / "one.json")
    record(bundle).write(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    again = read_record(tmp_path / "one.json")
    assert again == made
    assert again.to_bytes() == made.to_bytes()
    assert (again.calvin_eval, again.count, again.verified) == ("1.2.3", 4, ((0, 3),))
    assert "record.subtasks.success" in again.facts["recomputed"]
    assert "config.protocol.policy_reset" in again.facts["not checked"]


def test_only_these_bytes_earn_the_badge(bundle: Path) -> None:
    made = record(bundle)
    assert badge_of(made, digest_of(bundle)).level == "all"
    bundle.write_bytes(bundle.read_bytes() + b"\0")
    assert badge_of(made, digest_of(bundle)).level == "none"
    assert badge_of(None, digest_of(bundle)).why == "nobody has verified it"


@pytest.mark.parametrize(
    ("result", "seed", "level", "words"),
    [
        (ALL, None, "all", "all 4 chains"),
        (found(*["verified"] * 60, planned=200), 7, "sample", "60 of 200 chains"),
        (found(*["verified"] * 60, planned=200), None, "none", "not drawn at random"),
        (found(*["verified"] * 9, planned=200), 7, "none", "too few"),
        (found("verified", "deviates"), 7, "none", "not what its actions give"),
        (found("verified", "unchecked"), 7, "none", "could not be verified"),
        (found(*["verified"] * 4, recorded=4, planned=5), None, "none", "4 of 5 planned"),
        (
            found(*["verified"] * 4, deviations=(Deviation(what="x", expected="a", found="b"),)),
            None, "none", "not what its actions give",
        ),
        (found(*["verified"] * 4, missing=("chain list",)), None, "none", "its chain list"),
        (found(*["verified"] * 4, claim=None), None, "none", "not complete"),
    ],
)  # fmt: skip
def test_badges(bundle: Path, result: Any, seed: int | None, level: str, words: str) -> None:
    badge = badge_of(record(bundle, result, seed), digest_of(bundle))
    assert badge.level == level
    assert words in f"{badge.words} {badge.why}"


def test_a_signature_is_named_by_its_signer_or_by_its_key(bundle: Path) -> None:
    signature_path(bundle).write_bytes(b"sig")
    for signer in ("lab@example.org", None):
        good = Signature(good=True, key="ED25519 key SHA256:abc", signer=signer)
        badge = badge_of(record(bundle, replace(ALL, signature=good)), digest_of(bundle))
        assert (badge.signer, badge.known) == (signer or "ED25519 key SHA256:abc", bool(signer))
    bad = ALL.signed(Signature(good=False, problem="not of this file"), wanted=False)
    assert record(bundle, bad).signature is None
    assert badge_of(record(bundle, bad), digest_of(bundle)).level == "none"


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "deviates", "verified": "many"},
        {"record_version": 2},
        {"verified": [[0, 9]]},
        {"verified": [[3, 0]]},
        {"verified": [[0, 1], [1, 3]]},
        {"verified": []},
        {"deviating": [[4, 4]]},
        {"problems": ["chain 0: verdict"]},
        {"recorded": 5},
        {"bundle": {"sha256": "0" * 64, "bytes": -1}},
        {"facts": []},
    ],
)
def test_a_record_that_cannot_be_is_not_read(
    bundle: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    made = record(bundle)
    path = tmp_path / record_name(made.bundle)
    path.write_text(json.dumps({**json.loads(made.to_bytes()), **changes}), encoding="utf-8")
    with pytest.raises(RunFolderError):
        read_record(path)
    assert find_record(tmp_path, made.bundle) is None


def test_a_record_is_found_by_the_bundles_bytes_alone(bundle: Path, tmp_path: Path) -> None:
    made, records = record(bundle), tmp_path / "records"
    assert find_record(records, made.bundle) is None
    made.write(records / record_name(made.bundle))
    assert find_record(records, made.bundle) == made
    other = tmp_path / "other.zip"
    other.write_bytes(b"PK of a forged run")
    digest = digest_of(other)
    made.write(records / record_name(digest))  # under the name of the other
    assert find_record(records, digest) is None
    (records / record_name(made.bundle)).write_bytes(b"{")
    assert find_record(records, made.bundle) is None


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_where_verifiers_are_named_only_their_records_count(bundle: Path, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"board@example.org {(tmp_path / 'ours.pub').read_text(encoding='utf-8')}",
                       encoding="utf-8")  # fmt: skip
    made = record(bundle)
    path = tmp_path / record_name(made.bundle)
    made.write(path)
    assert find_record(tmp_path, made.bundle, signers) is None  # unsigned
    sign(path, tmp_path / "theirs")
    assert find_record(tmp_path, made.bundle, signers) is None
    sign(path, tmp_path / "ours")
    assert find_record(tmp_path, made.bundle, signers) == made
    path.write_bytes(path.read_bytes() + b"\n")  # still the same JSON, and another file
    assert find_record(tmp_path, made.bundle, signers) is None


def test_ranges() -> None:
    assert ranges_of([]) == ()
    assert ranges_of([5, 3, 4, 9, 3]) == ((3, 5), (9, 9))
