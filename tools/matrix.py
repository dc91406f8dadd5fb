"""Runs the quick tests on every supported Python, with the lowest and the newest dependencies.

Usage: python -m tools.matrix [--extras NAMES] [PYTHON:VERSIONS ...]

A cell such as `3.10:lowest` is an interpreter and the versions of what pyproject.toml names:
`lowest` are the lower bounds of direct dependencies, or the oldest releases above them that have
wheels for that Python; `newest` the newest releases. Without cells, all are run. Interpreters are
those that uv finds, pyenv's among them; nothing is downloaded for a missing one. Needs uv.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
# uv does not read pip's settings: these carry them over.
SETTINGS = {
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
}


@dataclass(frozen=True)
class Cell:
    """One environment: a Python's minor version, and which versions of the dependencies."""

    python: str
    versions: str

    def __str__(self) -> str:
        return f"{self.python}:{self.versions}"


@dataclass(frozen=True)
class CellOutcome:
    """What came of a cell: `ok`, or why not; pytest's counts; seconds."""

    cell: Cell
    status: str
    counts: str = ""
    seconds: float = 0.0


def read_pyproject() -> str:
    """The text of the pyproject.toml."""
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def supported(pyproject: str) -> list[str]:
    """The minor versions that the classifiers of a pyproject.toml's text name, in its order."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject)


def named(pyproject: str) -> list[str]:
    """The distributions that the requirements in a pyproject.toml's text name."""
    names = re.findall(
        r'^(?:[\w-]+ = \[)?\s*"([\w.-]+)(?:\[[\w,-]+\])?[<>=]=', pyproject, re.MULTILINE
    )
    return sorted(set(names))


def parse_cells(texts: list[str], pythons: list[str]) -> list[Cell]:
    """Cells from words such as "3.10:lowest"; all of `pythons` if there are none.

    Raises:
        ValueError: A word is no cell of the supported ones.
    """
    every = [Cell(python, versions) for python in pythons for versions in RESOLUTIONS]
    known = {str(cell): cell for cell in every}
    for text in texts:
        if text not in known:
            raise ValueError(f"expected a cell out of {', '.join(known)}; found {text!r}")
    return [known[text] for text in texts] or every


def environment() -> dict[str, str]:
    """The environment of uv: pip's settings under uv's names, pyenv's interpreters on the path."""
    settings = {
        theirs: os.environ[ours]
        for ours, theirs in SETTINGS.items()
        if ours in os.environ and theirs not in os.environ
    }
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    paths = [str(path) for path in sorted(pyenv.glob("*/bin"), reverse=True)]
    path = os.pathsep.join([os.environ.get("PATH", ""), *paths])
    return {**os.environ, **settings, "PATH": path, "UV_PYTHON_DOWNLOADS": "never"}


def find_python(version: str, env: dict[str, str]) -> str | None:
    """Path of an interpreter of a minor version, or None."""
    found = subprocess.run(
        ["uv", "python", "find", "--no-project", "--system", version],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout.strip() or None if found.returncode == 0 else None


def install(cell: Cell, python: str, extras: str, env: dict[str, str]) -> Path:
    """Makes a cell's environment anew and returns its folder.

    Raises:
        subprocess.CalledProcessError: uv found no versions that fit, or could not build one.
    """
    folder = ROOT / "build" / "matrix" / f"{cell.python}-{cell.versions}"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run(["uv", "venv", "--quiet", "--python", python, folder], env=env, check=True)
    # Nothing is compiled but our own renderer: that is a promise, and old sources do not build.
    wheels = [f"--only-binary={name}" for name in named(read_pyproject())]
    subprocess.run(
        [
            *("uv", "pip", "install", "--quiet", "--python", str(folder), *wheels),
            *("--resolution", RESOLUTIONS[cell.versions], "--editable", f".[{extras}]"),
        ],
        env=env, cwd=ROOT, check=True,
    )  # fmt: skip
    for name in (".installed", ".installed-core"):  # the Makefile's marks: nothing is left to do
        (folder / "bin" / name).touch()
    return folder


def run(cell: Cell, extras: str, env: dict[str, str]) -> CellOutcome:
    """Installs a cell and runs `make quick` in it."""
    python = find_python(cell.python, env)
    if python is None:
        return CellOutcome(cell, f"not run: no Python {cell.python} on this machine")
    start = time.monotonic()
    print(f"matrix: {cell}: {python}", flush=True)
    try:
        folder = install(cell, python, extras, env)
    except subprocess.CalledProcessError:
        return CellOutcome(cell, "could not be installed", seconds=time.monotonic() - start)
    log = folder / "quick.log"
    tests = (
        f"make --no-print-directory quick VENV={folder} 2>&1 | tee {log}; exit ${{PIPESTATUS[0]}}"
    )
    child = subprocess.run(["bash", "-c", tests], env=env, cwd=ROOT, check=False)
    last = re.findall(r"^=*\s*((?:\d+ \w+,? ?)+)in [\d.]+s", log.read_text(), flags=re.MULTILINE)
    status = "ok" if child.returncode == 0 else f"FAILED: see {log.relative_to(ROOT)}"
    return CellOutcome(cell, status, (last or [""])[-1].strip(), time.monotonic() - start)


def main() -> int:
    """Runs the cells of the command line; 1 if one failed or none could run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cells", nargs="*", metavar="PYTHON:VERSIONS", help="such as 3.10:lowest")
    parser.add_argument("--extras", default="", help="extras beside the test tools, such as torch")
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        raise SystemExit("matrix: needs uv: pip install uv")
    try:
        pythons = supported(read_pyproject())
        cells = parse_cells(arguments.cells, pythons)
    except ValueError as error:
        raise SystemExit(f"matrix: {error}") from None
    extras = ",".join(["test", *re.split(r"[ ,]+", arguments.extras)]).strip(",")
    env = environment()
    outcomes = [run(cell, extras, env) for cell in cells]
    for outcome in outcomes:
        print(f"{outcome.cell!s:12} {outcome.seconds:5.0f} s  {outcome.status}  {outcome.counts}")
    ran = [outcome for outcome in outcomes if not outcome.status.startswith("not run")]
    return int(not ran or any(outcome.status != "ok" for outcome in ran))


if __name__ == "__main__":
    sys.exit(main())
