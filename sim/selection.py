"""Which chains of a list are run: by number, by id, by shard."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from calvin_eval.errors import UsageError
from calvin_eval.sim.chains import Chain, ChainList


def parse_selection(text: str, total: int) -> tuple[int, ...]:
    """Reads a selection of chain ids such as "3,17,40-49".

    Args:
        text: ids and ranges, both ends included, separated by commas.
        total: length of the chain list; ids run from 0 to total - 1.

    Returns:
        The ids in ascending order, each once.

    Raises:
        UsageError: if the text cannot be read or an id is not in the list.
    """
    ids: set[int] = set()
    for first, last in parse_ranges(text, "chain selection"):
        _check_ids((first, last), total)
        ids.update(range(first, last + 1))
    return tuple(sorted(ids))


def parse_ranges(text: str, what: str) -> Iterator[tuple[int, int]]:
    """Reads numbers and ranges such as "3,17,40-49", both ends included.

    Args:
        text: the numbers.
        what: they are, for messages.

    Raises:
        UsageError: if the text cannot be read.
    """
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-", 1)]
        if not all(end.isascii() and end.isdigit() for end in ends):
            raise UsageError(
                f"{what} {text!r}: expected ids and ranges such as 3,17,40-49, "
                f"found {part.strip()!r}"
            )
        first, last = int(ends[0]), int(ends[-1])
        if first > last:
            raise UsageError(
                f"{what} {text!r}: expected a range from low to high, "
                f"found {part.strip()!r}; did you mean {last}-{first}?"
            )
        yield first, last


def _check_ids(ids: Iterable[int], total: int) -> None:
    """Raises if a chain id is not in a list of `total` chains."""
    for i in ids:
        if not 0 <= i < total:
            raise UsageError(f"chain {i}: expected an id from 0 to {total - 1} (the list's last)")


def parse_shard(text: str) -> tuple[int, int]:
    """Reads a shard "i/n"; raises UsageError unless 1 <= i <= n."""
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"expected shard to be i/n with 1 <= i <= n; found {text!r}")
    return int(match[1]), int(match[2])


def select(
    chain_list: ChainList,
    num_chains: int | None = None,
    selection: str | Sequence[int] | None = None,
    shard: str | None = None,
) -> tuple[Chain, ...]:
    """Returns some chains of a list; their ids stay those of the whole list.

    Args:
        chain_list: the list.
        num_chains: take the first so many chains; all if neither this nor `selection` is given.
        selection: take these ids, as a text for `parse_selection` or as numbers.
        shard: "i/n": of the chains so chosen take every n-th, beginning with the i-th.

    Raises:
        UsageError: if both a number and ids are given, or the list does not have the chains that
            are asked for, or the shard is empty.
    """
    chains = _choose(chain_list, num_chains, selection)
    if shard is None:
        return chains
    i, n = parse_shard(shard)
    if i > len(chains):
        raise UsageError(
            f"shard {shard} is empty: expected at most {len(chains)} shards, as many as there are "
            "chains to run"
        )
    return chains[i - 1 :: n]


def _choose(
    chain_list: ChainList, num_chains: int | None, selection: str | Sequence[int] | None
) -> tuple[Chain, ...]:
    """Returns the first chains of a list, those with the given ids, or all of them."""
    if selection is not None:
        if num_chains is not None:
            raise UsageError("expected a number of chains or a selection of ids, found both")
        if isinstance(selection, str):
            selection = parse_selection(selection, len(chain_list))
        if not selection:
            raise UsageError("chain selection: expected at least one id, found none")
        _check_ids(selection, len(chain_list))
        return tuple(chain_list[i] for i in sorted(set(selection)))
    if num_chains is None:
        return chain_list.chains
    if not 1 <= num_chains <= len(chain_list):
        raise UsageError(
            f"number of chains: expected 1 to {len(chain_list)} "
            f"(the length of chain list {chain_list.name!r}), found {num_chains}"
        )
    return chain_list.chains[:num_chains]
