"""Writes the built-in pack, or checks that the files on disk are what would be written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .arm import COLOURS
from .conf import conf_files
from .language import language_files
from .props import block_files, plane_files
from .robot import robot_files
from .table import WOODS, table_files
from .textures import checks, swatches, texture

PACK = Path(__file__).parents[2] / "sim" / "builtin"


def pack_files() -> dict[str, bytes]:
    """Returns the content of every file of the pack by its path in the pack."""
    texts = {**conf_files(), **language_files()}
    images: dict[str, bytes] = {}
    data = "calvin_env/data"
    for folder, files in (
        ("blocks", block_files()),
        ("plane", plane_files()),
        ("franka_panda", robot_files()),
        *((f"calvin_table_{scene}", table_files(scene)) for scene in WOODS),
    ):
        texts |= {f"{data}/{folder}/{path}": text for path, text in files.items()}
    for scene, (body, part, _) in WOODS.items():
        for wood in {body, part}:
            images[f"{data}/calvin_table_{scene}/textures/{wood}.png"] = texture(wood)
    images[f"{data}/plane/checks.png"] = checks()
    images[f"{data}/franka_panda/meshes/arm.png"] = swatches(COLOURS)
    return {**{path: text.encode() for path, text in texts.items()}, **images}


def differences(files: dict[str, bytes]) -> list[str]:
    """Lists what is missing, changed or left over on disk."""
    found = {p.relative_to(PACK).as_posix() for p in PACK.rglob("*") if p.is_file()}
    problems = [f"left over: {path}" for path in sorted(found - files.keys())]
    for path, content in sorted(files.items()):
        if path not in found:
            problems.append(f"missing: {path}")
        elif (PACK / path).read_bytes() != content:
            problems.append(f"changed: {path}")
    return problems


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.builtin_pack", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    files = pack_files()
    if check:
        problems = differences(files)
        print("\n".join(problems) or f"{len(files)} files are up to date")
        return 1 if problems else 0
    for path, content in files.items():
        target = PACK / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    for problem in differences(files):
        (PACK / problem.removeprefix("left over: ")).unlink()
    print(f"{len(files)} files, {sum(map(len, files.values())) / 1000:.0f} kB in {PACK.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
