"""Sockets where the folder for temporary files has a long name."""

from __future__ import annotations

import os
import stat
from multiprocessing.connection import Listener
from pathlib import Path

import numpy as np
import pytest

from calvin_eval.errors import UsageError
from calvin_eval.rollouts import socket_folder
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.service import PolicyService, SocketPolicy
from calvin_eval.rollouts.socket_folder import LONGEST_ADDRESS, make_socket_folder
from calvin_eval.wrappers.builtin.still import StillPolicy
from calvin_eval.wrappers.policy import Request

pytestmark = pytest.mark.processes


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return folder


def test_a_policy_is_served_with_a_long_folder_for_temporary_files(long_folder: Path) -> None:
    policy = StillPolicy()
    service = PolicyService(policy, rules=BatchRules(most=1, wait=0))
    try:
        assert len(os.fsencode(service.address)) <= LONGEST_ADDRESS
        folder = Path(service.address).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        client = SocketPolicy(service.address, policy.requirements)
        client.reset(0, "wait")
        request = Request(session=0, instruction="wait", position=0, step=0, obs={})
        (chunk,) = client.act([request])
        assert np.shape(chunk)[-1] == 7
        client.close()
    finally:
        service.close()
    assert not folder.exists()
    assert list(long_folder.iterdir()) == []


def test_the_longest_path_that_is_used_can_be_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = make_socket_folder("s")
    monkeypatch.setattr(socket_folder, "LONGEST_ADDRESS", 500)
    name = "s" * (LONGEST_ADDRESS - len(os.fsencode(short)) - 1)
    with Listener(str(short / name), family="AF_UNIX"):
        pass
    short.rmdir()


def test_the_runtime_folder_comes_before_the_systems(
    long_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_socket_folder("runtime")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    made = make_socket_folder("policy")
    assert made.parent == runtime
    made.rmdir()
    runtime.rmdir()


def test_nowhere_to_go_is_said_with_the_remedy(
    long_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_folder, "_SHORT_PLACES", ("/nowhere/at/all",))
    with pytest.raises(UsageError, match="Set TMPDIR to a shorter folder"):
        make_socket_folder("policy")
