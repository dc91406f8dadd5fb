"""Bundles: what goes in comes out, and nothing else does."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results import archive
from calvin_eval.results.actions import encode_actions
from calvin_eval.results.archive import BundleError, check_actions_file, chunks, open_zip
from calvin_eval.results.bundle import ALLOWED, write_bundle
from calvin_eval.results.model_card import (
    ModelCard,
    model_card_schema,
    parse_model_card,
    read_model_card,
)
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.results.unbundle import read_bundle
from handmade import document_of

CARD = {
    "name": "Reach 2",
    "training_split": "ABC_D",
    "parameters": 2_700_000_000,
    "observation_space": ["rgb_static 200x200", "robot_obs"],
    "action_space": "relative tcp pose",
    "licence": "MIT",
    "links": {"paper": "https://example.org/paper", "code": "https://example.org/code"},
}
Files = dict[str, bytes]


def card(**changes: Any) -> ModelCard:
    return parse_model_card({**CARD, **changes}, "card")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two chains, one of them with an error, and three videos."""
    header = document_of(config={"split": "ABC_D"}, chains={"planned": [0, 7]})
    folder = RunFolder.create(tmp_path / "run", header)
    subtask = SubtaskRecord(
        task="open_drawer", instruction="open it", success=False, steps=3, seconds=1.0,
        state_hash="ab" * 16,
    )  # fmt: skip
    done = ChainRecord(
        chain=0, initial_state={"led": 0}, tasks=("open_drawer",), subtasks=(subtask,),
        status="completed",
    )  # fmt: skip
    broken = ChainRecord(
        chain=7, initial_state={"led": 0}, tasks=("open_drawer",), subtasks=(), status="error",
        error="boom",
    )  # fmt: skip
    with folder.journal() as journal:
        journal.append(done)
        journal.append(broken)
    folder.write_actions(0, [[np.arange(7.0)] * 3])
    folder.write_json("summary.json", {"completed": 1})
    folder.write_text("tasks.csv", "task\n")
    folder.write_json("diagnosis.json", {"schema_version": 1})
    folder.write_text("notes.txt", "mine\n")
    (folder.path / "videos").mkdir()
    for name in ("0000-a.mp4", "0000-b.gif", "0007.webp"):
        (folder.path / "videos" / name).write_bytes(name.encode())
    folder.update_header(status="finished")
    return folder


@pytest.fixture
def whole(run: RunFolder, tmp_path: Path) -> Path:
    return write_bundle(run, card(), tmp_path / "whole.zip", videos=["0000*"]).path


