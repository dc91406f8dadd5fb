"""The cells of `make matrix`, and what becomes of them."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from tooling import ROOT, load_tool

matrix = load_tool("matrix")
Cell = matrix.Cell


def test_the_supported_pythons_are_those_of_the_classifiers_and_of_the_workflow() -> None:
    pythons = matrix.supported((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    assert pythons[0] == "3.10"  # requires-python
    assert f"python: {pythons}".replace("'", '"') in workflow


def test_every_requirement_of_the_package_is_named() -> None:
    text = '"a>=1",\n  "b-c[d,e]>=1.0; python_version >= \'3.12\'", # more\nx = ["y.z==2"]\n"[f]"\n'
    assert matrix.named(text) == ["a", "b-c", "y.z"]
    declared = {Requirement(text).name for text in requires("calvin-eval") or []} - {"calvin-eval"}
    assert declared <= set(matrix.named(matrix.read_pyproject()))


def test_without_words_every_cell_is_run() -> None:
    cells = matrix.parse_cells([], ["3.10", "3.13"])
    assert [str(cell) for cell in cells] == [
        "3.10:lowest", "3.10:newest", "3.13:lowest", "3.13:newest"
    ]  # fmt: skip


def test_words_choose_cells_in_their_order() -> None:
    cells = matrix.parse_cells(["3.13:newest", "3.10:lowest"], ["3.10", "3.13"])
    assert cells == [Cell("3.13", "newest"), Cell("3.10", "lowest")]


@pytest.mark.parametrize("word", ["3.9:lowest", "3.10", "3.10:oldest", ""])
def test_a_word_that_is_no_cell_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=rf"out of 3\.10:lowest, 3\.10:newest; found '{word}'"):
        matrix.parse_cells([word], ["3.10"])


def test_settings_of_pip_reach_uv_unless_uv_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/somewhere")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "https://pips.example/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uvs.example/simple")
    env = matrix.environment()
    assert env["UV_FIND_LINKS"] == "/somewhere"
    assert env["UV_DEFAULT_INDEX"] == "https://uvs.example/simple"


@pytest.fixture
def outcome_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs one cell with a Makefile of the test's in an environment of no packages."""

    def outcome(recipe: str) -> Any:
        (tmp_path / "Makefile").write_text(f"quick:\n\t@{recipe}\n")
        (tmp_path / "bin").mkdir(exist_ok=True)
        monkeypatch.setattr(matrix, "ROOT", tmp_path)
        monkeypatch.setattr(matrix, "find_python", lambda version, env: "python")
        monkeypatch.setattr(matrix, "install", lambda *_: tmp_path / "bin")
        return matrix.run(Cell("3.10", "lowest"), "test", matrix.environment())

    return outcome


def test_the_counts_are_pytests(outcome_of: Any) -> None:
    outcome = outcome_of("echo '== 3 passed, 2 skipped in 1.20s (0:00:01) =='")
    assert (outcome.status, outcome.counts) == ("ok", "3 passed, 2 skipped")


def test_a_failure_names_the_log(outcome_of: Any) -> None:
    outcome = outcome_of("echo '1 failed, 3 passed in 1.20s'; false")
    assert outcome.status == "FAILED: see bin/quick.log"
    assert outcome.counts == "1 failed, 3 passed"


def test_a_cell_that_cannot_be_installed_is_a_failure(
    outcome_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome_of("true")

    def fail(*_: object) -> None:
        raise matrix.subprocess.CalledProcessError(1, "uv")

    monkeypatch.setattr(matrix, "install", fail)
    outcome = matrix.run(Cell("3.10", "lowest"), "test", {})
    assert outcome.status == "could not be installed"


@pytest.mark.parametrize(("found", "code"), [("python", 0), (None, 1)])
def test_a_matrix_of_which_nothing_ran_has_not_passed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: str | None,
    code: int,
) -> None:
    """A missing interpreter is no failure of a cell, but a run of none proves nothing."""
    monkeypatch.setattr(matrix.sys, "argv", ["matrix", "3.10:lowest", "3.13:newest"])
    monkeypatch.setattr(matrix.shutil, "which", lambda name: name)
    monkeypatch.setattr(
        matrix, "find_python", lambda version, env: found if version == "3.10" else None
    )
    monkeypatch.setattr(matrix, "install", lambda cell, *_: ROOT)
    real_run = matrix.run

    def run(cell: Any, extras: str, env: dict[str, str]) -> Any:
        if cell.python == "3.10" and found:
            return matrix.CellOutcome(cell, "ok")
        return real_run(cell, extras, env)

    monkeypatch.setattr(matrix, "run", run)
    assert matrix.main() == code
    assert re.search(r"3\.13:newest +0 s  not run: no Python 3\.13", capsys.readouterr().out)
