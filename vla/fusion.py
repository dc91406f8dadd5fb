"""Words, images and action tokens in one sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that no loss counts."""


@dataclass(frozen=True)
class Fused:
    """One sequence of embeddings per row, and what is known of its positions.

    Attributes:
        embeds: (B, L, D).
        mask: (B, L) bool, False where attention may not look.
        present: (B, L) bool, False at padding. Differs from `mask` if `fill_zero` hides tokens.
        marked: (B, L) bool, True at what is read later: the block that was inserted last.
        labels: (B, L) int64 or None.
        asked: (B, L) bool, True at what was put there with `ask`, which is read too; or None.
    """

    embeds: Tensor
    mask: Tensor
    present: Tensor
    marked: Tensor
    labels: Tensor | None = None
    asked: Tensor | None = None

    @classmethod
    def words(cls, embeds: Tensor, mask: Tensor, labels: Tensor | None = None) -> Fused:
        """A sequence of words alone: embeddings (B, L, D) and their mask (B, L)."""
        mask = mask.bool()
        return cls(embeds, mask, mask, torch.zeros_like(mask), labels)

    def insert(self, block: Tensor, index: int | Tensor, *, fill_zero: bool = False) -> Fused:
        """Put a block of embeddings into every row.

        Args:
            block: (B, N, D).
            index: position of the block's first element, one for all rows or one per row (B,).
            fill_zero: whether attention may not look at the block.

        Returns:
            Sequences of length L + N; the block's labels are ignored ones.
        """
        rows, length = self.mask.shape
        added = block.shape[1]
        start = torch.as_tensor(index, device=block.device).expand(rows).unsqueeze(1)
        column = torch.arange(length + added, device=block.device).expand(rows, -1)
        inside = (column >= start) & (column < start + added)
        # Positions in [row, block], laid side by side.
        source = torch.where(inside, length + column - start, column)
        source = torch.where(column >= start + added, column - added, source)
        here = torch.ones(rows, added, dtype=torch.bool, device=block.device)
        labels = None
        if self.labels is not None:
            ignored = torch.full((rows, added), IGNORED, device=block.device)
            labels = torch.cat([self.labels, ignored], 1).gather(1, source)
        both = torch.cat([self.embeds, block.to(self.embeds.dtype)], 1)
        return Fused(
            embeds=_take(both, source),
            mask=torch.cat([self.mask, here & (not fill_zero)], 1).gather(1, source),
            present=torch.cat([self.present, here], 1).gather(1, source),
            marked=inside,
            labels=labels,
        )

    def ask(self, block: Tensor, index: int | Tensor) -> Fused:
        """Put a block (B, N, D) into every row, see `insert`, and read it beside what is marked."""
        made = self.insert(block, index)
        blank = self.marked.new_zeros(len(self.marked), block.shape[1])
        # Positions without the block, in their order, and the block behind them.
        order = made.marked.long().argsort(dim=1, stable=True).argsort(dim=1)
        marked = torch.cat([self.marked, blank], 1).gather(1, order)
        return replace(made, marked=marked, asked=made.marked)

    def before_end(self, end_tokens: int, *, per_row: bool) -> int | Tensor:
        """Where action tokens go: before the last `end_tokens` positions.

        Args:
            end_tokens: 1 if the tokenizer has an end token, whether or not the text has it.
            per_row: before each row's own end, instead of before the last column, which in a
                shorter row is padding.
        """
        if per_row:
            return self.present.sum(1) - end_tokens
        return self.mask.shape[1] - end_tokens

    def then(self, other: Fused) -> Fused:
        """The sequences of `other` (B, M) behind these; without labels."""
        names = ("embeds", "mask", "present", "marked")
        return Fused(*(torch.cat([getattr(self, n), getattr(other, n)], 1) for n in names))

    @classmethod
    def stack(cls, rows: Sequence[Fused]) -> Fused:
        """Sequences (1, L), each of its own length, to (B, L), padded on the right."""
        length = max(row.mask.shape[1] for row in rows)
        padded = [row._padded(length - row.mask.shape[1]) for row in rows]
        names = ("embeds", "mask", "present", "marked")
        return cls(*(torch.cat([getattr(row, name) for row in padded]) for name in names))

    def _padded(self, count: int) -> Fused:
        embeds = self.embeds.new_zeros(len(self.embeds), count, self.embeds.shape[2])
        blank = self.mask.new_zeros(len(self.mask), count)
        return self.then(Fused(embeds, blank, blank, blank))

    def join(self, frames: int) -> Fused:
        """Rows of successive frames, (B * T, L), to one row each, (B, T * L)."""
        length = frames * self.mask.shape[1]
        return self._map(lambda part: part.reshape(-1, length, *part.shape[2:]))

    def pad_right(self) -> Fused:
        """Move all padding to the right end, where causal attention never meets it."""
        return self._reorder(~self.present)

    def pad_left(self) -> Fused:
        """Move all padding to the left end, so that all rows end in the last column."""
        return self._reorder(self.present)

    def positions(self) -> Tensor:
        """Positions (B, L) int64, counted from 0 over what is present."""
        return (self.present.long().cumsum(1) - 1).clamp(min=0)

    def _reorder(self, later: Tensor) -> Fused:
        """Positions where `later` (B, L) is True after all others, in their order."""
        order = later.long().argsort(dim=1, stable=True)
        return self._map(
            lambda part: _take(part, order) if part.dim() == 3 else part.gather(1, order)
        )

    def _map(self, change: Callable[[Tensor], Tensor]) -> Fused:
        return Fused(
            embeds=change(self.embeds),
            mask=change(self.mask),
            present=change(self.present),
            marked=change(self.marked),
            labels=None if self.labels is None else change(self.labels),
            asked=None if self.asked is None else change(self.asked),
        )


def _take(embeds: Tensor, index: Tensor) -> Tensor:
    """Positions (B, M) of sequences (B, L, D): (B, M, D)."""
    return embeds.gather(1, index.unsqueeze(-1).expand(-1, -1, embeds.shape[-1]))
