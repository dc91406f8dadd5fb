from __future__ import annotations

import json
import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from requirements import skip

from calvin_eval.results.provenance import PACKAGES, git_state, provenance


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["calvin-eval", "--ckpt", "ws://me:secret@host:8000/x"])
    facts = provenance()
    assert facts["argv"] == ["calvin-eval", "--ckpt", "ws://***@host:8000/x"]
    assert facts["python"] == platform.python_version()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts["time_utc"])
    packages = facts["packages"]
    assert packages.keys() <= set(PACKAGES)
    assert {"numpy", "scipy"} <= packages.keys()
    assert {"pybullet", "pybullet-arm64"} & packages.keys()
    assert all(packages[name] == version(name) for name in packages)
    text = json.dumps(facts, allow_nan=False)
    assert "secret" not in text
    assert f'"{socket.gethostname()}"' not in text


def test_no_heavy_import() -> None:
    code = (
        "import sys; from calvin_eval.results import provenance, metrics, store, official;"
        "provenance.provenance(); assert not {'torch', 'pybullet'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        skip("git")
    assert git_state(tmp_path) is None
    git(tmp_path, "init")
    assert git_state(tmp_path) is None, "no commit yet"
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "x")
    revision = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(tmp_path) == {"revision": revision, "dirty": False}
    assert git_state(tmp_path / "inner") is None, "a folder inside somebody's repository"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    (tmp_path / "inner" / "file").write_text("2")
    assert git_state(tmp_path) == {"revision": revision, "dirty": True}


def test_no_git_no_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None
    assert provenance()["git"] is None
