"""Checkpoint cards: what is on them, and what they say about another machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from calvin_eval.cli.card import card as card_command
from calvin_eval.errors import RunFolderError
from calvin_eval.protocol import BENCHMARK
from calvin_eval.results.card import Card, check_card, make_card, read_card
from calvin_eval.results.comparability import policy_sha256
from calvin_eval.results.header import Header
from calvin_eval.results.metrics import summarize
from calvin_eval.results.schema import ChainRecord
from handmade import Change, document_of, record, write_run

LENGTHS = [(7 * k) % 6 for k in range(80)]
RECORDS = [record(chain, n) for chain, n in enumerate(LENGTHS)]


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return make_card(write_run(tmp_path / "run", RECORDS))


def test_a_card_holds_score_protocol_and_the_first_fifty_chains(card: Card) -> None:
    summary = summarize(RECORDS, 80)
    assert card.score.average_length == summary.average_length == sum(LENGTHS) / 80
    assert summary.average_length_interval is not None
    assert card.score.average_length_interval == vars(summary.average_length_interval)
    assert card.score.chains == 80
    assert card.lengths == tuple(LENGTHS.count(n) for n in range(6))
    assert [chain.chain for chain in card.chains] == list(range(50))
    third = card.chains[3]
    assert (third.length, third.steps) == (3, (9, 10, 11, 12))
    assert third.state_hash == "3-3-9"
    assert card.protocol["assets.fingerprint"] == BENCHMARK.pack
    assert card.protocol["chains.sha256"] == BENCHMARK.chain_list
    assert card.protocol["instructions.sha256"] == BENCHMARK.instructions
    assert card.protocol["protocol.steps"] == 360
    assert (card.protocol["revision"], card.protocol["renderer.backend"]) == ("pinned", "egl")


def test_the_first_fifty_are_those_of_the_list(tmp_path: Path) -> None:
    planned = list(range(80))[::-1]
    card = make_card(write_run(tmp_path / "run", RECORDS, planned=planned))
    assert [chain.chain for chain in card.chains] == planned[:50]
    few = make_card(write_run(tmp_path / "few", RECORDS[:7]))
    assert len(few.chains) == 7


def test_a_card_survives_its_file(card: Card, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = CliRunner().invoke(card_command, [str(run)])
    assert done.exit_code == 0, done.exception
    assert read_card(run / "card.json") == card
    assert len((run / "card.json").read_bytes()) < 30_000
    assert str(tmp_path) not in (run / "card.json").read_text()
    other = CliRunner().invoke(card_command, [str(run), "-o", str(tmp_path / "mine.json")])
    assert other.exit_code == 0
    assert (tmp_path / "mine.json").read_bytes() == (run / "card.json").read_bytes()
    printed = CliRunner().invoke(card_command, [str(run), "-o", "-"])
    assert json.loads(printed.stdout) == json.loads((run / "card.json").read_text())


def test_an_incomplete_run_has_no_card(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", RECORDS, planned=range(81))
    with pytest.raises(RunFolderError, match="found 80 of 81 chains completed"):
        make_card(run)
    broken = [*RECORDS[:5], record(5, 2, error=True)]
    with pytest.raises(RunFolderError, match="found 5 of 6"):
        make_card(write_run(tmp_path / "broken", broken))


def test_an_equal_machine_reproduces_a_card(card: Card) -> None:
    check = check_card(card, RECORDS[:50][::-1])
    assert check.identical
    assert not check.more_than_chance
    assert (check.compared, check.difference, check.p) == (50, 0.0, 1.0)
    assert str(check) == "reproduced: 50 chains are identical, to the last state"


def test_a_last_state_that_differs_is_seen(card: Card) -> None:
    changed = [*RECORDS[:50]]
    changed[4] = record(4, LENGTHS[4], steps=10)
    check = check_card(card, changed)
    assert not check.identical
    assert not check.more_than_chance
    assert [(a.chain, b.steps[0]) for a, b in check.differing] == [(4, 10)]
    assert check.flipped == 0
    assert "reproduced but for chance: 1 of 50 chains differ, 0 in length" in str(check)
    assert "chain 4: card 4 done in 55 steps, state 4-4-9; here 4 done in 60" in str(check)


def test_flips_to_both_sides_are_chance_and_to_one_side_are_not(card: Card) -> None:
    def with_lengths(change: Callable[[int, int], int]) -> list[ChainRecord]:
        return [record(k, change(k, n)) for k, n in enumerate(LENGTHS[:50])]

    both = check_card(card, with_lengths(lambda k, n: [n, min(n + 1, 5), max(n - 1, 0)][k % 3]))
    assert both.flipped > 20
    assert not both.more_than_chance
    worse = check_card(card, with_lengths(lambda k, n: max(n - 1, 0) if k < 12 else n))
    assert worse.flipped == 10
    assert worse.more_than_chance
    assert worse.p == pytest.approx(2 / 2**10)
    assert worse.difference == pytest.approx(-10 / 50)
    assert str(worse).startswith("not reproduced: 10 of 50 chains differ, 10 in length")
    assert worse.to_json()["differing"][0]["card"]["chain"] == 1


def test_missing_and_broken_chains_are_not_reproduced(card: Card) -> None:
    check = check_card(card, [*RECORDS[:9], record(9, 0, error=True), record(70, 0)])
    assert (check.compared, check.missing) == (9, tuple(range(9, 50)))
    assert not check.identical
    assert "41 chains of the card are not completed here" in str(check)
    nothing = check_card(card, [])
    assert (nothing.difference, nothing.identical) == (None, False)
    assert "none of the card's 50 chains" in str(nothing)


def test_another_policy_or_protocol_is_named(card: Card) -> None:
    header = Header.from_json(document_of())
    assert card.differences(header) == ()
    moved = {"ckpt": "/elsewhere/p.pt", "torch": "2.13", "description": "moved"}
    assert card.differences(Header.from_json(document_of(policy=moved))) == ()
    other = document_of(policy={**moved, "sha256": "8" * 64}, revision="head")
    other["config"]["sim"]["revision"] = "head"
    found = card.differences(Header.from_json(other))
    assert [d.key for d in found] == ["policy", "revision"]
    assert found[0].one == policy_sha256(header)


DAMAGE: Mapping[str, tuple[Change, str]] = {
    "other": (lambda c: c.update(kind="report"), "found another JSON file"),
    "newer": (lambda c: c.update(schema_version=2), "schema version 1, found 2"),
    "no chains": (
        lambda c: c.pop("chains"),
        "damaged checkpoint card: expected chains to be a list; found nothing",
    ),
    "empty": (lambda c: c.update(chains=[]), "one or more chains"),
    "negative": (lambda c: c["lengths"].append(-1), r"lengths\[6\] to be .* from 0 up; found -1"),
    "twice": (lambda c: c["chains"].append(c["chains"][0]), "each once"),
    "length": (
        lambda c: c["chains"][0].update(length="3"),
        r"chains\[0\].length to be a whole number; found '3'",
    ),
    "hash": (lambda c: c.update(policy_sha256="12"), "64 hexadecimal digits; found '12'"),
    "score": (
        lambda c: c["score"].update(average_length=None),
        "score.average_length to be a number; found None",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_card_is_refused(card: Card, tmp_path: Path, name: str) -> None:
    change, message = DAMAGE[name]
    data = json.loads(json.dumps(card.to_json()))
    change(data)
    path = tmp_path / "card.json"
    path.write_text(json.dumps(data))
    with pytest.raises(RunFolderError, match=message):
        read_card(path)


def test_no_card_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"expected a checkpoint card at .*nothing\.json"):
        read_card(tmp_path / "nothing.json")
    (tmp_path / "text").write_text("3.5")
    with pytest.raises(RunFolderError, match="found another JSON file"):
        read_card(tmp_path / "text")
    for torn in ("{", "[" * 100_000):
        (tmp_path / "torn").write_text(torn)
        with pytest.raises(RunFolderError, match="expected a checkpoint card: "):
            read_card(tmp_path / "torn")
