"""docs/protocol.md: every rule names a source, a function that exists and a test that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from calvin_eval.protocol import RULES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "protocol.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in TEXT.splitlines()
    if re.match(r"\| .*::test_", line)
]
ANCHORS = [head.lower() for head in re.findall(r"^## (\w+)$", TEXT, re.MULTILINE)]
FOLDERS = ("eval", "results", "rollouts", "sim", "tests", "tools", "vla", "wrappers")


@cache
def names_of(path: Path) -> set[str]:
    """Qualified names of all functions, classes and constants that a file defines."""
    found: set[str] = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                if isinstance(target, ast.Name):
                    found.add(prefix + target.id)

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def module_path(module: str) -> Path:
    """The file of a module below `calvin_eval`."""
    parts = module.split(".")
    base = ROOT if parts[0] in FOLDERS else ROOT / "eval"
    path = base.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def test_every_line_of_a_table_of_rules_is_read() -> None:
    assert len(ANCHORS) == TEXT.count("\n## ")
    headers = TEXT.count("| rule | source | code | test |")
    asked = re.findall(r"^\| .*\?.* \| \[.*\]\(#([\w-]+)\) \|$", TEXT, re.MULTILINE)
    assert asked == ANCHORS  # a question for every section, in order
    assert headers == len(asked)
    other = 2 * headers + 2 + len(asked)  # heads and rules of tables, and the questions
    assert len(re.findall(r"^\|", TEXT, re.MULTILINE)) == len(ROWS) + other
    assert len(ROWS) > 50


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_rule_has_a_source_a_function_and_a_test(row: tuple[str, ...]) -> None:
    assert len(row) == 4, row
    _, source, code, tests = row
    assert source
    functions = re.findall(r"`([\w.]+):([\w.]+)`", code)
    assert len(functions) == code.count("`") / 2 > 0
    for module, name in functions:
        assert module_path(module).is_file(), f"no module calvin_eval.{module}"
        assert name in names_of(module_path(module)), f"no {name} in calvin_eval.{module}"
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert len(named) == tests.count("`") / 2 > 0
    for file, name in named:
        assert (ROOT / "tests" / file).is_file(), f"no file tests/{file}"
        assert name in names_of(ROOT / "tests" / file), f"no {name} in tests/{file}"


def test_every_rule_that_a_run_may_change_has_a_row() -> None:
    named = {
        key
        for rule, *_ in ROWS
        if (end := re.search(r"\((`[\w.]+`(?:, `[\w.]+`)*)\)$", rule))
        for key in re.findall(r"`([\w.]+)`", end[1])
    }
    assert named == {f"{rule.section}.{name}" for name, rule in RULES.items()}


def sources() -> list[Path]:
    folders = (*FOLDERS, "benchmarks")
    code = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [*code, *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]


def test_every_anchor_of_the_page_that_code_names_exists() -> None:
    named = [
        (path, anchor)
        for path in sources()
        for anchor in re.findall(r"protocol\.md#([\w-]+)", path.read_text(encoding="utf-8"))
    ]
    assert named
    assert [entry for entry in named if entry[1] not in ANCHORS] == []


# Documents that only the authors had: a reader of the repository cannot look them up.
UNKNOWN = re.compile(
    r"(protocol|seed|RoboVLMs) sections? \d|seed document|\.\./shared/spec|calvin-protocol\.md"
    r"|RoboVLMs document",
    re.IGNORECASE,
)


@pytest.mark.slow
def test_no_text_cites_a_document_that_is_not_in_the_repository() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in sources()
        if path != Path(__file__)
        for match in UNKNOWN.finditer(re.sub(r"\s+", " ", path.read_text(encoding="utf-8")))
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["Facts: protocol section 6.", "RoboVLMs seed sections 4 and 8", "the RoboVLMs document"],
)
def test_the_search_finds_such_citations(text: str) -> None:
    assert UNKNOWN.search(text)
