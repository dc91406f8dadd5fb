"""Prints the changelog of one version, and refuses a tag that the tree does not belong to.

Usage: python -m tools.release_notes v1.2.3
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def package_version(root: Path) -> str:
    """The version that the package states in `eval/__init__.py`, read without importing it."""
    for node in ast.parse((root / "eval" / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise ValueError("eval/__init__.py: expected a line `__version__ = …`, found none")


def citation(root: Path) -> dict[str, str]:
    """The one-line fields of CITATION.cff."""
    text = (root / "CITATION.cff").read_text(encoding="utf-8")
    return dict(re.findall(r'^([\w-]+): "?([^"\n]+)"?$', text, flags=re.MULTILINE))


def notes(root: Path, tag: str) -> str:
    """The changelog's section on a tag's version.

    Args:
        root: The source tree.
        tag: The tag, such as "v1.2.3".

    Raises:
        ValueError: Version, citation or changelog do not belong to the tag.
    """
    version = package_version(root)
    if tag != f"v{version}":
        raise ValueError(f"expected the tag v{version} (eval/__init__.py), found {tag}")
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections: dict[str, str] = dict(re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", text))
    heading = next((name for name in sections if name.split()[0] == version), None)
    date = re.fullmatch(rf"{re.escape(version)} \((\d{{4}}-\d\d-\d\d)\)", heading or "")
    if heading is None or date is None:
        raise ValueError(
            f"CHANGELOG.md: expected a heading `## {version} (YYYY-MM-DD)`, "
            f"found {'none for that version' if heading is None else f'`## {heading}`'}"
        )
    expected = {"version": version, "date-released": date[1]}
    for field, value in expected.items():
        if citation(root).get(field) != value:
            raise ValueError(
                f"CITATION.cff: expected `{field}: {value}`, found {citation(root).get(field)}"
            )
    return sections[heading].strip() + "\n"


def main() -> None:
    """Prints the notes of the tag on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    try:
        print(notes(ROOT, sys.argv[1]), end="")
    except ValueError as error:
        raise SystemExit(f"release_notes: {error}") from None


if __name__ == "__main__":
    main()
