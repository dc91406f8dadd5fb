"""Instructions from a pack and from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from calvin_eval.errors import UsageError
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.selection import select
from calvin_eval.sim.symbolic import TASK_NAMES

PACK = {task: [f"please {task}", "something else"] for task in TASK_NAMES}
FIRST = {task: f"please {task}" for task in TASK_NAMES}
DRAWN = ["35", "43", "26", "43", "45", "18", "6", "21", "47", "24"]
ENRICHED = [[f"chain {i} position {k}" for k in range(5)] for i in range(3)]


def write(path: Path, content: Any) -> Path:
    dump = json.dumps if path.suffix == ".json" else yaml.safe_dump
    path.write_text(dump(content), encoding="utf-8")
    return path


def test_pack_gives_the_first_sentence() -> None:
    instructions = load_instructions("pack", PACK)
    assert instructions.name == "pack"
    assert instructions.text("open_drawer", 7, 3) == "please open_drawer"
    instructions.require(load_chains("official"))


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize("content", [PACK, FIRST], ids=["lists", "sentences"])
def test_file_by_task(tmp_path: Path, suffix: str, content: Any) -> None:
    path = write(tmp_path / f"mine{suffix}", content)
    instructions = load_instructions(str(path), {})
    assert instructions.name == path.name
    assert instructions.text("stack_block", 0, 0) == "please stack_block"
    assert instructions.sha256 == load_instructions("pack", PACK).sha256


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
@pytest.mark.parametrize(
    "content",
    [ENRICHED, dict(enumerate(ENRICHED)), {str(i): x for i, x in enumerate(ENRICHED)}],
    ids=["list", "numbers", "texts"],
)
def test_file_by_chain_and_position(tmp_path: Path, suffix: str, content: Any) -> None:
    instructions = load_instructions(write(tmp_path / f"mine{suffix}", content), PACK)
    assert instructions.text("whatever", 2, 4) == "chain 2 position 4"
    assert instructions.sha256 == load_instructions(write(tmp_path / "b.json", ENRICHED), {}).sha256


def test_the_hash_covers_the_sentences() -> None:
    other = {**PACK, "open_drawer": ["pull"]}
    hashes = {load_instructions("pack", p).sha256 for p in (PACK, other, FIRST)}
    assert len(hashes) == 2


def test_sentences_are_kept_as_they_are(tmp_path: Path) -> None:
    odd = [[" two\nlines ", "\u2019t", "c", "d", "e"]]
    instructions = load_instructions(write(tmp_path / "mine.json", odd), {})
    assert instructions.text("t", 0, 0) == " two\nlines "
    assert instructions.text("t", 0, 1) == "\u2019t"


def test_too_few_chains_are_named(tmp_path: Path) -> None:
    instructions = load_instructions(write(tmp_path / "mine.json", ENRICHED), PACK)
    official = load_chains("official")
    instructions.require(select(official, num_chains=3))
    with pytest.raises(UsageError, match=r"missing for 997 chains: 3, 4, 5, 6, 7 and 992 more"):
        instructions.require(official)
    with pytest.raises(UsageError, match="chain 3, position 0; found 0"):
        instructions.text("open_drawer", 3, 0)


def test_too_few_positions_are_named(tmp_path: Path) -> None:
    instructions = load_instructions(write(tmp_path / "mine.json", {"1": ["a", "b"]}), PACK)
    with pytest.raises(UsageError, match="missing for 1 chains: 1"):
        instructions.require([load_chains("official")[1]])
    for position in (2, -1):
        with pytest.raises(UsageError, match=f"position {position}; found 2"):
            instructions.text("open_drawer", 1, position)


def test_the_first_line_of_a_sentence(tmp_path: Path) -> None:
    two = [["hit the button. \n\nTurn on the LED", "\n b\r\nc", "d\n", "e", "f"]]
    path = write(tmp_path / "mine.json", two)
    whole, first = load_instructions(path, {}), load_instructions(path, {}, lines="first")
    assert whole.by_chain[0][0] == two[0][0]
    assert first.by_chain[0] == ("hit the button. ", " b", "d", "e", "f")
    assert whole.sha256 != first.sha256
    (remark,) = whole.remarks()
    assert "2 sentences have several lines" in remark
    assert "protocol.instruction_lines=first" in remark
    assert first.remarks() == []


def test_one_of_many_sentences_is_drawn_by_seed_chain_and_position() -> None:
    many = {task: [f"{task} {i}" for i in range(8)] for task in TASK_NAMES}
    drawn = load_instructions("pack", many, draw=3)
    told = [drawn.text("open_drawer", chain, k) for chain in range(40) for k in range(5)]
    assert set(told) == set(many["open_drawer"])
    assert len({*told[:5]}) > 1
    again = load_instructions("pack", many, draw=3)
    assert [again.text("open_drawer", i // 5, i % 5) for i in range(200)] == told
    other = load_instructions("pack", many, draw=4)
    assert [other.text("open_drawer", i // 5, i % 5) for i in range(200)] != told
    assert len({drawn.sha256, other.sha256, load_instructions("pack", many).sha256}) == 3
    assert drawn.remarks() == []


def test_the_drawn_sentences_are_always_the_same_ones() -> None:
    """A draw is part of a published result, so no version may change it."""
    many = {task: [f"{i}" for i in range(49)] for task in TASK_NAMES}
    drawn = load_instructions("pack", many, draw=0)
    told = [drawn.text("open_drawer", chain, k) for chain in (0, 999) for k in range(5)]
    assert told == DRAWN


def test_a_draw_from_one_sentence_each_is_none() -> None:
    assert load_instructions("pack", FIRST, draw=5).sha256 == load_instructions("pack", PACK).sha256


def test_sentences_that_are_not_used_are_mentioned() -> None:
    (remark,) = load_instructions("pack", {**PACK, "open_drawer": list("abcd")}).remarks()
    assert "up to 3 more per task are not; protocol.instruction_draw=SEED" in remark
    assert load_instructions("pack", FIRST).remarks() == []


def test_sentences_per_chain_are_not_drawn(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", ENRICHED)
    with pytest.raises(UsageError, match=r"leave protocol\.instruction_draw out"):
        load_instructions(path, PACK, draw=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"chain_list": "dev"}, r"expected \{chain_list: NAME, sentences: ...\}"),
        ({"chain_list": 3, "sentences": ENRICHED}, "found chain_list '3'"),
        ({"chain_list": "dev", "sentences": ENRICHED, "x": 1}, "the keys chain_list, sentences, x"),
        ({"chain_list": "dev", "sentences": FIRST}, "expected sentences by chain id beside"),
        ({"chain_list": "dev", "sentences": []}, "expected a non-empty mapping"),
    ],
)
def test_a_wrong_file_for_another_chain_list(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_instructions(write(tmp_path / "mine.json", content), PACK)


def without(*tasks: str) -> dict[str, Any]:
    return {task: text for task, text in FIRST.items() if task not in tasks}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("open_drawer", "turn_on_led"), "missing: open_drawer, turn_on_led"),
        ({**FIRST, "open_draw": "x"}, "unknown task .*Did you mean 'open_drawer'"),
        ({**FIRST, "open_drawer": 3}, "open_drawer: expected a sentence, found 3"),
        ({**FIRST, "open_drawer": []}, r"open_drawer: expected a sentence, found \[\]"),
        ({**FIRST, "open_drawer": [" "]}, "open_drawer: expected a sentence, found ' '"),
        ([], "expected a non-empty mapping"),
        ({}, "expected a non-empty mapping"),
        ("text", "expected a non-empty mapping"),
        ([ENRICHED[0], "x"], "chain 1: expected a list with a sentence per subtask, found 'x'"),
        ([ENRICHED[0], ["a", 2]], "chain 1, position 1: expected a sentence, found 2"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_instructions(write(tmp_path / "mine.json", content), PACK)


def test_a_pack_with_missing_tasks_is_explained() -> None:
    with pytest.raises(UsageError, match=r"pack: .*missing: open_drawer"):
        load_instructions("pack", without("open_drawer"))


def test_a_missing_file_is_explained() -> None:
    with pytest.raises(UsageError, match="found none there; use 'pack'"):
        load_instructions("nowhere.yaml", PACK)


@pytest.mark.parametrize(("name", "text"), [("a.json", "[1,"), ("a.yaml", "a: [")])
def test_an_unreadable_file_is_explained(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="expected YAML or JSON"):
        load_instructions(tmp_path / name, PACK)
