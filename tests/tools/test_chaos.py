"""`make chaos`: runs that are disturbed at random."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tooling import load_tool

tool = load_tool("chaos")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
]


def test_a_disturbed_run_ends_as_one_that_was_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "EVENTS", 3)
    game = tool.draw_round(2, tmp_path / "round", 8, "local")
    tool.play(game)
    assert game.events


def test_a_run_that_differs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = tool.draw_round(2, tmp_path / "round", 3, "local")
    drifting = tool.POLICY.replace("np.zeros(3)\n", "np.random.default_rng().normal(size=3)\n", 1)
    assert drifting != tool.POLICY
    monkeypatch.setattr(tool, "EVENTS", 0)
    (game.folder / "wanderer.py").write_text(drifting, encoding="utf-8")
    with pytest.raises(tool.Failed, match=r"chains \[0, 1, 2\] differ"):
        tool.play(game)


def test_a_command_that_fails_is_no_round(tmp_path: Path) -> None:
    game = tool.draw_round(2, tmp_path / "round", 0, "local")
    with pytest.raises(tool.Failed, match="undisturbed run ended with 2"):
        tool.play(game)
