"""`make mutants`: the list of deliberate bugs, and what becomes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tooling import ROOT, load_tool

tool = load_tool("mutants")
ADD = "def add(a, b):\n    return a + b\n"
TEST = "from calvin_eval.sums import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"


def bug(name: str, old: str, new: str, **values: str) -> object:
    tests = values.pop("tests", "tests/test_sums.py")
    return tool.Mutant(
        name=name, file="eval/sums.py", old=old, new=new, tests=tests,
        survives=values.pop("survives", ""),
    )  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in (
        ("eval/__init__.py", ""),
        ("eval/sums.py", ADD),
        ("tests/test_sums.py", TEST),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
@pytest.mark.processes
def test_bugs_are_caught_or_survive_and_the_project_stays_as_it_was(project: Path) -> None:
    mutants = [
        bug("minus", "a + b", "a - b"),
        bug("turned around", "a + b", "b + a", survives="sums commute"),
        bug("unnoticed", "def add(a, b):", "def add(a, b, c=0):"),
        bug("not there", "a * b", "a"),
        bug("tests that fail anyway", "a + b", "a - b", tests="tests/missing.py"),
    ]
    found = list(tool.run_mutants(mutants, project).values())
    assert found == ["caught", "explained", "survived", "misplaced", "broken"]
    assert (project / "eval" / "sums.py").read_text(encoding="utf-8") == ADD


def test_nineteen_of_twenty_are_enough() -> None:
    def judged(**counts: int) -> tuple[str, bool]:
        outcomes = {(word, i): word for word, n in counts.items() for i in range(n)}
        sentence, good = tool.verdict(outcomes)
        return str(sentence), bool(good)

    assert judged(caught=19, survived=1, explained=7)[1]
    assert not judged(caught=18, survived=1)[1]
    assert not judged(caught=99, misplaced=1)[1]
    assert not judged(caught=99, broken=1)[1]
    assert judged(caught=3, survived=1)[0] == (
        "4 deliberate bugs: 3 caught, 1 survived; 75% of 4 caught"
    )


def test_the_list_is_about_the_code_that_there_is() -> None:
    """A line that was rewritten is reported by the tool; here only many of them are an error."""
    mutants = tool.read_mutants()
    assert len({(m.file, m.name) for m in mutants}) == len(mutants) > 90
    for mutant in mutants:
        files = mutant.tests.partition(" -k ")[0].split()
        assert all((ROOT / name).is_file() for name in (mutant.file, *files)), mutant
        assert mutant.old != mutant.new
    texts = [(mutant, tool.applied(mutant)) for mutant in mutants]
    misplaced = [mutant.name for mutant, text in texts if text is None]
    assert len(misplaced) <= len(mutants) // 10, misplaced
    for mutant, text in texts:
        if text is not None:
            compile(text, mutant.file, "exec")
    folders = {mutant.file.rpartition("/")[0] for mutant in mutants}
    assert {"wrappers/stages", "vla", "vla/training", "sim", "results", "rollouts"} <= folders


def test_names_of_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--list", "--only", "metrics", "--sample", "2", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("results/metrics.py: ") for line in lines)
