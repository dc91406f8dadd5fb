"""`calvin-eval gate` as a build service calls it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner, Result

from calvin_eval.cli.gate import gate
from calvin_eval.errors import RunFolderError, UsageError
from handmade import record, write_run

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def no_build_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", [record(k, (4, 5, 2, 5)[k % 4]) for k in range(200)])


def call(*arguments: object) -> Result:
    return CliRunner().invoke(gate, list(map(str, arguments)))


@pytest.mark.parametrize(
    ("options", "code", "outcome"),
    [
        (["--min-avg-len", "3.5"], 0, "pass"),
        (["--min-avg-len", "4.5"], 1, "fail"),
        (["--min-avg-len", "4"], 4, "undecided"),
        (["--min-avg-len", "4", "--undecided", "pass"], 0, "undecided (pass)"),
        (["--min-avg-len", "4", "--undecided", "fail"], 1, "undecided (fail)"),
        (["--min-task", "a=0.9", "--min-task", "c=0.9"], 1, "fail"),
        (["--min-avg-len", "3.85", "--confidence", "0.6"], 0, "pass"),
        (["--min-avg-len", "3.85", "--confidence", "0.99"], 4, "undecided"),
    ],
)
def test_the_exit_code_is_the_decision(
    run: Path, options: list[str], code: int, outcome: str
) -> None:
    done = call(run, *options)
    assert done.exit_code == code, done.output
    assert f"gate: {outcome}\n" in done.stdout
    assert ElementTree.parse(run / "junit.xml").getroot().tag == "testsuites"


def test_a_baseline(run: Path, tmp_path: Path) -> None:
    worse = write_run(tmp_path / "worse", [record(k, 3) for k in range(200)])
    assert call(worse, "--baseline", run, "--max-drop", "0.5").exit_code == 1
    assert call(run, "--baseline", worse, "--max-drop", "0.5").exit_code == 0
    other = write_run(
        tmp_path / "other", [record(k, 3) for k in range(200)], change=lambda h: h.update(scene="A")
    )
    refused = call(run, "--baseline", other, "--max-drop", "0.5")
    assert isinstance(refused.exception, RunFolderError)
    forced = call(run, "--baseline", other, "--max-drop", "0.5", "--force")
    assert forced.exit_code == 0
    assert "Forced: the baseline other differs from the run in scene: D and A" in forced.stdout


def test_the_job_summary_is_appended_to(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = call(run, "--min-avg-len", "3.5", "--junit", tmp_path / "mine.xml")
    assert summary.read_text() == f"before\n{done.stdout}\n"
    assert (tmp_path / "mine.xml").is_file()
    assert not (run / "junit.xml").exists()


def test_wrong_use(run: Path, tmp_path: Path) -> None:
    for options, message in (
        ([], "expected a condition"),
        (["--baseline", run], "expected --max-drop beside --baseline"),
        (["--max-drop", "0.1"], "name a run folder or a card"),
        (["--min-avg-len", "3", "--junit", tmp_path / "no" / "x.xml"], "cannot write"),
    ):
        error = call(run, *options).exception
        assert isinstance(error, UsageError)
        assert message in str(error)


def test_the_examples_for_build_services_call_commands_that_exist() -> None:
    from calvin_eval.cli.gate import gate as command

    known = {name for option in command.params for name in option.opts}
    for name in ("github-actions.yml", "gitlab-ci.yml"):
        text = (ROOT / "docs" / "examples" / name).read_text(encoding="utf-8")
        assert yaml.safe_load(text)
        lines = text.replace("\\\n", " ").splitlines()
        (gated,) = [line for line in lines if "calvin-eval gate" in line]
        given = [word.split("=")[0] for word in gated.split() if word.startswith("--")]
        assert given
        assert set(given) <= known
