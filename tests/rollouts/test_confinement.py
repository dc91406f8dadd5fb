"""What a confined process can do, and what not; a policy in one, in a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import confined_attempts
import pytest

import calvin_eval
from calvin_eval.config.compose import compose_config
from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.rollouts import confinement
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.confinement import landlock, seccomp
from calvin_eval.rollouts.confinement.room import Room
from calvin_eval.rollouts.hosts import LocalPolicyHost
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.running.prepare import open_policy

MISSING = confinement.why_not()
here = pytest.mark.skipif(MISSING is not None, reason=f"needs Landlock and seccomp: {MISSING}")

ALLOWED = {
    "write a file of its own", "make a folder of its own", "move its file", "remove its files",
    "read", "write to nothing", "lower its limit", "talk to its child", "start a program",
}  # fmt: skip

POLICY = """
import os, pickle, socket, tempfile
import numpy as np
from multiprocessing.connection import Connection
from calvin_eval.wrappers.policy import Requirements

class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["CALVIN_EVAL_TEST_OUTSIDE"],)

class Policy:
    requirements = Requirements()

    def __init__(self, evil="", at_once=False):
        with open(os.path.join(tempfile.gettempdir(), "notes"), "w") as file:
            file.write("kept")
        self.evil = evil
        if at_once:
            self.answer_evil()

    def answer_evil(self):
        Connection.send = lambda line, message: line.send_bytes(pickle.dumps(Evil()))

    def reset(self, session, instruction):
        pass

    def act(self, requests):
        if self.evil == "files":
            open(os.environ["CALVIN_EVAL_TEST_OUTSIDE"], "w")
        if self.evil == "network":
            socket.create_connection(("127.0.0.1", 9))
        if self.evil == "answers":
            self.answer_evil()
        return [np.full((2, 7), 1.0) for request in requests]
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "strange.py").write_text(POLICY)
    return f"{tmp_path / 'strange.py'}:Policy"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What nobody may make."""
    monkeypatch.setenv("CALVIN_EVAL_TEST_OUTSIDE", str(tmp_path / "outside"))
    return tmp_path / "outside"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What each attempt raised."""
    scratch, outside = tmp_path_factory.mktemp("scratch"), tmp_path_factory.mktemp("outside")
    (outside / "victim").write_text("a")
    command = [sys.executable, confined_attempts.__file__, scratch, outside, str(os.getpid())]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (outside / "victim").read_text() == "a"
    assert [path.name for path in outside.iterdir()] == ["victim"]
    result: dict[str, str | None] = json.loads(done.stdout)
    return result


@here
@pytest.mark.parametrize("name", confined_attempts.attempts(Path(), Path(), 0))
def test_what_a_confined_process_tries(name: str, found: dict[str, str | None]) -> None:
    free = ALLOWED
    if landlock.version() >= landlock.SIGNALS_VERSION:
        free = free | {"signal itself"}
    assert (found[name] is None) == (name in free), found[name]


def test_a_process_with_threads_is_not_confined_by_halves(tmp_path: Path) -> None:
    code = (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        f"from calvin_eval.rollouts.confinement import confine; confine({str(tmp_path)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "confined before it has threads" in done.stderr


def test_confining_imports_no_library() -> None:
    code = "import sys; import calvin_eval.rollouts.confinement; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("header", "column"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0),
        ("/usr/include/asm-generic/unistd.h", 1),
    ],
)
def test_the_numbers_of_system_calls_are_those_of_the_kernel(header: str, column: int) -> None:
    if not Path(header).exists():
        pytest.skip(f"needs the kernel's headers ({header}): apt install linux-libc-dev")
    text = Path(header).read_text()
    compared = 0
    for name, numbers in seccomp.NUMBERS.items():
        found = re.search(rf"#define __NR(?:3264)?_{name} (\d+)", text)
        if found is not None:  # headers can be older than the newest calls
            assert int(found[1]) == numbers[column], name
            compared += 1
    assert compared > 25


def test_a_machine_without_the_kernels_help_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: 2)
    with pytest.raises(UsageError, match=r"version 2 of Landlock; version 3 is needed"):
        Room()


@pytest.mark.parametrize("engine", ["engine=ray", "engine.workers=0"])
def test_only_a_process_of_this_machine_is_confined(
    engine: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calvin_eval.running.prepare.connect", lambda address: None)
    config = compose_config(
        [f"ckpt={policy}", "split=D", "policy.trust=true", "engine.confine=true", engine]
    )
    with pytest.raises(UsageError, match=r"engine\.confine confines"):
        open_policy(config)


def run_confined(policy: str, out: Path, *more: str) -> Any:
    """A run of two short chains."""
    return calvin_eval.evaluate(
        policy, num_chains=2, workers=1, out=out, quiet=True, trust=True,
        overrides=["protocol.steps=4", "engine.confine=true", *more],
    )  # fmt: skip


def _states(run: Any) -> list[list[str]]:
    return [[subtask.state_hash for subtask in record.subtasks] for record in run.records]


@here
@pytest.mark.slow
@pytest.mark.processes
def test_the_record_is_that_of_a_free_policy_and_the_scratch_folder_goes(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    confined = run_confined(policy, tmp_path / "confined")
    assert list(temporary.iterdir()) == []
    free = run_confined(policy, tmp_path / "free", "engine.confine=false")
    assert _states(confined) == _states(free)
    names = [{p.name: p.read_bytes() for p in (run.folder / "actions").iterdir()}
             for run in (confined, free)]  # fmt: skip
    assert names[0] == names[1]


@here
@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    ("evil", "said"),
    [
        ("files", "Permission denied"),
        ("network", "Permission denied"),
        ("answers", r"answer is refused: found posix.mkdir"),
    ],
)
def test_what_a_strange_policy_tries_ends_its_chains_and_nothing_else(
    evil: str, said: str, policy: str, outside: Path, tmp_path: Path
) -> None:
    run = run_confined(policy, tmp_path / "run", f"policy.options.evil={evil}")
    assert [record.status for record in run.records] == ["error", "error"]
    assert all(re.search(said, record.error) for record in run.records)
    assert not outside.exists()


@here
@pytest.mark.slow
@pytest.mark.processes
def test_a_process_that_answers_the_parent_with_code_is_refused(policy: str, outside: Path) -> None:
    options = {"evil": "answers", "at_once": True}
    spec = PolicySpec(ckpt=policy, trust=True, seed=0, options=options)
    with pytest.raises(CheckpointError, match=r"refused: found posix\.mkdir"):
        LocalPolicyHost(spec, None, BatchRules(), confined=True)
    assert not outside.exists()
