"""A checkpoint's card: what a run of it gave, small enough to be published beside it.

It holds the score with its interval, the hashes of the protocol, and the outcome of the first
chains, down to the hash of the last state. Whoever has the checkpoint runs these chains first
and knows within minutes whether their machine gives the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.checks import Natural
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.protocol import BENCHMARK
from calvin_eval.results import typed
from calvin_eval.results.comparability import (
    Difference,
    differing,
    policy_line,
    policy_sha256,
    protocol_facts,
)
from calvin_eval.results.conclude import summarize_run
from calvin_eval.results.header import Header
from calvin_eval.results.metrics import completed_chains
from calvin_eval.results.paired import sign_flip_test
from calvin_eval.results.published import refuse_published
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder

SCHEMA = 1
"""Version of the card's JSON form."""

MOST_CHAINS, MOST_LENGTHS = 1_000_000, 100
KIND = "calvin-eval checkpoint card"
CHAINS = 50
"""How many chains a card holds."""

CHANCE = 0.05
"""P-values below this are more than chance."""

_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class CardChain:
    """How one chain went.

    Attributes:
        chain: its id.
        length: tasks done in a row.
        steps: of every subtask that was tried.
        state_hash: of the simulator's last state.
    """

    chain: Natural
    length: Natural
    steps: tuple[Natural, ...]
    state_hash: str

    @classmethod
    def of(cls, record: ChainRecord) -> CardChain:
        """Of a completed record."""
        return cls(
            chain=record.chain,
            length=record.length,
            steps=tuple(subtask.steps for subtask in record.subtasks),
            state_hash=record.subtasks[-1].state_hash,
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """The metrics of a card.

    Attributes:
        average_length: mean number of tasks done in a row.
        average_length_interval: its 95 % interval; None if there is none.
        success_rates: by number of tasks in a row, 1 to 5.
        chains: that these are of.
    """

    average_length: float
    average_length_interval: Mapping[str, float] | None
    success_rates: Mapping[str, float]
    chains: Natural


@dataclass(frozen=True, kw_only=True)
class Card:
    """A checkpoint's card.

    Attributes:
        policy: one line about it.
        policy_sha256: of its file hash, options and seed.
        score: of all chains of the run.
        lengths: how many chains had length 0, 1, ...
        protocol: assets, revision, renderer and rules, see `protocol_facts`.
        chains: the first chains of the list.
    """

    policy: str
    policy_sha256: str
    score: Score
    lengths: tuple[Natural, ...]
    protocol: Mapping[str, Any]
    chains: tuple[CardChain, ...]

    def __post_init__(self) -> None:
        """Raise UsageError unless the hash is one, and every chain is there once."""
        if not _SHA256.fullmatch(self.policy_sha256):
            raise UsageError(
                f"expected policy_sha256 to be 64 hexadecimal digits; found {self.policy_sha256!r}"
            )
        ids = [chain.chain for chain in self.chains]
        if not ids or len({*ids}) < len(ids) or not sum(self.lengths):
            raise UsageError("expected one or more chains, each once")
        if len(self.lengths) > MOST_LENGTHS or sum(self.lengths) > MOST_CHAINS:
            raise UsageError(
                f"expected lengths of at most {MOST_CHAINS} chains, found {self.lengths!r:.60}"
            )

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"kind": KIND, "schema_version": SCHEMA, **asdict(self)}

    def differences(self, header: Header) -> tuple[Difference, ...]:
        """In what the card's policy and protocol, first, and those of a run's header differ."""
        mine = {"policy": self.policy_sha256, **self.protocol}
        return differing(mine, {"policy": policy_sha256(header), **protocol_facts(header)})


