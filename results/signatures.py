"""Signatures of bundles: OpenSSH's, made and checked by `ssh-keygen -Y`.

A signature lies beside its bundle as `NAME.zip.sig`. It says who vouches for the file, not how the
run was made. Keys and the file of allowed signers are OpenSSH's own (ssh-keygen(1)).
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from calvin_eval.errors import UsageError
from calvin_eval.files import write_atomic
from calvin_eval.foreign.text import printable

NAMESPACE: Final = "calvin-eval"
"""What these signatures are for: one made for mail or commits is none of a bundle."""

_MOST_BYTES = 65_536
_GOOD = re.compile(r'^Good "[^"]*" signature (?:for (?P<who>.+) )?with (?P<key>\S+ key \S+)$', re.M)


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature beside a bundle.

    Attributes:
        good: whether it is of this file, and by one of the signers if their names were given.
        key: that made it, for example `ED25519 key SHA256:…`; None if it is not good.
        signer: whose key it is, by the file of allowed signers; None without one.
        problem: what is wrong with it; None if nothing is.
    """

    good: bool
    key: str | None = None
    signer: str | None = None
    problem: str | None = None


def signature_path(bundle: Path) -> Path:
    """Where the signature of a bundle lies."""
    return bundle.with_name(f"{bundle.name}.sig")


def sign(bundle: Path, key: Path) -> Path:
    """Write the signature of a bundle beside it; an older one is replaced.

    Args:
        bundle: the file.
        key: private key, or a public one whose private half an ssh-agent has.

    Raises:
        UsageError: no such key, one that OpenSSH does not take, or no ssh-keygen.
    """
    if not key.is_file():
        raise UsageError(f"expected a file with an SSH key after --sign, found none: {key}")
    done = _ssh_keygen(bundle, "sign", "-n", NAMESPACE, "-f", str(key.absolute()))
    if done.returncode != 0:
        raise UsageError(f"ssh-keygen cannot sign with {key}: {_last_line(done.stderr)}")
    path = signature_path(bundle)
    write_atomic(path, done.stdout)
    return path


def check_signature(bundle: Path, signers: Path | None = None) -> Signature | None:
    """What the signature of a bundle is worth; None if there is none.

    Args:
        bundle: the file; its signature lies beside it.
        signers: OpenSSH's file of allowed signers: names and their public keys. Without it, whose
            key it is stays open.

    Raises:
        UsageError: no such file, or no ssh-keygen.
    """
    if signers is not None and not signers.is_file():
        raise UsageError(f"expected a file of allowed signers, found none: {signers}")
    path = signature_path(bundle)
    if not path.exists():
        return None
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        return Signature(good=False, problem=f"{path.name} is no signature")
    options = ["-n", NAMESPACE, "-s", str(path.absolute())]
    done = _ssh_keygen(bundle, "check-novalidate", *options)
    if done.returncode == 0 and signers is not None:
        allowed = str(signers.absolute())
        known = _ssh_keygen(bundle, "find-principals", "-s", options[-1], "-f", allowed)
        names = known.stdout.decode("utf-8", "replace").splitlines()
        if not names:
            return Signature(good=False, problem=f"its key is none of those in {signers}")
        done = _ssh_keygen(bundle, "verify", "-f", allowed, "-I", names[0], *options)
    said = _GOOD.search(done.stdout.decode("utf-8", "replace"))
    if done.returncode != 0 or said is None:
        return Signature(good=False, problem=_last_line(done.stderr))
    who = said["who"]
    return Signature(good=True, key=printable(said["key"]), signer=who and printable(who))


def _ssh_keygen(bundle: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run `ssh-keygen -Y` with the bundle as its input."""
    try:
        with open(bundle, "rb") as file:
            return subprocess.run(
                ["ssh-keygen", "-Y", *arguments], stdin=file, capture_output=True, check=False
            )
    except FileNotFoundError as error:
        if error.filename != "ssh-keygen":
            raise
        raise UsageError(
            "signatures need ssh-keygen, which is not installed: install OpenSSH's client"
        ) from error


def _last_line(output: bytes) -> str:
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return printable(lines[-1] if lines else "it gave no reason")
