"""What a file is, by its content: no library is loaded, nothing in the file is executed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath

from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.builtin.replay import ACTIONS_KEY
from calvin_eval.wrappers.loaders.folders import folder_kind

RECOGNISED = (
    "a TorchScript file, a torch.export archive (.pt2), a folder of RoboVLMs or LeRobot, recorded "
    "actions (.npz), builtin:NAME, a server as ws://HOST:PORT, or a class as module:Class or "
    "file.py:Class"
)


def detect(path: Path) -> str:
    """The kind of an existing path.

    Returns:
        "recording", "torchscript", "export", "pickle", "safetensors", or for folders what
        `folders.folder_kind` returns.

    Raises:
        CheckpointError: it is empty, damaged, or nothing that calvin-eval knows.
    """
    if path.is_dir():
        kind = folder_kind(path)
        if kind is None:
            raise CheckpointError(
                f"{path} is a folder of no kind that calvin-eval knows: expected {RECOGNISED}."
            )
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
    raise CheckpointError(_unknown(path, head))


def archive_members(path: Path) -> dict[str, str]:
    """Names in a zip archive, by the same name without the archive's one top folder.

    Raises:
        CheckpointError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            # The end of a truncated archive can be a whole archive that was stored in it.
            start = min((info.header_offset for info in archive.infolist()), default=0)
            if start:
                raise zipfile.BadZipFile(f"expected it to start at byte 0, found {start}")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise damaged(path, error) from error
    if len({PurePosixPath(name).parts[:1] for name in names}) == 1:
        return {name.partition("/")[2] or name: name for name in names}
    return {name: name for name in names}


def read_member(path: Path, name: str) -> bytes:
    """The bytes of one member of a zip archive, checked against its CRC.

    Raises:
        CheckpointError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(name)
    except Exception as error:  # a damaged archive makes zipfile and zlib raise anything
        raise damaged(path, error) from error


def check_members(path: Path) -> None:
    """Read a whole zip archive and compare all its checksums; PyTorch does not.

    Raises:
        CheckpointError: the archive is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # a damaged archive makes zipfile and zlib raise anything
        raise damaged(path, error) from error
    if bad is not None:
        raise damaged(path, zipfile.BadZipFile(f"wrong checksum of {bad}"))


def damaged(path: Path, error: BaseException) -> CheckpointError:
    """The error for a file that breaks off or contradicts itself."""
    return CheckpointError(
        f"{path} is truncated or damaged ({type(error).__name__}: {error}): copy or download it "
        "again."
    )


def _detect_zip(path: Path) -> str:
    members = archive_members(path)
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        return "torchscript"
    if any(name.startswith("models/") and name.endswith(".json") for name in members):
        return "export"
    if "serialized_exported_program.json" in members:  # torch 2.4 and 2.5
        return "export"
    if any("aotinductor" in name for name in members):
        raise CheckpointError(
            f"{path} is a compiled AOTInductor package, which runs only where it was compiled: "
            "save the exported program itself with torch.export.save."
        )
    if "data.pkl" in members:
        return "pickle"
    if any(ACTIONS_KEY.fullmatch(name.removesuffix(".npy")) for name in members.values()):
        return "recording"
    if members and all(name.endswith(".npy") for name in members):
        raise CheckpointError(
            f"{path} is a NumPy archive without actions: expected arrays named like "
            "chain0000_sub0_actions (T, 7)."
        )
    raise CheckpointError(f"{path} is a zip archive of an unknown layout: expected {RECOGNISED}.")


def _is_safetensors(path: Path, head: bytes, size: int) -> bool:
    """Whether the file starts with the length of a JSON object and that object."""
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length > size - 8:
        return False
    with path.open("rb") as file:
        file.seek(8)
        try:
            return isinstance(json.loads(file.read(length)), dict)
        except (ValueError, RecursionError):
            return False


def _unknown(path: Path, head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` there."
    if path.suffix == ".py":
        return f"{path} is Python source: name the class to run, as {path}:Class."
    if head[8:9] == b"{" and path.suffix == ".safetensors":
        return f"{path} is a truncated or damaged safetensors file: copy or download it again."
    return f"{path} is of no kind that calvin-eval knows: expected {RECOGNISED}."
