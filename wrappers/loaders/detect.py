"""What a file is, by its content: no library is loaded, nothing in the file is executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from calvin_eval import plugins
from calvin_eval.errors import CheckpointError
from calvin_eval.foreign.archives import (
    ArchiveError,
    Member,
    read_member,
    read_pieces,
    read_table,
)
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.wrappers.builtin.replay import ACTIONS_KEY
from calvin_eval.wrappers.loaders.folders import FOLDER_KINDS, folder_kind
from calvin_eval.wrappers.loaders.published import explain

RECOGNISED = (
    "a TorchScript file, a torch.export archive (.pt2), a folder of RoboVLMs or LeRobot, recorded "
    "actions (.npz), builtin:NAME, a server as ws://HOST:PORT, or a class as module:Class or "
    "file.py:Class"
)

MAX_MEMBER: Final = 256 * 2**20
"""Bytes of a member that is read as a whole: code and pickles, never tensors."""


def detect(path: Path) -> str:
    """The kind of an existing path.

    Returns:
        "recording", "torchscript", "export", "pickle", "safetensors", for folders what
        `folders.folder_kind` returns, or the name of a package's loader that recognises it.

    Raises:
        CheckpointError: it is empty, damaged, or nothing that calvin-eval knows.
    """
    if path.is_dir():
        kind = folder_kind(path)
        if kind is None and (kind := _plugins_kind(path)) is None:
            raise CheckpointError(explain(path) or _unknown_folder(path))
        return kind
    try:
        with path.open("rb") as file:
            head = file.read(64)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    if not head:
        raise CheckpointError(f"{path} is empty (0 bytes): copy or download it again.")
    if head.startswith(b"PK\x03\x04"):
        return _detect_zip(path)
    if head.startswith(b"\x80"):
        return "pickle"
    if _is_safetensors(path, head, size):
        return "safetensors"
    if (kind := _plugins_kind(path)) is not None:
        return kind
    raise CheckpointError(_unknown(path, head))


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip archive whose table of contents every reader understands in the same way.

    Attributes:
        path: the file.
        folder: the one folder that all members lie in; None if they lie in none or in several.
        members: by their name, without that folder.
    """

    path: Path
    folder: str | None
    members: Mapping[str, Member]

    def read(self, name: str, most: int = MAX_MEMBER) -> bytes:
        """The content of a member, checked against its CRC.

        Raises:
            CheckpointError: the archive is damaged, or the member larger than `most` bytes.
        """
        try:
            with self.path.open("rb") as file:
                return read_member(file, self.members[name], most)
        except (ArchiveError, OSError) as error:
            raise damaged(self.path, error) from error

    def check(self) -> None:
        """Read all of it and compare all checksums; PyTorch does not.

        Raises:
            CheckpointError: the archive is damaged.
        """
        try:
            with self.path.open("rb") as file:
                for member in self.members.values():
                    for _ in read_pieces(file, member):
                        pass
        except (ArchiveError, OSError) as error:
            raise damaged(self.path, error) from error


def open_archive(path: Path) -> Archive:
    """Read the table of contents of a zip archive.

    Raises:
        CheckpointError: it is damaged, or could be understood in two ways.
    """
    try:
        with path.open("rb") as file:
            members = read_table(file)
    except (ArchiveError, OSError) as error:
        raise damaged(path, error) from error
    tops = {member.name.partition("/")[0] for member in members}
    folder = tops.pop() if len(tops) == 1 and all("/" in m.name for m in members) else None
    cut = 0 if folder is None else len(folder) + 1
    return Archive(path=path, folder=folder, members={m.name[cut:]: m for m in members})


def damaged(path: Path, error: BaseException) -> CheckpointError:
    """The error for a file that breaks off or contradicts itself."""
    return CheckpointError(
        f"{path} is truncated or damaged ({type(error).__name__}: {error}): copy or download it "
        "again."
    )


def _detect_zip(path: Path) -> str:
    archive = open_archive(path)
    members = archive.members
    kind = _torch_kind(members)
    # The oldest archives of torch.export have no folder; they are for trusted files only.
    if kind != "export" and archive.folder is None and any(_of_torch(name) for name in members):
        raise CheckpointError(
            f"{path} is ambiguous: expected all its members in one folder, as PyTorch writes them, "
            "found several folders. Save the policy again."
        )
    if kind is not None:
        return kind
    if any("aotinductor" in name for name in members):
        raise CheckpointError(
            f"{path} is a compiled AOTInductor package, which runs only where it was compiled: "
            "save the exported program itself with torch.export.save."
        )
    names = [member.name for member in members.values()]
    if any(ACTIONS_KEY.fullmatch(name.removesuffix(".npy")) for name in names):
        return "recording"
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(
            f"{path} is a NumPy archive without actions: expected arrays named like "
            "chain0000_sub0_actions (T, 7)."
        )
    if (theirs := _plugins_kind(path)) is not None:
        return theirs
    raise CheckpointError(f"{path} is a zip archive of an unknown layout: expected {RECOGNISED}.")


def _plugins_kind(path: Path) -> str | None:
    """The kind that an installed package recognises in a path which is none of ours."""
    for name in plugins.available("loaders"):
        if name in FOLDER_KINDS:
            continue
        if plugins.load("loaders", name).recognises(path):
            return name
    return None


def _torch_kind(members: Mapping[str, Member]) -> str | None:
    """Which of PyTorch's functions wrote an archive, by the names in it."""
    names = [name.lower() for name in members]  # PyTorch's reader knows no case
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if any(name.startswith("models/") and name.endswith(".json") for name in names):
        return "export"
    if "serialized_exported_program.json" in names:  # torch 2.4 and 2.5
        return "export"
    return "pickle" if "data.pkl" in names else None


def _of_torch(name: str) -> bool:
    """Whether PyTorch would look for a member of this name, in whatever folder."""
    return name.lower().rpartition("/")[2] in ("data.pkl", "constants.pkl")


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Whether the file starts with the length of a JSON object and that object."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length > size - 8:
        return False
    with path.open("rb") as file:
        file.seek(8)
        try:
            return isinstance(parse_json(file.read(length)), dict)
        except DocumentError:
            return False


def _unknown_folder(path: Path) -> str:
    """What to say of a folder that nobody recognises: mostly it holds what was meant."""
    inside = [
        entry.name
        for entry in sorted(path.iterdir())
        if entry.is_dir() and folder_kind(entry) is not None
    ]
    if inside:
        return (
            f"{path} is a folder of no kind that calvin-eval knows, with {len(inside)} in it that "
            f"are: choose one, such as --ckpt {path / inside[-1]}, or all by --ckpt '{path}/*'."
        )
    return f"{path} is a folder of no kind that calvin-eval knows: expected {RECOGNISED}."


def _unknown(path: Path, head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` there."
    if path.suffix == ".py":
        return f"{path} is Python source: name the class to run, as {path}:Class."
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        return f"{path} is a truncated or damaged safetensors file: copy or download it again."
    return f"{path} is of no kind that calvin-eval knows: expected {RECOGNISED}."
