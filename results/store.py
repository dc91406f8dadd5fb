"""The folder of one run: header, journal and derived files.

Files that are written whole are replaced atomically, so a reader never sees half of one. A
folder that holds something is never written into by a new run, and never deleted.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from calvin_eval.errors import RunFolderError
from calvin_eval.files import remove_remains, write_atomic, write_first
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.results.actions import FOLDER as ACTIONS
from calvin_eval.results.actions import decode_actions, encode_actions
from calvin_eval.results.claims import move_aside
from calvin_eval.results.header import HEADER, Header, RunStatus, check_version
from calvin_eval.results.journal import Journal, encode_journal, read_journal
from calvin_eval.results.leaves import differing_leaves
from calvin_eval.results.published import refuse_published
from calvin_eval.results.schema import SCHEMA_VERSION, ChainRecord

JOURNAL = "chains.jsonl"


class RunFolder:
    """A run on disk; built by `create` or `open`.

    Attributes:
        path: the folder.
        moved_to: where `create(..., overwrite=True)` put the run that was there before.
    """

    def __init__(self, path: Path, *, moved_to: Path | None = None) -> None:
        self.path = path
        self.moved_to = moved_to
        self._run_id: str | None = None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        header: Mapping[str, Any],
        *,
        overwrite: bool = False,
        beside: Collection[str] = (),
    ) -> RunFolder:
        """Make a folder for a new run and write its header, with status `started`.

        Args:
            path: the folder; may exist if it is empty.
            header: JSON values; `schema_version`, `status` and `run_id` are added in front.
            overwrite: if a run is there already, rename its folder to `NAME.bak-N` first.
            beside: names of entries that the folder may hold already.

        Raises:
            RunFolderError: the folder holds something (without `overwrite`), holds something
                that is not a run or a run that is going on (with it), was taken by another run
                at this moment, or cannot be made.
        """
        folder = Path(path).resolve()
        moved_to = None
        try:
            if folder.exists() and not is_new(folder, beside):
                moved_to = move_aside(folder, folder / JOURNAL, overwrite=overwrite)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot make the run folder {folder}: {error}") from error
        run = cls(folder, moved_to=moved_to)
        run._run_id = uuid.uuid4().hex
        first = {"schema_version": SCHEMA_VERSION, "status": "started", "run_id": run._run_id}
        content = {**first, **{k: v for k, v in header.items() if k not in first}}
        try:
            write_first(folder / HEADER, _encode(_as_json(HEADER, content)))
        except FileExistsError as error:
            raise _taken(folder) from error
        except OSError as error:
            raise RunFolderError(f"cannot write {folder / HEADER}: {error}") from error
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """Open an existing run; raises RunFolderError if it is none of this schema version."""
        run = cls(Path(path).resolve())
        if not (run.path / HEADER).is_file():
            refuse_published(run.path, "a run folder")
        if run.path.is_file():
            raise RunFolderError(f"expected a run folder, found the file {run.path}")
        run.document()
        return run

    def header(self) -> Header:
        """The header as it is on disk now.

        Raises:
            RunFolderError: it lacks an entry, or has one that is not possible.
        """
        return Header.from_json(self.document(), str(self.path / HEADER))

    def document(self) -> dict[str, Any]:
        """The header as JSON values, of which only the schema version was looked at."""
        header = self.read_json(HEADER)
        if not isinstance(header, dict):
            found = type(header).__name__
            raise RunFolderError(f"{self.path / HEADER}: expected an object, found {found}")
        check_version(header, str(self.path / HEADER))
        return header

    def remove_remains(self) -> None:
        """Remove what an earlier session that was killed in the middle of a file left of it."""
        remove_remains(self.path)
        remove_remains(self.path / ACTIONS)

    def update_header(self, **changes: Any) -> dict[str, Any]:
        """Change or add header entries, atomically; returns the new header.

        Raises:
            ValueError: an unknown status, or a change of the schema version.
            RunFolderError: the header cannot be read, or the disk refuses.
        """
        if "status" in changes and changes["status"] not in get_args(RunStatus):
            raise ValueError(
                f"header status: expected one of {get_args(RunStatus)}, found {changes['status']!r}"
            )
        if "schema_version" in changes:
            raise ValueError("the schema version of a run is fixed when it is created")
        header = {**self.document(), **changes}
        self.write_json(HEADER, header)
        return header

    def require_same(self, document: Mapping[str, Any], sections: Sequence[str]) -> None:
        """Raise RunFolderError, naming every differing key, unless these header sections agree."""
        before = self.document()
        different = [
            f"{path}: {stored} before, {now} now"
            for section in sections
            for path, stored, now in differing_leaves(
                before.get(section), document.get(section), section
            )
        ]
        if different:
            raise RunFolderError(
                f"expected the same run to resume in {self.path}; it differs in "
                f"{'; '.join(different)}. Run with the stored settings, or into a new folder."
            )

    @property
    def status(self) -> RunStatus:
        """How far the run got: started (or killed since), finished, interrupted or error."""
        status: RunStatus = self.document().get("status", "started")
        if status not in get_args(RunStatus):
            raise RunFolderError(
                f"{self.path / HEADER}: expected a status of {get_args(RunStatus)}, "
                f"found {status!r}"
            )
        return status

    def journal(self) -> Journal:
        """The journal, open for appending, which no other process can do meanwhile.

        Raises:
            RunFolderError: another process has it open, or made another run of this folder.
        """
        journal = Journal(self.path / JOURNAL)
        if self._run_id is not None and self.document().get("run_id") != self._run_id:
            journal.close()
            raise _taken(self.path)
        return journal

    def settle(self) -> None:
        """Put the journal in order of chain id, atomically, when no more chains will come.

        Which chain finishes first depends on the machine; what a finished run says does not.
        """
        try:
            write_atomic(self.path / JOURNAL, encode_journal(self.records()))
        except OSError as error:
            raise RunFolderError(f"cannot write {self.path / JOURNAL}: {error}") from error

    def write_actions(self, chain: int, subtasks: Sequence[Sequence[Any]]) -> None:
        """Keep the actions of a chain; raises RunFolderError if the disk refuses."""
        path = self.actions_path(chain)
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, encode_actions(subtasks))
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error}") from error

    def read_actions(self, chain: int) -> dict[int, list[Any]]:
        """The actions of a chain per subtask position; raises RunFolderError if there are none."""
        path = self.actions_path(chain)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunFolderError(
                f"expected the actions of chain {chain} in {path}: {error.strerror}"
            ) from error
        return decode_actions(data, str(path))

    def actions_path(self, chain: int) -> Path:
        """Where the actions of a chain are kept."""
        return self.path / ACTIONS / f"{chain:04d}.npz"

    def records(self) -> list[ChainRecord]:
        """The finished chains so far, in order of chain id; none if there is no journal yet."""
        path = self.path / JOURNAL
        if not path.exists():
            return []
        return sorted(read_journal(path), key=lambda r: r.chain)

    def read_json(self, name: str) -> Any:
        """The content of a JSON file; raises RunFolderError if it is missing or damaged."""
        path = self._file(name)
        try:
            return parse_json(path.read_bytes())
        except FileNotFoundError as error:
            raise RunFolderError(
                f"expected {name} in {self.path}, found none: is this a run folder?"
            ) from error
        except (OSError, DocumentError) as error:
            raise RunFolderError(f"cannot read {path} as JSON: {error}") from error

    def write_json(self, name: str, data: Any) -> Path:
        """Write a JSON file, indented, keys in the order given, atomically.

        Raises:
            ValueError: the data holds NaN or infinity, for which JSON has no word.
            RunFolderError: the disk refuses.
        """
        return self.write_text(name, _as_json(name, data))

    def write_text(self, name: str, text: str) -> Path:
        """Write a UTF-8 text file atomically; raises RunFolderError if the disk refuses."""
        path = self._file(name)
        try:
            write_atomic(path, _encode(text))
        except OSError as error:
            raise RunFolderError(f"cannot write {path}: {error}") from error
        return path

    def _file(self, name: str) -> Path:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"expected the bare name of a file in the run folder, found {name!r}")
        return self.path / name


def is_new(folder: Path, beside: Collection[str]) -> bool:
    """Whether a run can be written there: a folder with nothing, or with these entries only."""
    return folder.is_dir() and all(entry.name in beside for entry in folder.iterdir())


def _as_json(name: str, data: Any) -> str:
    try:
        return json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    except ValueError as error:
        raise ValueError(f"{name}: {error}; use null for a number that is not there") from error


def _encode(text: str) -> bytes:
    r"""UTF-8; a byte of a path that is none is written `\udc80`, as JSON would."""
    return text.encode("utf-8", "backslashreplace")


def _taken(folder: Path) -> RunFolderError:
    return RunFolderError(
        f"another run was started in {folder} at the same moment; choose another folder with --out"
    )
