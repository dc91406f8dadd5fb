"""What `calvin-eval compare` shows of two robustness suites."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calvin_eval.cli.compared import BAD, GOOD, p_text, table
from calvin_eval.console.saying import say

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.results.robustness.compare import SuiteComparison


def compare_and_show(
    folders: Sequence[Path], files: Sequence[Path], *, force: bool, as_json: bool
) -> None:
    """Compare two suites, write what is to be written, and print.

    Raises:
        UsageError: there are not two suites, or a file is not to be JSON.
        RunFolderError: they cannot be compared.
    """
    from calvin_eval.console.terminal import Terminal
    from calvin_eval.errors import UsageError
    from calvin_eval.results.junit import write_text
    from calvin_eval.results.robustness.compare import compare_suites
    from calvin_eval.results.robustness.document import is_suite

    if len(folders) != 2 or not all(map(is_suite, folders)):
        raise UsageError("expected two robustness suites or runs alone, found a suite among others")
    if wrong := [path for path in files if path.suffix != ".json"]:
        raise UsageError(
            f"--out: expected a name that ends in .json for robustness suites, found {wrong[0]}"
        )
    comparison = compare_suites(folders[0], folders[1], force=force)
    text = json.dumps(comparison.to_json(), indent=2, ensure_ascii=False) + "\n"
    for path in files:
        write_text(path, text)
    if as_json:
        say(text, nl=False)
        return
    print_suites(comparison, Terminal(file=sys.stdout))
    for path in files:
        say(f"Written: {path}")


def print_suites(comparison: SuiteComparison, console: Console) -> None:
    """The comparison as text."""
    from rich.text import Text

    for name, policy in zip(comparison.names, comparison.policies, strict=True):
        console.print(Text.assemble((name, "bold"), "  ", policy))
    for difference in comparison.differences:
        console.print(Text.assemble(("Forced: ", BAD), "the suites differ in ", str(difference)))
    rows = table("cell", "chains", "first", "other", "difference", "95 %", "p")
    for cell in comparison.cells:
        d = cell.difference
        style = GOOD if d.low > 0 else BAD if d.high < 0 else ""
        rows.add_row(
            cell.name,
            str(cell.chains),
            f"{cell.first:.3f}",
            f"{cell.other:.3f}",
            Text(f"{d.estimate:+.3f}", style=style),
            f"{d.low:+.2f} to {d.high:+.2f}",
            "" if cell.p is None else p_text(cell.p),
        )
    console.print()
    console.print(rows)
    for which, names in (("first", comparison.only_first), ("other", comparison.only_other)):
        if names:
            console.print(f"Only in the {which}: {', '.join(names)}")
