"""Signatures of bundles, by keys that OpenSSH makes here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from calvin_eval.errors import UsageError
from calvin_eval.results.signatures import check_signature, sign, signature_path
from calvin_eval.results.verification import Verification

pytestmark = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys `ours` and `theirs`, and `signers`, a file that names the first."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    public = (folder / "ours.pub").read_text(encoding="utf-8")
    (folder / "signers").write_text(f"lab@example.org {public}", encoding="utf-8")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "run.zip"
    path.write_bytes(b"PK of a run")
    return path


def test_a_signature_names_its_key_and_with_a_list_its_signer(keys: Path, bundle: Path) -> None:
    assert check_signature(bundle, keys / "signers") is None
    assert sign(bundle, keys / "ours") == signature_path(bundle)
    known, unknown = check_signature(bundle, keys / "signers"), check_signature(bundle)
    assert known is not None
    assert unknown is not None
    assert known.good
    assert unknown.good
    assert (known.signer, unknown.signer) == ("lab@example.org", None)
    assert known.key is not None
    assert known.key.startswith("ED25519 key SHA256:")
    assert known.key == unknown.key


def test_a_changed_bundle_is_not_the_signed_one(keys: Path, bundle: Path) -> None:
    sign(bundle, keys / "ours")
    bundle.write_bytes(b"PK of another")
    for signers in (None, keys / "signers"):
        found = check_signature(bundle, signers)
        assert found is not None
        assert not found.good
        assert found.problem is not None
        assert "incorrect signature" in found.problem


def test_a_strangers_signature_is_none_of_ours(keys: Path, bundle: Path) -> None:
    sign(bundle, keys / "theirs")
    found = check_signature(bundle, keys / "signers")
    assert found is not None
    assert not found.good
    assert found.problem is not None
    assert "none of those in" in found.problem


def test_a_signature_made_for_something_else(keys: Path, bundle: Path) -> None:
    made = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-n", "git", "-f", str(keys / "ours")],
        input=bundle.read_bytes(), capture_output=True, check=True,
    )  # fmt: skip
    signature_path(bundle).write_bytes(made.stdout)
    found = check_signature(bundle, keys / "signers")
    assert found is not None
    assert not found.good


@pytest.mark.parametrize("content", [b"", b"no signature", b"x" * 100_000])
def test_what_is_no_signature(content: bytes, keys: Path, bundle: Path) -> None:
    signature_path(bundle).write_bytes(content)
    for signers in (None, keys / "signers"):
        found = check_signature(bundle, signers)
        assert found is not None
        assert not found.good
        assert found.problem


def test_mistakes_of_the_user(keys: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected a file with an SSH key"):
        sign(bundle, keys / "nobody")
    with pytest.raises(UsageError, match="cannot sign with"):
        sign(bundle, keys / "signers")
    with pytest.raises(UsageError, match="expected a file of allowed signers"):
        check_signature(bundle, keys / "nobody")
    sign(bundle, keys / "ours")
    monkeypatch.setenv("PATH", str(keys))
    with pytest.raises(UsageError, match="install OpenSSH"):
        check_signature(bundle)
    assert not list(bundle.parent.glob(".*"))


def test_what_a_verification_makes_of_it(keys: Path, bundle: Path) -> None:
    def verification(signers: Path | None) -> Verification:
        found = Verification(recorded=0, planned=0, chains=(), deviations=(), notes=(), claim=None)
        return found.signed(check_signature(bundle, signers), wanted=signers is not None)

    signers = keys / "signers"
    assert verification(None).status == "unchecked"
    assert verification(signers).status == "deviates"
    assert verification(signers).deviations[0].found == "none beside the bundle"
    sign(bundle, keys / "ours")
    assert verification(signers).status == verification(None).status == "unchecked"
    assert verification(signers).to_json()["signature"]["signer"] == "lab@example.org"
    bundle.write_bytes(b"PK of another")
    assert verification(signers).status == verification(None).status == "deviates"
