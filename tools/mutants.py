"""Puts deliberate bugs into a copy of the project, one at a time, and runs the tests concerned.

Usage: python -m tools.mutants [--only REGEX] [--sample N] [--seed S] [--list]

The bugs are those of `tools/mutants.yaml`: a name, a file, a text that occurs in it once, what
stands there instead, and the tests that ought to fail. A bug that no test notices has survived; one
that the list explains (`survives`) is counted apart. Exits with 1 if fewer than 95 % of the others
are caught, or if a text does not occur once any more.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".yaml")
PACKAGES = ("results", "rollouts", "sim", "vla", "wrappers")
LEFT_OUT = (".git", ".venv*", "build", "dist", "runs", "__pycache__", "*.egg-info", ".*_cache")
LIMIT = 900
"""Seconds for the tests of one bug; one that takes longer has noticed it, by hanging."""
ENOUGH = 0.95


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A deliberate bug.

    Attributes:
        name: what the bug does.
        file: path from the project's root.
        old: what stands there, once.
        new: what stands there instead.
        tests: arguments of pytest: files, and `-k` with names.
        survives: why no test can notice it, if none can.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    survives: str = ""


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The list: per tests, per file, `[name, old, new]` or `[name, old, new, survives]`."""
    found = []
    for group in yaml.safe_load(path.read_text(encoding="utf-8")):
        for row in group["bugs"]:
            name, old, new, *why = row
            place = {"file": group["file"], "tests": group["tests"]}
            found.append(Mutant(name=name, old=old, new=new, survives="".join(why), **place))
    return found


def applied(mutant: Mutant, root: Path = ROOT) -> str | None:
    """The file's text with the bug in it; None if the place is not there, or not only there."""
    path = root / mutant.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return text.replace(mutant.old, mutant.new) if text.count(mutant.old) == 1 else None


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of a project that is imported as `calvin_eval`; the official assets lie beside it."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        place = Path(folder) / "project"
        shutil.copytree(root, place, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
        if (root.parent / "shared").exists():
            (Path(folder) / "shared").symlink_to((root.parent / "shared").resolve())
        package = place / "build" / "imported" / "calvin_eval"
        package.mkdir(parents=True)
        inner = sorted((place / "eval").iterdir()) if (place / "eval").is_dir() else []
        for path in (*inner, *(place / name for name in PACKAGES)):
            if path.exists():
                (package / path.name).symlink_to(path)
        yield place


def passes(place: Path, tests: str) -> bool:
    """Whether tests pass in a copy."""
    paths = [str(place / "build" / "imported"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        return not subprocess.run(
            [*command, *_split(tests)],
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT,
        ).returncode
    except subprocess.TimeoutExpired:
        return False


def _split(tests: str) -> list[str]:
    files, _, names = tests.partition(" -k ")
    return [*files.split(), *(["-k", names] if names else [])]


def run_mutants(mutants: Sequence[Mutant], root: Path = ROOT) -> dict[Mutant, str]:
    """Try each bug in a copy of a project.

    Returns:
        "caught", "survived", "explained", "misplaced" or "broken": its tests fail without any bug.
    """
    outcomes = {}
    sound: dict[str, bool] = {}
    with copied(root) as place:
        for mutant in mutants:
            began = time.perf_counter()
            outcomes[mutant] = _outcome(mutant, place, sound)
            seconds = time.perf_counter() - began
            place_name = f"{mutant.file}: {mutant.name}"
            print(f"{outcomes[mutant]:9} {seconds:5.0f} s  {place_name}", flush=True)
    return outcomes


def _outcome(mutant: Mutant, place: Path, sound: dict[str, bool]) -> str:
    text = applied(mutant, place)
    if text is None:
        return "misplaced"
    if mutant.tests not in sound:
        sound[mutant.tests] = passes(place, mutant.tests)
    if not sound[mutant.tests]:
        return "broken"
    path = place / mutant.file
    before = path.read_text(encoding="utf-8")
    try:
        path.write_text(text, encoding="utf-8")
        survived = passes(place, mutant.tests)
    finally:
        path.write_text(before, encoding="utf-8")
    if not survived:
        return "caught"
    return "explained" if mutant.survives else "survived"


def verdict(outcomes: dict[Mutant, str]) -> tuple[str, bool]:
    """A sentence about all outcomes, and whether that is good enough."""
    counts = Counter(outcomes.values())
    judged = counts["caught"] + counts["survived"]
    share = counts["caught"] / judged if judged else 1.0
    good = share >= ENOUGH and not counts["misplaced"] and not counts["broken"]
    words = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    return f"{len(outcomes)} deliberate bugs: {words}; {share:.0%} of {judged} caught", good


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the list, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tools.mutants")
    parser.add_argument("--only", default="", help="part of a file's or a bug's name, a regex")
    parser.add_argument("--sample", type=int, help="as many bugs, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--list", action="store_true", help="name the bugs and run nothing")
    given = parser.parse_args(arguments)
    chosen = [m for m in read_mutants() if re.search(given.only, f"{m.file}: {m.name}")]
    if given.sample is not None:
        chosen = random.Random(given.seed).sample(chosen, min(given.sample, len(chosen)))
    if given.list:
        print(*(f"{mutant.file}: {mutant.name}" for mutant in chosen), sep="\n")
        return 0
    sentence, good = verdict(run_mutants(chosen))
    print(sentence)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
