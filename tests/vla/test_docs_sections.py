"""docs/robovlms.md: every section's modules and tests exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "robovlms.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| .*? \| (.*?) \| (.*?) \|$", TEXT, re.MULTILINE)
FILES = [path.as_posix() for path in (ROOT / "tests").rglob("test_*.py")]


def test_there_are_eleven_sections() -> None:
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 12))


@pytest.mark.parametrize(("number", "modules", "tests"), ROWS)
def test_modules_and_tests_of_a_section_exist(number: str, modules: str, tests: str) -> None:
    folder = ROOT
    for module in re.findall(r"`(.+?)`", modules):
        # A module without a folder lies beside the one before it.
        path = ROOT / module if "/" in module else folder / module
        assert path.exists(), path
        folder = path.parent
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", tests)
    assert named
    assert len(named) == tests.count("`") // 2
    for name, function in named:
        (path,) = [Path(file) for file in FILES if file.endswith(f"/{name}")]
        code = path.read_text(encoding="utf-8")
        found = re.search(rf"^def {function}\((.*?)(?=^def |\Z)", code, re.MULTILINE | re.DOTALL)
        assert found, f"{name}::{function}"
        opening = found[1].split('"""')[1] if '"""' in found[1] else ""
        told = function.startswith(f"test_row_{number}_") or f"section {number}." in opening
        assert told, f"{name}::{function} does not say that it is of section {number}"
