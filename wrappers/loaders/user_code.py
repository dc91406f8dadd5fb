"""Python files of users, loaded as if a script in their folder ran, with nothing left behind."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.loaders.base import file_facts


@contextmanager
def importable(*folders: Path) -> Iterator[None]:
    """Let folders be imported from, the first one first, and only for the while."""
    entries = list(dict.fromkeys(str(folder.resolve()) for folder in folders))
    sys.path[:0] = entries
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for entry in entries:
            if entry in sys.path:
                sys.path.remove(entry)


@contextmanager
def as_a_script(file: Path | None) -> Iterator[None]:
    """Let code find itself run alone: no arguments, and a current folder that is put back.

    Args:
        file: the script; arguments are left alone if None.
    """
    arguments, folder = sys.argv, Path.cwd()
    if file is not None:
        sys.argv = [str(file)]
    try:
        yield
    finally:
        sys.argv = arguments
        os.chdir(folder)


class _Later(MetaPathFinder):
    """Finds neighbours of files that were loaded, for imports inside their functions.

    It is asked last, so it never hides what is installed.
    """

    def __init__(self) -> None:
        self.folders: dict[str, None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> ModuleSpec | None:
        """A module in one of the folders; None if there is none."""
        return None if path is not None else PathFinder.find_spec(fullname, list(self.folders))


_LATER = _Later()


def stay_importable(*folders: Path) -> None:
    """Let folders be imported from for as long as this process lives, after everything else."""
    _LATER.folders.update(dict.fromkeys(str(folder.resolve()) for folder in folders))
    if _LATER not in sys.meta_path:
        sys.meta_path.append(_LATER)


def forget_folders() -> None:
    """Let none of the folders that stay importable be imported from any longer."""
    _LATER.folders.clear()


def load_file(path: Path) -> ModuleType:
    """Execute a Python file as a module under a name of its own.

    The name has part of the content's hash, so that files of one name do not meet. A file with
    relative imports is a module of the package that its folder is.
    """
    if (levels := _relative_levels(path)) > 0:
        return _load_in_package(path.resolve(), levels)
    name = f"calvin_eval_policy_{path.stem}_{file_facts(path).sha256[:12]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise CheckpointError(f"{path}: expected a Python source file (.py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _relative_levels(path: Path) -> int:
    """The most dots that an import in a file begins with; 0 if it cannot be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return 0
    return max((n.level for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)), default=0)


def _load_in_package(path: Path, levels: int) -> ModuleType:
    """Import a file by its dotted name below the folder that holds its outermost package."""
    packages = 0
    while (path.parents[packages] / "__init__.py").is_file():
        packages += 1
    root = path.parents[min(max(levels, packages), len(path.parents) - 1)]
    name = ".".join(path.relative_to(root).with_suffix("").parts)
    with importable(root):
        return importlib.import_module(name)


def folder_that_has(module: str, file: Path) -> Path | None:
    """The nearest folder above a file from which a module could be imported; None if none could."""
    first = module.partition(".")[0]
    for folder in file.resolve().parents if first else ():
        if (folder / first).is_dir() or (folder / f"{first}.py").is_file():
            return folder
    return None
