"""The ledger of claims: no fact of a run that nobody has thought of, and none that is not told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.config.compose import compose_config
from calvin_eval.protocol import RULES
from calvin_eval.results.bundle import MANIFEST
from calvin_eval.results.header import Header
from calvin_eval.results.ledger import LEDGER, treatment_of
from calvin_eval.results.schema import ChainRecord, SubtaskRecord
from calvin_eval.results.typed import json_schema

DOCS = Path(__file__).resolve().parents[2] / "docs" / "verify.md"
FILES = [
    "summary.json", "results.json", "profile.json", "tasks.csv", "meta.json",
]  # fmt: skip


def leaves_of_schema(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Paths of all values that a schema names."""
    inner = next((s for s in [schema, *schema.get("anyOf", ())] if "properties" in s), None)
    if inner is None:
        yield path
        return
    for key, value in inner["properties"].items():
        yield from leaves_of_schema(value, f"{path}.{key}" if path else key)


def leaves(value: Any, path: str) -> Iterator[str]:
    """Paths of all values in JSON; an empty object is one."""
    if not isinstance(value, dict) or not value:
        yield path
        return
    for key, inner in value.items():
        yield from leaves(inner, f"{path}.{key}")


def facts() -> list[str]:
    header = set(leaves_of_schema(json_schema(Header))) - {"config.protocol"}
    config = compose_config([], {"ckpt": "builtin:random"}).decisive()
    rules = {f"config.{rule.section}.{name}" for name, rule in RULES.items()}
    records = {f"record.{f.name}" for f in fields(ChainRecord)} - {"record.subtasks"}
    subtasks = {f"record.subtasks.{f.name}" for f in fields(SubtaskRecord)}
    return sorted({*header, *leaves(config, "config"), *rules, *records, *subtasks, *FILES})


@pytest.mark.parametrize("fact", facts())
def test_every_fact_is_in_the_ledger(fact: str) -> None:
    assert treatment_of(fact) is not None, f"say in results/ledger.py how {fact} is checked"


def test_what_is_no_fact_of_a_run() -> None:
    assert treatment_of(MANIFEST) is None
    assert treatment_of("config.protocol.unheard_of") is None


def test_no_fact_is_named_twice() -> None:
    named = [fact for entry in LEDGER for fact in entry.facts]
    assert len(named) == len(set(named))


@pytest.mark.parametrize("entry", LEDGER, ids=lambda entry: entry.facts[0])
def test_the_docs_have_the_ledger(entry: Any) -> None:
    """As rows of a table: facts, treatment, reason."""
    named = ", ".join(f"`{fact}`" for fact in entry.facts)
    assert f"| {named} | {entry.treatment} | {entry.why} |" in DOCS.read_text(encoding="utf-8")
