"""The files of a leaderboard's site: written where they differ, removed where nobody needs them.

The site's folder is also what a later build goes on from: an entry whose bundle has not changed is
read from its own `entry.json` there, and nothing but a build may write into it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.files import write_atomic
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.results import typed
from calvin_eval.results.board.entry import Entry
from calvin_eval.results.verification_record import FileDigest

INDEX: Final = "index.json"
REPORTED: Final = "reported.json"
ENTRIES: Final = "entries"
COMPARE: Final = "compare"
RECORDS: Final = "records"
SITE_VERSION: Final = 1
"""Of the pages; another one writes all of them anew."""

_FOLDERS = (ENTRIES, COMPARE)


@dataclass(kw_only=True)
class Site:
    """A folder with a leaderboard's pages.

    Attributes:
        path: the folder.
        made_by: which program writes it.
        written: how many files were new or differed.
        kept: how many were as they should be.
    """

    path: Path
    made_by: str
    written: int = 0
    kept: int = 0
    _wanted: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, path: Path, version: str) -> Site:
        """The site in a folder, new or of an earlier build.

        Args:
            path: the folder.
            version: of the calvin-eval that writes.

        Raises:
            UsageError: there is something else in it.
        """
        made_by = f"calvin-eval {version}, site {SITE_VERSION}"
        others = [p.name for p in path.iterdir() if p.name != RECORDS] if path.is_dir() else []
        if path.exists() and not path.is_dir():
            raise UsageError(f"expected a folder for the site, found the file {path}")
        if others and "made_by" not in _document(path / INDEX):
            raise UsageError(
                f"expected a new folder for the site, or one that `leaderboard build` wrote; found "
                f"{', '.join(sorted(others)[:3])} in {path}"
            )
        return cls(path=path, made_by=made_by)

    def known(self) -> dict[FileDigest, Entry]:
        """The entries that an earlier build by the same program wrote, by their bundles."""
        found = {}
        for path in sorted(self.path.glob(f"{ENTRIES}/*/entry.json")):
            document = _document(path)
            if document.get("made_by") != self.made_by:
                continue
            try:
                entry = typed.read(Entry, document.get("entry"))
            except typed.MismatchError:
                continue
            if entry.key == path.parent.name:
                found[entry.bundle] = entry
        return found

    def has(self, name: str, **facts: Any) -> bool:
        """Whether a page is there whose JSON was written by the same program, of these facts."""
        document = _document(self.path / f"{name}.json")
        same = {"made_by": self.made_by, **facts}
        whole = (self.path / f"{name}.html").is_file()
        return whole and all(document.get(key) == value for key, value in same.items())

    def keep(self, *names: str) -> None:
        """Leave files as they are."""
        self._wanted.update(names)
        self.kept += len(names)

    def write_json(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a JSON file that says which program made it."""
        content = {"made_by": self.made_by, **document}
        self.write(name, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def write(self, name: str, text: str | bytes) -> None:
        """Write a file, unless it has these bytes already.

        Raises:
            RunFolderError: the disk refuses.
        """
        data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
        path = self.path / name
        self._wanted.add(name)
        try:
            if path.is_file() and path.read_bytes() == data:
                self.kept += 1
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error}") from error
        self.written += 1

    def clean(self) -> None:
        """Remove what earlier builds wrote and this one has no need of."""
        for path in list(self._written()):
            if path.relative_to(self.path).as_posix() not in self._wanted:
                path.unlink(missing_ok=True)
        for folder in self.path.glob(f"{ENTRIES}/*"):
            if folder.is_dir() and not any(folder.iterdir()):
                shutil.rmtree(folder)

    def _written(self) -> Iterator[Path]:
        for folder in _FOLDERS:
            yield from (path for path in (self.path / folder).rglob("*") if path.is_file())


def _document(path: Path) -> Mapping[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, DocumentError):
        return {}
    return found if isinstance(found, Mapping) else {}