def unzip(path: Path) -> Files:
    with zipfile.ZipFile(path) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def rezip(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
    return path


def refuse(path: Path, words: str) -> None:
    """Reading fails with these words, as a bundle that is at fault itself."""
    with pytest.raises(BundleError, match=words) as caught, read_bundle(path):
        pass
    assert caught.value.exit_code == 1


def test_what_goes_in_comes_out(run: RunFolder, whole: Path) -> None:
    with read_bundle(whole) as unpacked:
        assert unpacked.document() == run.document()
        assert unpacked.records() == run.records()
        assert np.array_equal(unpacked.read_actions(0)[0], run.read_actions(0)[0])
        assert unpacked.read_json("meta.json") == CARD
        names = {p.relative_to(unpacked.path).as_posix() for p in unpacked.path.rglob("*.*")}
        place = unpacked.path
    assert names == {
        "header.json", "chains.jsonl", "summary.json", "tasks.csv", "meta.json", "diagnosis.json",
        "actions/0000.npz", "videos/0000-a.mp4", "videos/0000-b.gif",
    }  # fmt: skip
    assert not place.exists()


def test_the_same_run_gives_the_same_bytes(run: RunFolder, whole: Path, tmp_path: Path) -> None:
    for path in run.path.rglob("*"):
        path.touch()
    again = write_bundle(run, card(), tmp_path / "again.zip", videos=["*.mp4", "*b.gif"])
    assert again.path.read_bytes() == whole.read_bytes()
    other = write_bundle(run, card(), tmp_path / "other.zip")
    assert other.path.read_bytes() != whole.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_an_older_bundle_is_kept(run: RunFolder, whole: Path) -> None:
    before = whole.read_bytes()
    with pytest.raises(UsageError, match="--overwrite"):
        write_bundle(run, card(), whole)
    assert whole.read_bytes() == before
    write_bundle(run, card(), whole, overwrite=True)
    assert whole.read_bytes() != before


def test_what_cannot_be_bundled(run: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "no.zip"
    with pytest.raises(UsageError, match="training_split 'ABC_D'"):
        write_bundle(run, card(training_split="D"), target)
    with pytest.raises(UsageError, match="found none"):
        write_bundle(run, card(), target, videos=["0005*"])
    run.actions_path(0).rename(tmp_path / "0000.npz")
    with pytest.raises(RunFolderError, match="the actions of chain 0"):
        write_bundle(run, card(), target)
    run.update_header(status="started")
    with pytest.raises(RunFolderError, match="a run that is over"):
        write_bundle(run, card(), target)
    assert not target.exists()


def test_an_altered_file_is_noticed(whole: Path) -> None:
    for name in unzip(whole).keys() - {"manifest.json"}:
        files = unzip(whole)
        files[name] = files[name].replace(files[name][-3:-2], b"~", 1)
        refuse(rezip(whole.with_name("altered.zip"), files), "was altered after")


def test_a_missing_or_an_added_file_is_noticed(whole: Path) -> None:
    changed = whole.with_name("changed.zip")
    for name in unzip(whole):
        files = unzip(whole)
        del files[name]
        refuse(rezip(changed, files), f"expected '?{name}'?")
    refuse(rezip(changed, {**unzip(whole), "actions/0001.npz": b""}), "expected only what")
    refuse(rezip(changed, {**unzip(whole), "setup.py": b""}), "no place in a bundle")


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "/header.json", "actions/../../header.json", "..\\header.json", "C:evil.json",
     "\\header.json", "videos/..", "actions/../header.json"],
)  # fmt: skip
def test_no_path_leads_out(whole: Path, name: str) -> None:
    refuse(rezip(whole.with_name("out.zip"), {**unzip(whole), name: b"{}"}), "leads out")


@pytest.mark.parametrize("name", ["actions/", "videos/sub/a.mp4", "actions/x.npz", ".mp4", "a.exe"])
def test_no_other_names(whole: Path, name: str) -> None:
    refuse(rezip(whole.with_name("names.zip"), {**unzip(whole), name: b""}), "no place in a bundle")


