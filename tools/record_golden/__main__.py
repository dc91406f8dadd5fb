"""Record `tests/golden` again from a checkout of mees/calvin, and compare with what is stored.

    python -m tools.record_golden ~/calvin                    record all, compare, keep nothing
    python -m tools.record_golden ~/calvin --only pinned/     files whose names begin like that
    python -m tools.record_golden ~/calvin --write            replace the stored files

The checkout's calvin_env is at 1431a46 (pinned) or at 797142c (head); a file that only the other
one can record is left out. What has to be installed: tests/golden/README.md.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.record_golden.files import differences
from tools.record_golden.recordings import RECORDINGS
from tools.record_golden.upstream import revision_of

ROOT = Path(__file__).resolve().parents[2]
STORED = ROOT / "tests" / "golden"


def _record(checkout: Path, out: Path, file: str) -> str:
    """Record one file in a process of its own; returns an error's last line, or nothing."""
    command = [sys.executable, "-W", "ignore", "-m", "tools.record_golden.recordings"]
    arguments = [str(checkout), str(STORED), str(out), file]
    child = subprocess.run(
        [*command, *arguments], cwd=ROOT, text=True, check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,  # upstream and Bullet print a lot
    )  # fmt: skip
    lines = child.stderr.splitlines() or [""]
    return "" if child.returncode == 0 else lines[-1] or f"exit code {child.returncode}"


def _report(out: Path, file: str, error: str) -> bool:
    """Print how a recording fared; False if it failed or differs from what is stored."""
    if error:
        sys.stdout.write(f"{file}: not recorded ({error})\n")
        return False
    names = [file]
    if file.startswith("frames"):
        scene = Path(file).stem.removeprefix("depth_")
        names += sorted(str(p.relative_to(out)) for p in (out / file).parent.glob(f"{scene}_*.png"))
    found = [f"{name}: {text}" for name in names for text in differences(out / name, STORED / name)]
    pictures = f" and {len(names) - 1} pictures" if len(names) > 1 else ""
    sys.stdout.write("".join(f"{line}\n" for line in found or [f"{file}{pictures}: equal"]))
    sys.stdout.flush()
    return not found


def main() -> int:
    """Record, compare, and with `--write` replace."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.record_golden",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkout", type=Path, help="of mees/calvin, calvin_env within")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of file names")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help="replace the stored files")
    options = parser.parse_args()
    checkout = options.checkout.resolve()
    revision = revision_of(checkout)
    files = [
        file
        for file, (revisions, _) in RECORDINGS.items()
        if revision in revisions and file.startswith(tuple(options.only))
    ]
    with tempfile.TemporaryDirectory() as folder:
        out, equal = Path(folder), True
        with ThreadPoolExecutor(options.jobs) as pool:
            errors = pool.map(lambda file: _record(checkout, out, file), files)
            for file, error in zip(files, errors, strict=True):
                equal &= _report(out, file, error)
        if options.write:
            shutil.copytree(folder, STORED, dirs_exist_ok=True)
    return 0 if equal else 1


if __name__ == "__main__":
    raise SystemExit(main())
