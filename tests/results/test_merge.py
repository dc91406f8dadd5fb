"""Merging on made-up run folders: what comes out, and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.conclude import conclude
from calvin_eval.results.merge import merge_runs
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.store import RunFolder
from handmade import document_of, follow_head

HEADER: Mapping[str, Any] = document_of(
    engine={"workers": 2},
    policy={"requirements": {"rgb": [], "depth": [], "every_step": False, "privileged": False}},
    renderer={"backend": "none"},
    provenance={"git": {"revision": "1234", "dirty": False}},
    started_utc="2030-01-01T00:00:00+00:00",
    ended_utc="2030-01-01T01:00:00+00:00",
)
CHAINS = (3, 5, 8, 13, 21, 34, 55)
Change = Callable[[dict[str, Any]], object]


def record(chain: int, *, error: str | None = None) -> ChainRecord:
    subtask = SubtaskRecord(
        task="a", instruction="do a", success=chain % 2 == 0, steps=4, seconds=1.5, state_hash="00"
    )
    return ChainRecord(
        chain=chain, initial_state={"led": 0}, tasks=("a",),
        subtasks=() if error else (subtask,),
        status="error" if error else "completed", error=error,
    )  # fmt: skip


def write_run(
    path: Path,
    shard: str | None,
    *,
    chains: Sequence[int] = CHAINS,
    change: Change = lambda header: None,
    errors: Sequence[int] = (),
    status: Any = "finished",
) -> Path:
    header = deepcopy(dict(HEADER))
    if shard is not None:
        i, n = map(int, shard.split("/"))
        chains = chains[i - 1 :: n]
    header["config"]["shard"] = shard
    header["chains"]["planned"] = list(chains)
    change(header)
    folder = RunFolder.create(path, header)
    with folder.journal() as journal:
        for chain in reversed(chains):  # whatever the order in which they finished
            folder.write_actions(chain, [[[0.0] * 6 + [chain / 100]]])
            journal.append(record(chain, error="it broke" if chain in errors else None))
    folder.settle()
    folder.update_header(status=status)
    return path


def shards(where: Path, n: int, **options: Any) -> list[Path]:
    return [write_run(where / f"part{i}", f"{i}/{n}", **options) for i in range(1, n + 1)]


def files(folder: Path) -> dict[str, bytes]:
    names = ("chains.jsonl", "summary.json", "results.json")
    paths = [folder / name for name in names] + sorted((folder / "actions").iterdir())
    return {path.name: path.read_bytes() for path in paths if path.exists()}


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_shards_in_any_order_become_the_unsharded_run(tmp_path: Path, n: int) -> None:
    whole = write_run(tmp_path / "whole", None)
    conclude(RunFolder.open(whole))
    merged = merge_runs(shards(tmp_path, n)[::-1], tmp_path / "merged", provenance={"argv": []})
    conclude(merged)
    assert files(merged.path) == files(whole)
    mine, theirs = merged.document(), RunFolder.open(whole).document()
    assert [part["shard"] for part in mine.pop("merged_from")] == [
        f"{i}/{n}" for i in range(1, n + 1)
    ]
    assert mine.pop("provenance") == {"argv": []}
    del theirs["provenance"]
    assert mine.pop("run_id") != theirs.pop("run_id"), "a merged run is one of its own"
    assert mine == theirs
    assert mine["chains"]["planned"] == list(CHAINS)


def test_the_header_names_what_was_merged(tmp_path: Path) -> None:
    import hashlib

    parts = [
        write_run(
            tmp_path / "a" / "run", "1/2", change=lambda h: h.update(started_utc="2030-01-02")
        ),
        write_run(
            tmp_path / "b",
            "2/2",
            change=lambda h: h.update(engine={"workers": 8}, selftest={"outcome": "same"}),
        ),
    ]
    merged = merge_runs(parts, tmp_path / "merged", provenance={})
    header = merged.document()
    assert [part["name"] for part in header["merged_from"]] == ["run", "b"]
    ids = [RunFolder.open(part).header().run_id for part in parts]
    assert [part["run_id"] for part in header["merged_from"]] == ids
    assert header["merged_from"][1]["engine"] == {"workers": 8}
    assert [part.get("selftest") for part in header["merged_from"]] == [
        None, {"outcome": "same"},
    ]  # fmt: skip
    assert header["merged_from"][0]["started_utc"] == "2030-01-02"
    digests = [hashlib.sha256((part / "header.json").read_bytes()).hexdigest() for part in parts]
    assert [part["header_sha256"] for part in header["merged_from"]] == digests
    assert header["engine"] is None, "the parts had different ones"
    assert header["started_utc"] == HEADER["started_utc"]
    assert (header["status"], header["config"]["shard"]) == ("finished", None)
    assert str(tmp_path) not in (merged.path / "header.json").read_text()


def test_errors_stay_errors_and_missing_chains_stay_missing(tmp_path: Path) -> None:
    parts = shards(tmp_path, 2, errors=[5])
    journal = parts[0] / "chains.jsonl"  # stopped by --max-errors: finished, and not complete
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    merged = merge_runs(parts, tmp_path / "merged", provenance={})
    result = conclude(merged)
    assert [r.chain for r in result.records if r.status == "error"] == [5]
    summary = result.summary
    assert (summary.planned, summary.completed, summary.errors, summary.missing) == (7, 5, 1, 1)
    assert summary.average_length is None
    assert not (merged.path / "results.json").exists()


@pytest.mark.slow
def test_the_verdict_is_of_the_whole_run(tmp_path: Path) -> None:
    chains = range(1000)
    for part in (parts := shards(tmp_path, 2, chains=chains)):
        verdict = conclude(RunFolder.open(part)).verdict
        assert [reason.split(":")[0] for reason in verdict.reasons] == [
            "Planned chains", "Completed chains",
        ]  # fmt: skip
    merged = merge_runs(parts, tmp_path / "merged", provenance={})
    assert conclude(merged).verdict.official
    assert merged.document()["verdict"] == {"official": True, "reasons": []}


def refused(tmp_path: Path, parts: Sequence[Path], kind: type[Exception] = RunFolderError) -> str:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(kind) as caught:
        merge_runs(parts, tmp_path / "merged", provenance={})
    assert not (tmp_path / "merged").exists()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    return str(caught.value)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    parts = shards(tmp_path, 5)
    assert "missing: 2/5, 4/5" in refused(tmp_path, [parts[0], parts[2], parts[4]])


def test_a_shard_twice_is_refused(tmp_path: Path) -> None:
    parts = shards(tmp_path, 2)
    message = refused(tmp_path, [*parts, parts[1]])
    assert "overlapping" in message
    assert "part2 (shard 2/2) share 3 chains (5, 13, 34)" in message


def test_chains_in_two_shards_are_refused(tmp_path: Path) -> None:
    parts = [
        write_run(tmp_path / "a", "1/2", chains=[1, 2, 3, 4]),
        write_run(tmp_path / "b", "2/2", chains=[9, 1, 8, 3]),
    ]
    assert "a (shard 1/2) and " in (message := refused(tmp_path, parts))
    assert "share 2 chains (1, 3)" in message


def test_shards_of_different_divisions_are_refused(tmp_path: Path) -> None:
    parts = [write_run(tmp_path / "a", "1/2"), write_run(tmp_path / "b", "2/3")]
    assert "one division" in refused(tmp_path, parts)


def test_shards_of_lists_of_different_lengths_are_refused(tmp_path: Path) -> None:
    parts = [
        write_run(tmp_path / "a", "1/2", chains=range(9)),
        write_run(tmp_path / "b", "2/2", chains=range(4)),
    ]
    assert "expected 4 of 7 planned chains, found 5" in refused(tmp_path, parts)


CHANGES: Mapping[str, Change] = {
    "config.seed: 0 and 7": lambda h: h["config"].update(seed=7),
    "config.protocol.steps: 360 and 30": lambda h: h["config"]["protocol"].update(steps=30),
    'assets.fingerprint: "a1a': lambda h: h["assets"].update(fingerprint="b" * 64),
    'chains.sha256: "452': lambda h: h["chains"].update(sha256="d" * 64),
    'instructions.sha256: "3bb': lambda h: h["instructions"].update(sha256="f" * 64),
    'renderer.backend: "none" and "egl"': lambda h: h["renderer"].update(backend="egl"),
    'scene: "D" and "A"': lambda h: h.update(scene="A"),
    "policy.seed: null and 5": lambda h: h["policy"].update(seed=5),
    'software.calvin_eval: "0.1.0" and "0.2.0"': lambda h: h["provenance"].update(
        calvin_eval="0.2.0"
    ),
    'software.packages.numpy: "2.4.6" and "1.9"': lambda h: h["provenance"]["packages"].update(
        numpy="1.9"
    ),
    'software.revision: "1234" and null': lambda h: h["provenance"].update(git=None),
}


@pytest.mark.parametrize("named", CHANGES)
def test_a_shard_of_another_run_is_refused_with_the_key(tmp_path: Path, named: str) -> None:
    parts = [
        write_run(tmp_path / "a", "1/2"),
        write_run(tmp_path / "b", "2/2", change=CHANGES[named]),
    ]
    message = refused(tmp_path, parts)
    assert f"differ in {named}" in message
    assert message.count(" and ") == 2, "one key, and no other"


def test_every_differing_key_is_named(tmp_path: Path) -> None:
    def change(header: dict[str, Any]) -> None:
        header["config"]["seed"] = 7
        header["scene"] = "A"
        follow_head(header)

    parts = [write_run(tmp_path / "a", "1/2"), write_run(tmp_path / "b", "2/2", change=change)]
    message = refused(tmp_path, parts)
    assert "config.seed" in message
    assert 'scene: "D" and "A"; revision: "pinned" and "head"' in message


@pytest.mark.parametrize("status", ["started", "interrupted", "error"])
def test_an_unfinished_shard_is_refused(tmp_path: Path, status: str) -> None:
    parts = [write_run(tmp_path / "a", "1/2"), write_run(tmp_path / "b", "2/2", status=status)]
    message = refused(tmp_path, parts)
    assert f"found status '{status}'" in message
    assert "--resume" in message


def test_a_run_without_shard_is_refused(tmp_path: Path) -> None:
    parts = [write_run(tmp_path / "a", "1/2"), write_run(tmp_path / "b", None)]
    assert "expected a run with --shard i/n, found one without" in refused(tmp_path, parts)


def test_a_chain_that_was_never_planned_is_refused(tmp_path: Path) -> None:
    parts = shards(tmp_path, 2)
    folder = RunFolder.open(parts[0])
    folder.write_actions(99, [])
    with folder.journal() as journal:
        journal.append(record(99))
    assert "found chain 99" in refused(tmp_path, parts)


def test_a_record_without_its_actions_is_refused(tmp_path: Path) -> None:
    parts = shards(tmp_path, 2)
    RunFolder.open(parts[0]).actions_path(8).unlink()
    assert "actions of chain 8" in refused(tmp_path, parts)


def test_no_run_and_no_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, [], UsageError)
    assert "is this a run folder" in refused(tmp_path, [tmp_path / "nowhere"])


def test_an_older_run_is_kept_unless_overwritten(tmp_path: Path) -> None:
    parts = shards(tmp_path, 2)
    merge_runs(parts, tmp_path / "merged", provenance={})
    before = (tmp_path / "merged" / "chains.jsonl").read_bytes()
    with pytest.raises(RunFolderError, match="--overwrite"):
        merge_runs(parts, tmp_path / "merged", provenance={})
    again = merge_runs(parts, tmp_path / "merged", provenance={}, overwrite=True)
    assert (again.path / "chains.jsonl").read_bytes() == before
    assert (tmp_path / "merged.bak-1" / "chains.jsonl").read_bytes() == before


def test_a_shard_is_never_overwritten(tmp_path: Path) -> None:
    parts = shards(tmp_path, 2)
    with pytest.raises(UsageError, match="another folder than the shards"):
        merge_runs(parts, parts[0], provenance={}, overwrite=True)
    assert json.loads((parts[0] / "header.json").read_text())["config"]["shard"] == "1/2"


def test_actions_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    parts = shards(tmp_path, 2)
    monkeypatch.setattr("calvin_eval.results.merge.os.link", no_links)
    merged = merge_runs(parts, tmp_path / "merged", provenance={})
    for part in parts:
        for path in (part / "actions").iterdir():
            assert (merged.path / "actions" / path.name).read_bytes() == path.read_bytes()
    assert len(list((merged.path / "actions").iterdir())) == len(CHAINS)
