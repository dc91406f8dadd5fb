"""The vla-eval server in docs/servers.md, and the command beside it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_processes import wait_for_health
from ports import reserved_port
from requirements import need_package

from calvin_eval.cli.main import main
from calvin_eval.results.journal import read_journal

PAGE = Path(__file__).resolve().parents[2] / "docs/servers.md"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    need_package("vla_eval", "vla-eval")
    (code,) = re.findall(r"```python\n# trivial_server\.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    script = tmp_path / "trivial_server.py"
    script.write_text(code)
    with reserved_port() as port:
        process = subprocess.Popen(
            [sys.executable, str(script), str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for_health(process, port)
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


@pytest.mark.processes
@pytest.mark.slow
def test_a_run_against_vla_evals_own_server(address: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    behind = PAGE.read_text().split("trivial_server.py 8000")[1]
    command = re.search(r"^calvin-eval (--ckpt ws://\S+ .*steps=\d+)$", behind, re.MULTILINE)
    assert command is not None
    arguments = [address if word.startswith("ws://") else word for word in command[1].split()]
    assert main([*arguments, "--out", str(out), "--quiet", "--render=tiny", "--workers=1"]) == 0
    (record,) = read_journal(out / "chains.jsonl")
    assert (record.status, record.subtasks[0].steps) == ("completed", 20)
    header = json.loads((out / "header.json").read_text())
    assert header["policy"]["server"]["model_server"] == "Trivial"
    assert list(header["policy"]["stages"]["actions"]) == [
        "execute", "gripper", "accumulate", "absolute",
    ]  # fmt: skip
    (said,) = json.loads((out / "profile.json").read_text())["policy"]
    assert (said["calls"], said["connections"], said["errors"]) == (20 + 2 * 3, 1, 0)
    assert header["reproducibility"]["reproducible"] is True  # asked twice for three decisions


def test_every_option_is_in_the_tables() -> None:
    from calvin_eval.wrappers.servers.loading import _OPTIONS
    from calvin_eval.wrappers.servers.options import LINK_OPTIONS, LinkOptions

    text = PAGE.read_text()
    for name in (*LINK_OPTIONS, *(name for names in _OPTIONS.values() for name in names)):
        assert f"`{name}`" in text or f"policy.options.{name}." in text, name
    for name, value in vars(LinkOptions()).items():
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            assert f"| `{name}` | `{shown}` |" in text
