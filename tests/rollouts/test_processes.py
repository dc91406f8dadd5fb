"""Children, and what can be known of their end."""

from __future__ import annotations

from pathlib import Path

import pytest
from waiting import LIMIT

from calvin_eval.rollouts.processes import Child

pytestmark = pytest.mark.processes

DYING = """
import os, sys, time
def main():
    os.close(int(sys.argv[1]))  # the line, as the kernel does it for a process that dies
    while not os.path.exists(os.environ["DIE"]):
        time.sleep(0.01)
    print("last words", flush=True)
    os.kill(os.getpid(), 11)
"""


def test_a_process_that_dies_closes_its_line_before_its_end_is_seen(tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    die = tmp_path / "die"
    child = Child("dying", {"PYTHONPATH": str(tmp_path), "DIE": str(die)})
    with pytest.raises((EOFError, OSError)):
        child.connection.recv()
    assert child.alive
    die.touch()
    assert child.ended(within=LIMIT)
    assert child.exit_report() == "killed by SIGSEGV; last output:\nlast words"
    child.kill()


def test_a_process_that_lives_has_not_ended() -> None:
    child = Child("calvin_eval.rollouts.service")
    assert not child.ended(within=0.05)
    child.kill()
    assert child.ended(within=0)
