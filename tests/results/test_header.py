"""Headers: those of real runs, what is refused and how, and the published schema."""

from __future__ import annotations

import json
import runpy
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.protocol import OFFICIAL, RealTime
from calvin_eval.results.header import SAME_RUN, Header
from calvin_eval.results.store import RunFolder
from handmade import document_of

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
STORED = sorted([*(TESTS / "golden").glob("schema_*/header.json"),
                 *(TESTS / "golden" / "headers").glob("*.json")])  # fmt: skip
SCHEMA = json.loads((ROOT / "results" / "header.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
MISSING = object()


def changed(path: str, value: object, document: dict[str, Any]) -> dict[str, Any]:
    """A copy with another value, or with none, at a path with dots."""
    copy = deepcopy(document)
    *sections, name = path.split(".")
    tree = copy
    for section in sections:
        tree = tree[section]
    if value is MISSING:
        del tree[name]
    else:
        tree[name] = value
    return copy


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_real_headers_are_read_and_follow_the_schema(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    header = Header.from_json(document, str(path))
    assert list(VALIDATOR.iter_errors(document)) == []
    assert header.document == document
    assert header.chains.sha256 == document["chains"]["sha256"]
    assert list(header.planned) == document["chains"]["planned"]
    assert header.protocol.steps == document["config"]["protocol"]["steps"]
    assert header.verdict is not None
    assert header.verdict.to_json() == document["verdict"]
    assert set(SAME_RUN) < set(document)


def test_what_real_headers_hold() -> None:
    headers = {path.stem: Header.from_json(json.loads(path.read_text())) for path in STORED}
    assert headers["waits"].protocol == replace(OFFICIAL, steps=12, num_chains=3)
    going = headers["realtime"].protocol
    assert (going.realtime, going.leftover) == (RealTime(latency=2), "keep")
    assert headers["realtime"].scene == "A"
    assert headers["merged"].config.shard is None
    assert [shard["shard"] for shard in headers["merged"].merged_from] == ["1/2", "2/2"]
    assert headers["single"].chains.list == "single:1:open_drawer"
    assert headers["seen"].policy.requirements.rgb == ("static", "gripper")
    assert headers["seen"].renderer.fidelity


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", document_of(chains={"planned": [4, 2]}))
    header = folder.header()
    assert header.planned == (4, 2)
    assert (header.schema_version, header.status) == (1, "started")
    assert header.run_id is not None
    other = RunFolder.create(tmp_path / "other", document_of())
    assert other.header().run_id != header.run_id
    folder.update_header(status="finished", resumed_utc="2030-01-01T00:00:00+00:00")
    assert folder.header().run_id == header.run_id


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("config.ckpt", 3, "expected config.ckpt to be text; found 3"),
        ("config", None, "expected config to be an object; found None"),
        ("config.sim.backend", "bullet", "config.sim.backend to be one of calvin_eval, calvin_env"),
        ("config.protocol.steps", 0, "protocol.steps to be a whole number from 1 up; found 0"),
        ("config.protocol.steps", MISSING, "expected protocol.steps, found nothing there"),
        ("config.sim.deterministic", "no", "sim.deterministic to be true or false; found 'no'"),
        ("scene", "E", "expected scene to be one of A, B, C, D; found 'E'"),
        ("revision", "head", "revision to be pinned, as config.sim.revision; found 'head'"),
        ("revision", "new", "expected revision to be one of pinned, head; found 'new'"),
        ("chains.planned", {}, "expected chains.planned to be a list; found {}"),
        ("chains.planned", [0, "1"], "expected chains.planned[1] to be a whole number; found '1'"),
        ("chains.planned", [True], "expected chains.planned[0] to be a whole number; found True"),
        ("chains.planned", [0, -1], "chains.planned[1] to be a whole number from 0 up; found -1"),
        ("chains.sha256", MISSING, "expected chains.sha256 to be text; found nothing"),
        ("policy.requirements.sizes", {"static": [1]}, "sizes.static to be a list of 2; found [1]"),
        ("renderer.options", [], "expected renderer.options to be an object; found []"),
        ("provenance.git", {"revision": "1"}, "provenance.git.dirty to be true or false"),
        ("status", "lost", "status to be one of started, finished, interrupted, error"),
        (
            "verdict",
            {"official": 1, "reasons": []},
            "verdict.official to be true or false; found 1",
        ),
        ("assets.name", "x" * 100, None),
        ("assets.name", ["x" * 100], f"found ['{'x' * 58}…"),
    ],
)
def test_an_impossible_entry_is_named(path: str, value: object, message: str | None) -> None:
    document = changed(path, value, document_of())
    if message is None:
        Header.from_json(document)
        return
    with pytest.raises(RunFolderError) as caught:
        Header.from_json(document, "runs/mine/header.json")
    said = str(caught.value)
    assert message in said
    assert said.startswith("runs/mine/header.json: ")
    assert said.endswith("read it with calvin-eval 0.1.0.")


def test_a_header_of_nothing_says_so() -> None:
    with pytest.raises(RunFolderError, match=r"schema_version to be a whole number.*that one"):
        Header.from_json({})


def shown(value: object) -> str:
    return "missing" if value is MISSING else repr(value)


def leaves(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return [prefix]
    inner = [path for key, value in tree.items() for path in leaves(value, f"{prefix}.{key}")]
    return [*([prefix] if prefix else []), *inner]


@pytest.mark.slow
@pytest.mark.parametrize("value", [None, "text", -1, 0.5, True, [], {}, ["a"], MISSING], ids=shown)
def test_the_schema_takes_what_the_reader_takes_and_nothing_else(value: object) -> None:
    """Every entry of a real header, replaced by a value of every kind."""
    document = json.loads((TESTS / "golden" / "headers" / "seen.json").read_text())
    paths = [path.removeprefix(".") for path in leaves(document)]
    paths.remove("schema_version")  # `check_version` looks at that one
    for path in paths:
        broken = changed(path, value, document)
        try:
            Header.from_json(broken)
            fine = True
        except RunFolderError:
            fine = False
        assert fine == VALIDATOR.is_valid(broken), f"{path}: {value!r}"


def test_the_published_schema_is_that_of_the_reader() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "header_schema.py"))
    assert script["header_schema"]() == SCHEMA, "run python -m tools.header_schema"


def test_the_documentation_names_every_entry() -> None:
    page = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
    for entry in SCHEMA["properties"]:
        assert f"`{entry}`" in page, entry


def test_the_schema_says_what_every_entry_is() -> None:
    def nameless(tree: Any, path: str = "") -> list[str]:
        found = []
        for name, entry in (tree.get("properties") or {}).items():
            found += [] if entry.get("description") else [f"{path}.{name}"]
            for inner in (entry, *entry.get("anyOf", ())):
                found += nameless(inner, f"{path}.{name}")
        return found

    assert nameless(SCHEMA) == []
    assert "EGL" in SCHEMA["properties"]["renderer"]["properties"]["fidelity"]["description"]
