"""Action values as words: each number of an action is one id near the end of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calvin_eval.errors import UsageError
from calvin_eval.vla.compat import Compat

RESERVED = 10
"""Ids that RoboVLMs leaves free under the special tokens."""


@dataclass(frozen=True)
class ActionTokenizer:
    """Maps values in [low, high] to `bins` ids: id = base - digit, digit 1 is the lowest value.

    So a larger action has a smaller id, and the ids are base - bins ... base - 1. A value is
    decoded to the middle of its bin; the highest digit shares the last middle, since `bins` edges
    have one middle less (RoboVLMs, action_tokenizer).

    Attributes:
        base: the number that ids count down from.
        bins: how many ids there are.
        low: the smallest value; smaller ones are clipped to it.
        high: the largest value.
        end_is_last_id: whether the marker `end` is the id of the lowest value itself, which
            `is_action` then leaves out: so it is where the base is the whole vocabulary ("seed").
    """

    base: int
    bins: int = 256
    low: float = -1.0
    high: float = 1.0
    end_is_last_id: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be a vocabulary or a range.

        Raises:
            UsageError: fewer ids than bins, fewer than two bins, or an empty range.
        """
        if self.bins < 2 or self.base < self.bins or not self.low < self.high:
            raise UsageError(
                f"action tokens: expected at least 2 bins in a vocabulary that has room for them "
                f"and min_action < max_action, found {self.bins} bins under id {self.base} for "
                f"[{self.low}, {self.high}]"
            )

    @classmethod
    def from_tokenizer(
        cls, tokenizer: Any, head: dict[str, Any], compat: Compat
    ) -> ActionTokenizer:
        """The tokenizer of a checkpoint.

        Args:
            tokenizer: of the language model, with the tokens that the checkpoint added.
            head: `act_head` of the configuration: `n_bin`, `min_action`, `max_action`.
            compat: whose `action_vocab_base` says where ids start.

        Raises:
            UsageError: a key that is missing, or a range that cannot be.
        """
        missing = [key for key in ("n_bin", "min_action", "max_action") if key not in head]
        if missing:
            raise UsageError(f"act_head: a discrete model needs {', '.join(missing)}")
        base = vocabulary_base(tokenizer, compat.action_vocab_base)
        seed = compat.action_vocab_base == "seed"
        return cls(base, head["n_bin"], head["min_action"], head["max_action"], seed)

    @property
    def begin(self) -> int:
        """The id below all action ids."""
        return self.base - (self.bins + 1)

    @property
    def end(self) -> int:
        """The id that closes the range of `is_action`."""
        return self.base - int(self.end_is_last_id)

    @property
    def ids(self) -> range:
        """All action ids, from that of the largest value to that of the smallest."""
        return range(self.base - self.bins, self.base)

    def encode(self, values: ArrayLike) -> NDArray[np.int64]:
        """Values of any shape to ids of the same shape; values outside the range are clipped."""
        edges = np.linspace(self.low, self.high, self.bins)
        digits = np.digitize(np.clip(np.asarray(values, np.float64), self.low, self.high), edges)
        return np.asarray(self.base - digits, dtype=np.int64)

    def decode(self, ids: ArrayLike) -> NDArray[np.float64]:
        """Ids of any shape to values; ids that are no action ids give the nearest extreme."""
        edges = np.linspace(self.low, self.high, self.bins)
        middles = (edges[:-1] + edges[1:]) / 2
        digits = np.clip(self.base - np.asarray(ids, np.int64) - 1, 0, self.bins - 2)
        return np.asarray(middles[digits])

    def is_action(self, ids: ArrayLike) -> NDArray[np.bool_]:
        """Which ids RoboVLMs counts as actions: those strictly between its two markers."""
        given = np.asarray(ids)
        return np.asarray((given > self.begin) & (given < self.end))


def vocabulary_base(tokenizer: Any, variant: str | int) -> int:
    """The number that action ids count down from.

    Args:
        tokenizer: a transformers tokenizer; its `vocab_size` leaves added tokens out.
        variant: "checkout" takes the special tokens and ten more off, "seed" nothing; a number
            is the answer itself.
    """
    if isinstance(variant, int):
        return variant
    size = int(tokenizer.vocab_size)
    return size if variant == "seed" else size - special_tokens(tokenizer) - RESERVED


def special_tokens(tokenizer: Any) -> int:
    """How many special tokens a tokenizer names, each additional one counted (transformers 4)."""
    extra = getattr(tokenizer, "extra_special_tokens", None) or ()
    named = [name for name in tokenizer.special_tokens_map if not name.startswith(("extra", "add"))]
    return len(named) + len(extra)