def test_no_links(whole: Path) -> None:
    files = unzip(whole)
    with zipfile.ZipFile(whole.with_name("link.zip"), "w") as zipped:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFLNK if name == "tasks.csv" else stat.S_IFREG) << 16
            zipped.writestr(entry, b"/etc/hostname" if name == "tasks.csv" else data)
    refuse(whole.with_name("link.zip"), "a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["header.json", "videos/0000-A.mp4"])
def test_no_name_twice(whole: Path, name: str) -> None:
    with zipfile.ZipFile(whole, "a") as zipped:
        zipped.writestr(name, b"{}")
    refuse(whole, "once, found")


def test_no_other_methods(whole: Path) -> None:
    with zipfile.ZipFile(whole.with_name("lzma.zip"), "w", zipfile.ZIP_LZMA) as zipped:
        zipped.writestr("header.json", unzip(whole)["header.json"])
    refuse(whole.with_name("lzma.zip"), "another method")
    data = bytearray(whole.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1  # the flag of encrypted files
    whole.write_bytes(data)
    refuse(whole, "an encrypted file")


def test_no_bombs(whole: Path) -> None:
    refuse(
        rezip(whole.with_name("bomb.zip"), {**unzip(whole), "report.html": bytes(20 * 2**20)}),
        "grows from",
    )


def test_a_file_that_is_larger_than_it_says(whole: Path) -> None:
    bomb = rezip(whole.with_name("liar.zip"), {**unzip(whole), "report.html": bytes(5 * 2**20)})
    data = bytearray(bomb.read_bytes())
    for header, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.rindex(
            b"report.html", 0, len(data) if offset == 24 else data.index(b"PK\x01\x02")
        )
        start = data.rindex(header, 0, at)
        data[start + offset : start + offset + 4] = struct.pack("<I", 1000)
    bomb.write_bytes(data)
    with zipfile.ZipFile(bomb) as zipped:
        assert zipped.getinfo("report.html").file_size == 1000  # the lie is in place
        with pytest.raises(BundleError, match="damaged"):
            b"".join(chunks(zipped, "report.html"))
    with zipfile.ZipFile(whole) as zipped, pytest.raises(BundleError, match="more than the 10"):
        list(chunks(zipped, "header.json", 10))


def test_a_limit_on_files_and_bytes(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 100)
    refuse(whole, "bytes in a file that may have 100")
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 1000)
    refuse(whole, "at most 20000 files and 1000 bytes")
    monkeypatch.undo()
    data = bytearray(whole.read_bytes())
    data[-12:-10] = struct.pack("<H", 30_000)  # only says so: refused before it is looked up
    whole.write_bytes(data)
    refuse(whole, "table of contents for more")


def test_no_zip64_tables(whole: Path) -> None:
    data = whole.read_bytes()
    locator = b"PK\x06\x07" + bytes(16)
    whole.write_bytes(data[:-22] + locator + data[-22:])
    refuse(whole, "table of contents for more")


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-40], lambda d: d + b"tail", lambda d: b"no zip at all", lambda d: b""]
)
def test_no_damaged_files(whole: Path, damage: Callable[[bytes], bytes]) -> None:
    whole.write_bytes(damage(whole.read_bytes()))
    refuse(whole, "ends with its table of contents")


def with_manifest(path: Path, files: Files) -> Path:
    """A bundle whose maker wrote a manifest that fits these files."""
    manifest = json.loads(files["manifest.json"])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in files.items()
        if name != "manifest.json"
    }
    return rezip(path, {**files, "manifest.json": json.dumps(manifest).encode()})


@pytest.mark.parametrize("key", ["bundle_version", "schema_version"])
def test_no_foreign_versions(whole: Path, key: str) -> None:
    files = unzip(whole)
    manifest = {**json.loads(files["manifest.json"]), key: 2}
    files["manifest.json"] = json.dumps(manifest).encode()
    refuse(rezip(whole, files), "with the calvin-eval that wrote it")


def test_no_foreign_header(whole: Path) -> None:
    files = unzip(whole)
    files["header.json"] = files["header.json"].replace(
        b'"schema_version": 1', b'"schema_version": 9'
    )
    with (
        pytest.raises(RunFolderError, match="expected schema version 1"),
        read_bundle(with_manifest(whole, files)),
    ):
        pass


@pytest.mark.parametrize("name", ["header.json", "meta.json", "manifest.json"])
def test_no_endless_json(whole: Path, name: str) -> None:
    files = {**unzip(whole)}
    deep = b"[" * 200_000
    if name == "manifest.json":
        rezip(whole, {**files, name: deep})
    else:
        with_manifest(whole, {**files, name: deep})
    with pytest.raises(RunFolderError), read_bundle(whole):
        pass


def test_no_false_card(whole: Path) -> None:
    files = unzip(whole)
    files["meta.json"] = files["meta.json"].replace(b'"name"', b'"game"')
    refuse(with_manifest(whole, files), "'name' is a required property")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found nothing at"), read_bundle(tmp_path / "no.zip"):
        pass


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def test_real_actions_pass_the_check() -> None:
    mixed = [np.zeros(7, np.float32), (np.zeros(3), np.zeros(4), 1)]
    check_actions_file(encode_actions([mixed, [], [np.zeros(7)] * 360]), "x")
    check_actions_file(encode_actions([]), "x")


