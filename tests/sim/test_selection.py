"""Which chains of a list are run."""

from __future__ import annotations

from typing import Any

import pytest

from calvin_eval.errors import UsageError
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.selection import parse_selection, parse_shard, select


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("3", (3,)),
        ("3,17,40-42", (3, 17, 40, 41, 42)),
        ("42, 40 - 41 ,3,3", (3, 40, 41, 42)),
        ("0-99", tuple(range(100))),
    ],
)
def test_selection(text: str, ids: tuple[int, ...]) -> None:
    assert parse_selection(text, 100) == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected ids and ranges such as 3,17,40-49, found ''"),
        ("3,", "found ''"),
        ("3,x", "found 'x'"),
        ("-3", "found '-3'"),
        ("1-2-3", "found '1-2-3'"),
        ("9-3", "did you mean 3-9"),
        ("100", "chain 100: expected an id from 0 to 99"),
        ("0-100", "chain 100: expected an id from 0 to 99"),
    ],
)
def test_a_wrong_selection_is_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_selection(text, 100)


def test_a_number_of_chains_is_a_prefix() -> None:
    official = load_chains("official")
    assert select(official) == official.chains
    assert select(official, num_chains=100) == official.chains[:100]
    assert select(official, num_chains=1000) == official.chains


def test_selected_chains_keep_their_ids() -> None:
    official = load_chains("official")
    assert [c.id for c in select(official, selection="40-41,3")] == [3, 40, 41]
    assert [c.id for c in select(official, selection=[7, 5, 7])] == [5, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_chains": 0}, "expected 1 to 1000 .*'official'.*, found 0"),
        ({"num_chains": 1001}, "found 1001"),
        ({"num_chains": 3, "selection": "1"}, "found both"),
        ({"selection": [1000]}, "chain 1000: expected an id from 0 to 999"),
        ({"selection": [-1]}, "chain -1: expected an id from 0 to 999"),
        ({"selection": []}, "at least one id"),
    ],
)
def test_a_wrong_choice_is_explained(arguments: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select(load_chains("official"), **arguments)


def test_shards_deal_the_chosen_chains() -> None:
    official = load_chains("official")
    shards = [select(official, selection="2-8", shard=f"{i}/3") for i in (1, 2, 3)]
    assert [[chain.id for chain in shard] for shard in shards] == [[2, 5, 8], [3, 6], [4, 7]]
    with pytest.raises(UsageError, match="shard 3/9 is empty: expected at most 2 shards"):
        select(official, num_chains=2, shard="3/9")


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/2/3", "a/b", "", "1/" + "9" * 5000])
def test_a_wrong_shard_is_explained(text: str) -> None:
    with pytest.raises(UsageError, match="i/n with 1 <= i <= n"):
        parse_shard(text)