@dataclass(frozen=True, kw_only=True)
class CardCheck:
    """A card compared with records of this machine.

    Attributes:
        compared: chains that are on the card and completed here.
        missing: ids of those on the card that are not completed here.
        differing: on the card, and here, where these are not the same.
        flipped: how many of these have another length.
        difference: of the average lengths, here less card; None without a common chain.
        p: of so great a difference by chance, by the exact sign-flip test.
    """

    compared: int
    missing: tuple[int, ...]
    differing: tuple[tuple[CardChain, CardChain], ...]
    flipped: int
    difference: float | None
    p: float

    @property
    def identical(self) -> bool:
        """Whether all chains of the card went exactly the same way here."""
        return not self.missing and not self.differing

    @property
    def more_than_chance(self) -> bool:
        """Whether the average length differs by more than chance."""
        return self.p < CHANCE

    def __str__(self) -> str:
        """The result for the user, in a few lines."""
        if self.difference is None:
            return f"none of the card's {len(self.missing)} chains is completed here"
        lines = [self._headline()]
        if self.missing:
            lines.append(f"{len(self.missing)} chains of the card are not completed here")
        for card, here in self.differing:
            lines.append(f"chain {card.chain}: card {_describe(card)}; here {_describe(here)}")
        return "\n".join(lines)

    def _headline(self) -> str:
        if not self.differing:
            return f"reproduced: {self.compared} chains are identical, to the last state"
        differ = f"{len(self.differing)} of {self.compared} chains differ, {self.flipped} in length"
        spread = f"average length {self.difference:+.3f}, p = {self.p:.2g}"
        if self.more_than_chance:
            return f"not reproduced: {differ}; {spread}, which is more than chance"
        return f"reproduced but for chance: {differ}; {spread}"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "compared": self.compared,
            "missing": list(self.missing),
            "identical": self.identical,
            "more_than_chance": self.more_than_chance,
            "flipped": self.flipped,
            "difference": self.difference,
            "p": self.p,
            "differing": [{"card": asdict(a), "here": asdict(b)} for a, b in self.differing],
        }


def make_card(run: str | os.PathLike[str], chains: int = CHAINS) -> Card:
    """The card of a complete run.

    Args:
        run: its folder.
        chains: how many of its first chains the card holds, if it has so many.

    Raises:
        RunFolderError: it is no run, or not every planned chain is completed.
    """
    folder = RunFolder.open(run)
    header, records = folder.header(), folder.records()
    summary = summarize_run(header, records)
    if not summary.complete:
        raise RunFolderError(
            f"{folder.path}: expected a complete run for a card, found {summary.completed} of "
            f"{summary.planned} chains completed. Complete it with --resume."
        )
    done = {record.chain: record for record in completed_chains(records)}
    lengths = np.bincount(
        [record.length for record in done.values()], minlength=BENCHMARK.chain_length + 1
    )
    rates = summary.success_rates or {}
    spread = summary.average_length_interval
    return Card(
        policy=policy_line(header),
        policy_sha256=policy_sha256(header),
        score=Score(
            average_length=summary.average_length or 0.0,
            average_length_interval=asdict(spread) if spread else None,
            success_rates={str(i): rate for i, rate in rates.items()},
            chains=summary.completed,
        ),
        lengths=tuple(lengths.tolist()),
        protocol=protocol_facts(header),
        chains=tuple(CardChain.of(done[chain]) for chain in header.planned[:chains]),
    )


def check_card(card: Card, records: Sequence[ChainRecord]) -> CardCheck:
    """Compare a card with records; chains that are not on the card are left out.

    Whether they are of the same protocol is `Card.differences`' to say.
    """
    done = {record.chain: CardChain.of(record) for record in completed_chains(records)}
    both = [(chain, done[chain.chain]) for chain in card.chains if chain.chain in done]
    steps = [here.length - there.length for there, here in both]
    return CardCheck(
        compared=len(both),
        missing=tuple(chain.chain for chain in card.chains if chain.chain not in done),
        differing=tuple((there, here) for there, here in both if there != here),
        flipped=sum(step != 0 for step in steps),
        difference=sum(steps) / len(steps) if steps else None,
        p=sign_flip_test(steps),
    )


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read a card.

    Raises:
        RunFolderError: there is none, or one that this version cannot read.
    """
    try:
        data = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise RunFolderError(f"expected a checkpoint card at {path}: {error.strerror}") from error
    except DocumentError as error:
        raise RunFolderError(f"{path}: expected a checkpoint card: {error}") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        refuse_published(path, "a checkpoint card")
        raise RunFolderError(
            f"{path}: expected a checkpoint card, found another JSON file. Make a card of a run "
            "with `calvin-eval card RUN`."
        )
    if data.get("schema_version") != SCHEMA:
        raise RunFolderError(
            f"{path}: expected a card of schema version {SCHEMA}, found "
            f"{data.get('schema_version')!r}. Read it with the calvin-eval that wrote it."
        )
    try:
        return typed.read(Card, data)
    except (typed.MismatchError, UsageError) as error:
        raise RunFolderError(
            f"{path}: damaged checkpoint card: {error}. Get it again from where the checkpoint is "
            "from."
        ) from error


def _describe(chain: CardChain) -> str:
    return f"{chain.length} done in {sum(chain.steps)} steps, state {chain.state_hash[:8]}"
