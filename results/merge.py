"""Shards of one run, put together again.

`--shard i/n` runs every n-th chain from the i-th. Since a chain's record depends on nothing but
the chain and the policy, the shards together are the run that nobody had the time for; here is
checked that they are shards of the same run and all of it, before anything is written.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.files import write_atomic
from calvin_eval.results.header import HEADER, SAME_RUN, Header
from calvin_eval.results.journal import encode_journal
from calvin_eval.results.leaves import differing_leaves
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import JOURNAL, RunFolder

_NOT_KEPT = (*SAME_RUN, "schema_version", "status", "verdict")
"""Entries of a shard's header that `merged_from` leaves out."""
SHARDS = "shards"
"""The folder of shards inside the run that they are parts of, if they lie there."""
_SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One run folder that is to be merged.

    Attributes:
        folder: the run.
        header: its header.
        digest: SHA-256 of the header file.
        index: i of the shard i/n, from 1.
        count: n.
        planned: ids of its chains, in order.
        records: its journal.
    """

    folder: RunFolder
    header: Header
    digest: str
    index: int
    count: int
    planned: tuple[int, ...]
    records: tuple[ChainRecord, ...]

    def __str__(self) -> str:
        """For messages."""
        return f"{self.folder.path} (shard {self.index}/{self.count})"


def merge_runs(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
) -> RunFolder:
    """Make one run folder of all shards of a run: header, journal and actions.

    Metrics and verdict are the caller's to compute, as of any run. The shards stay as they are;
    their action files are linked where the file system can do that, else copied.

    Args:
        runs: folders of finished shards, in any order.
        out: the new run folder.
        provenance: of the merged run.
        overwrite: if a run is at `out` already, rename its folder first.

    Raises:
        UsageError: no run, or `out` is one of them.
        RunFolderError: the folders are not all shards of one finished run; nothing was written.
    """
    if not runs:
        raise UsageError("expected the folders of all shards of a run, found none")
    if Path(out).resolve() in [Path(run).resolve() for run in runs]:
        raise UsageError(f"expected --out to be another folder than the shards, found {out}")
    shards = sorted((read_shard(run) for run in runs), key=lambda shard: shard.index)
    check_shards(shards)
    header = _merged_header(shards, provenance)
    folder = RunFolder.create(out, header, overwrite=overwrite, beside=(SHARDS,))
    records = [record for shard in shards for record in shard.records]
    for shard in shards:
        for record in shard.records:
            _link(shard.folder.actions_path(record.chain), folder.actions_path(record.chain))
    try:
        write_atomic(folder.path / JOURNAL, encode_journal(records))
    except OSError as error:
        raise RunFolderError(f"cannot write {folder.path / JOURNAL}: {error}") from error
    folder.update_header(status="finished", ended_utc=_times(shards, "ended_utc")[-1])
    return folder


def read_shard(path: str | os.PathLike[str]) -> Shard:
    """Read and check a run by itself.

    Raises:
        RunFolderError: it is no run, not finished, no shard, or not what its header says.
    """
    folder = RunFolder.open(path)
    header = folder.header()
    if folder.status != "finished":
        raise RunFolderError(
            f"{folder.path}: expected a finished run, found status {folder.status!r}. Complete it "
            "first: give its command again with --resume and --out."
        )
    match = _SHARD.fullmatch(str(header.config.shard))
    if match is None:
        raise RunFolderError(
            f"{folder.path}: expected a run with --shard i/n, found one without: there is nothing "
            "to merge it with."
        )
    records = tuple(folder.records())
    for record in records:
        _check_record(folder, record, header.planned)
    digest = hashlib.sha256((folder.path / HEADER).read_bytes()).hexdigest()
    return Shard(
        folder=folder, header=header, digest=digest, index=int(match[1]), count=int(match[2]),
        planned=header.planned, records=records,
    )  # fmt: skip


def _check_record(folder: RunFolder, record: ChainRecord, planned: Sequence[int]) -> None:
    if record.chain not in planned:
        raise RunFolderError(
            f"{folder.path}: expected records of the {len(planned)} planned chains only, found "
            f"chain {record.chain}. The folder was altered; run this shard again."
        )
    if not folder.actions_path(record.chain).is_file():
        raise RunFolderError(
            f"{folder.path}: expected the actions of chain {record.chain} in "
            f"{folder.actions_path(record.chain).name}, found no such file. The folder is not "
            "whole; copy it again, or run this shard again."
        )


def check_shards(shards: Sequence[Shard]) -> None:
    """Raise RunFolderError unless these are all shards of one run, each of them once."""
    first = shards[0]
    for shard in shards[1:]:
        _check_same(first, shard)
    for one, other in combinations(shards, 2):
        common = sorted(set(one.planned) & set(other.planned))
        if one.index == other.index or common:
            raise RunFolderError(
                f"expected every shard once, found overlapping ones: {one} and "
                f"{other} share {len(common)} chains{_first_of(common)}. Leave one out."
            )
    missing = sorted(set(range(1, first.count + 1)) - {shard.index for shard in shards})
    if missing:
        names = ", ".join(f"{index}/{first.count}" for index in missing)
        raise RunFolderError(
            f"expected all {first.count} shards, found {len(shards)}; missing: {names}. Run them "
            "with --shard, and merge all of them at once."
        )
    whole = sum(len(shard.planned) for shard in shards)
    for shard in shards:
        share = len(range(shard.index - 1, whole, shard.count))
        if len(shard.planned) != share:
            raise RunFolderError(
                f"{shard}: expected {share} of {whole} planned chains, found "
                f"{len(shard.planned)}. The folder was altered; run this shard again."
            )


def planned_chains(shards: Sequence[Shard]) -> list[int]:
    """The planned chains of the whole run, in the order in which shards were dealt from it."""
    whole = sum(len(shard.planned) for shard in shards)
    return [shards[k % len(shards)].planned[k // len(shards)] for k in range(whole)]


def _check_same(one: Shard, other: Shard) -> None:
    if one.count != other.count:
        raise RunFolderError(
            f"expected shards of one division, found {one} and {other}. Merge "
            "runs with the same n of --shard i/n."
        )
    before, now = _comparable(one.header), _comparable(other.header)
    different = [f"{path}: {a} and {b}" for path, a, b in differing_leaves(before, now)]
    if different:
        raise RunFolderError(
            f"expected shards of the same run, found that {one} and {other} "
            f"differ in {'; '.join(different)}. Run one of them again with the other's settings."
        )


def _comparable(header: Header) -> dict[str, Any]:
    """What shards of one run have in common."""
    same: dict[str, Any] = {key: header.document[key] for key in SAME_RUN}
    same["config"] = {k: v for k, v in same["config"].items() if k != "shard"}
    same["chains"] = {k: v for k, v in same["chains"].items() if k != "planned"}
    facts = header.provenance
    same["software"] = {
        "calvin_eval": facts.calvin_eval,
        "revision": facts.git.revision if facts.git else None,
        "packages": dict(facts.packages),
    }
    return same


def _merged_header(shards: Sequence[Shard], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The header of the run without `--shard`, and what it was put together from."""
    first = shards[0].header.document
    engines = [shard.header.engine for shard in shards]
    return {
        **{key: first[key] for key in SAME_RUN},
        "config": {**first["config"], "shard": None},
        "chains": {**first["chains"], "planned": planned_chains(shards)},
        "engine": engines[0] if engines.count(engines[0]) == len(engines) else None,
        "provenance": dict(provenance),
        "started_utc": _times(shards, "started_utc")[0],
        "merged_from": [
            {
                "name": shard.folder.path.name,
                "shard": f"{shard.index}/{shard.count}",
                "header_sha256": shard.digest,
                **{k: v for k, v in shard.header.document.items() if k not in _NOT_KEPT},
            }
            for shard in shards
        ],
    }


def _times(shards: Sequence[Shard], name: str) -> list[str]:
    """All shards' values of a time in the header, earliest first; at least one."""
    found = (getattr(shard.header, name) for shard in shards)
    return sorted(time for time in found if time) or [""]


def _first_of(chains: Sequence[int], most: int = 5) -> str:
    if not chains:
        return ""
    shown = ", ".join(map(str, chains[:most]))
    return f" ({shown}{', …' if len(chains) > most else ''})"


def _link(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(source, target)
    except OSError as error:
        raise RunFolderError(f"cannot write {target}: {error}") from error
