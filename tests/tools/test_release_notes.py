"""A tag is released only from the tree that belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tooling import ROOT, load_tool

from calvin_eval import __version__

tool = load_tool("release_notes")
notes = tool.notes


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "__init__.py").write_text('"""A package."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\ndate-released: 2030-01-02\n")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## 1.3.0 (unreleased)\n\n- later\n\n"
        "## 1.2.3 (2030-01-02)\n\n- this\n- and **that**\n\n## 1.2.2 (2029-01-01)\n\n- before\n"
    )
    return tmp_path


def test_the_notes_are_the_section_of_the_version(tree: Path) -> None:
    assert notes(tree, "v1.2.3") == "- this\n- and **that**\n"


def test_the_last_section_ends_with_the_file(tree: Path) -> None:
    changelog = tree / "CHANGELOG.md"
    changelog.write_text(changelog.read_text().split("## 1.2.2")[0])
    assert notes(tree, "v1.2.3") == "- this\n- and **that**\n"


def test_another_tag_is_refused(tree: Path) -> None:
    with pytest.raises(ValueError, match=r"expected the tag v1\.2\.3 .*, found v1\.2\.2"):
        notes(tree, "v1.2.2")


@pytest.mark.parametrize(
    ("file", "old", "new", "error"),
    [
        ("CHANGELOG.md", "(2030-01-02)", "(unreleased)", r"found `## 1\.2\.3 \(unreleased\)`"),
        ("CHANGELOG.md", "1.2.3", "1.2.30", r"expected a heading `## 1\.2\.3 \(.*found none"),
        ("CITATION.cff", "1.2.3", "1.2.2", r"expected `version: 1\.2\.3`, found 1\.2\.2"),
        ("CITATION.cff", "2030-01-02", "2030-01-03", r"`date-released: 2030-01-02`, found 2030"),
        ("CITATION.cff", "date-released", "date", r"`date-released: 2030-01-02`, found None"),
        ("eval/__init__.py", "__version__", "VERSION", r"expected a line `__version__"),
    ],
)
def test_what_does_not_belong_to_the_tag_is_named(
    tree: Path, file: str, old: str, new: str, error: str
) -> None:
    path = tree / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=error):
        notes(tree, "v1.2.3")


def test_this_tree_states_one_version_and_one_license() -> None:
    from importlib.metadata import metadata

    assert tool.package_version(ROOT) == __version__ == tool.citation(ROOT)["version"]
    assert metadata("calvin-eval")["Version"] == __version__
    assert metadata("calvin-eval")["License-Expression"] == tool.citation(ROOT)["license"]
    assert f"## {__version__} (" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