KINDS = np.zeros(1, np.uint8)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz(sub0_actions=np.zeros((600_000, 8)), sub0_kinds=KINDS), "more than the"),
        (npz(sub0_actions=np.zeros((3, 9)), sub0_kinds=KINDS), "7 or 8"),
        (npz(sub0_actions=np.zeros(7), sub0_kinds=KINDS), "7 or 8"),
        (npz(sub0_actions=np.zeros((3, 7), object), sub0_kinds=KINDS), "7 or 8"),
        (npz(sub0_actions=np.zeros((3, 7), complex), sub0_kinds=KINDS), "7 or 8"),
        (npz(sub0_actions=np.zeros((3, 7)), sub0_kinds=np.zeros(1)), "bytes in sub0_kinds"),
        (npz(other=np.zeros((3, 7))), "each once"),
        (npz(sub0_actions=np.zeros((3, 7)), sub0_kinds=KINDS)[:-30], "ends with"),
        (b"", "ends with"),
    ],
)
def test_actions_that_are_none(data: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        check_actions_file(data, "0000.npz")


def test_an_array_that_is_smaller_than_it_says() -> None:
    """NumPy would reserve the memory that the header asks for."""
    plain = io.BytesIO()
    np.lib.format.write_array(plain, np.zeros((3, 7)))
    lie = plain.getvalue().replace(b"(3, 7), }       ", b"(99999999, 7), }")
    assert lie != plain.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        zipped.writestr("sub0_actions.npy", lie)
    with pytest.raises(BundleError, match="99999999"):
        check_actions_file(buffer.getvalue(), "0000.npz")


def test_open_zip_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot read"), open_zip(tmp_path, ALLOWED):
        pass


def test_the_schema_is_one_and_the_card_has_its_fields() -> None:
    schema = model_card_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    ours = {f.name: f.default is MISSING for f in fields(ModelCard) if f.name != "source"}
    assert set(ours) == set(schema["properties"])
    assert {name for name, required in ours.items() if required} == set(schema["required"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name: '' "),
        ({"training_split": "ABC->D"}, "training_split: "),
        ({"parameters": -1}, "parameters: -1"),
        ({"parameters": "7B"}, "parameters: '7B'"),
        ({"parameters": True}, "parameters: True"),
        ({"observation_space": []}, "observation_space: "),
        ({"observation_space": ["a", 3]}, "observation_space.1: 3"),
        ({"links": {"paper": "ftp://x"}}, "links.paper: "),
        ({"links": {"blog": "https://x"}}, "links: .*'blog'"),
        ({"published": "2026-13"}, "published: "),
        ({"submitter": "me"}, "submitter: "),
        ({"color": "red"}, "card: .*'color'"),
    ],
)
def test_cards_that_are_none(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_model_card({**CARD, **change}, "model.yaml")


@pytest.mark.parametrize("data", [None, [], "text", {}])
def test_things_that_are_no_card(data: object) -> None:
    with pytest.raises(UsageError, match="expected a model card"):
        parse_model_card(data, "model.yaml")


def test_a_card_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(
        "name: Reach 2\ntraining_split: ABC_D\nparameters: 2.7e+9\n"
        "observation_space: ['rgb_static 200x200', robot_obs]\naction_space: relative tcp pose\n"
        "licence: MIT\nlinks: {paper: 'https://example.org/paper', code: 'https://example.org/code'}\n",
        encoding="utf-8",
    )
    found = read_model_card(path)
    assert found.parameters == 2_700_000_000
    assert found.observation_space == ("rgb_static 200x200", "robot_obs")
    assert found.short_name == "reach-2"
    assert found.to_json() == {**CARD, "parameters": 2.7e9}
    path.write_text("published: 2026-02-01\nname: [", encoding="utf-8")
    with pytest.raises(UsageError, match="expected YAML"):
        read_model_card(path)
    with pytest.raises(UsageError, match="expected a model card in"):
        read_model_card(tmp_path / "none.yaml")
