from __future__ import annotations

import pytest
import torch
from torch import Tensor

from calvin_eval.vla.fusion import IGNORED, Fused

WIDTH = 3


def rows(*lengths: int) -> Fused:
    """Rows of the given lengths, padded on the right; embedding r.c at row r, column c."""
    long = max(lengths)
    mask = torch.tensor([[c < length for c in range(long)] for length in lengths])
    where = torch.arange(len(lengths))[:, None] + torch.arange(long) / 100
    labels = torch.arange(long).expand(len(lengths), -1) * 1
    return Fused.words(where[..., None].expand(-1, -1, WIDTH), mask, labels)


def block(tokens: int, count: int = 2, value: float = -1.0) -> Tensor:
    return (value - torch.arange(tokens))[None, :, None].expand(count, -1, WIDTH)


def test_one_index_for_all_rows_is_a_concatenation() -> None:
    words, images = rows(5, 3), block(4)
    fused = words.insert(images, 1)
    expected = torch.cat([words.embeds[:, :1], images, words.embeds[:, 1:]], 1)
    assert torch.equal(fused.embeds, expected)
    assert fused.mask.tolist() == [[True] * 9, [True] * 7 + [False] * 2]
    assert torch.equal(fused.present, fused.mask)
    assert fused.marked.tolist() == [[False] + [True] * 4 + [False] * 4] * 2
    assert fused.labels is not None
    assert fused.labels[0].tolist() == [0, *[IGNORED] * 4, 1, 2, 3, 4]


def test_the_later_camera_ends_up_in_front() -> None:
    static, hand = block(2, value=-10), block(2, value=-20)
    fused = rows(3, 3).insert(static, 1).insert(hand, 1)
    assert fused.embeds[0, :, 0].tolist() == pytest.approx([0, -20, -21, -10, -11, 0.01, 0.02])
    assert fused.marked[0].tolist() == [False, True, True, False, False, False, False]


def test_column_puts_action_tokens_after_the_end_of_shorter_rows() -> None:
    """RoboVLMs' layout of a padded batch: the mask of the shorter row reads ... 1 0 1 0."""
    words = rows(5, 3)
    fused = words.insert(block(1), words.before_end(1, per_row=False))
    assert fused.mask.int().tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0]]
    assert fused.marked.int().tolist() == [[0, 0, 0, 0, 1, 0]] * 2


def test_per_row_puts_them_before_the_rows_own_end() -> None:
    words, tokens = rows(5, 3), block(2)
    fused = words.insert(tokens, words.before_end(1, per_row=True))
    assert fused.embeds[0, :, 0].tolist() == pytest.approx([0, 0.01, 0.02, 0.03, -1, -2, 0.04])
    assert fused.embeds[1, :, 0].tolist() == pytest.approx([1, 1.01, -1, -2, 1.02, 1.03, 1.04])
    assert fused.mask.int().tolist() == [[1] * 7, [1, 1, 1, 1, 1, 0, 0]]
    assert fused.labels is not None
    assert fused.labels[1].tolist() == [0, 1, IGNORED, IGNORED, 2, 3, 4]


def test_without_an_end_token_they_go_last() -> None:
    words = rows(3, 2)
    assert words.before_end(0, per_row=False) == 3
    index = words.before_end(0, per_row=True)
    assert isinstance(index, Tensor)
    assert index.tolist() == [3, 2]


def test_fill_zero_hides_tokens_that_are_there() -> None:
    fused = rows(3, 2).insert(block(1), 2, fill_zero=True)
    assert fused.mask.int().tolist() == [[1, 1, 0, 1], [1, 1, 0, 0]]
    assert fused.present.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_frames_are_joined_in_order_and_padding_moves_to_the_end() -> None:
    words = rows(3, 3, 2, 2).insert(block(1, 4), 1)
    joined = words.join(2)
    assert joined.embeds.shape == (2, 8, WIDTH)
    assert joined.embeds[0, :, 0].tolist() == pytest.approx([0, -1, 0.01, 0.02, 1, -1, 1.01, 1.02])
    assert joined.present[1].int().tolist() == [1, 1, 1, 0, 1, 1, 1, 0]
    packed = joined.pad_right()
    assert packed.present[1].int().tolist() == [1] * 6 + [0] * 2
    assert packed.embeds[1, :6, 0].tolist() == pytest.approx([2, -1, 2.01, 3, -1, 3.01])
    assert packed.marked[1].int().tolist() == [0, 1, 0, 0, 1, 0, 0, 0]
    assert torch.equal(packed.embeds[0], joined.embeds[0])


def test_padding_on_the_left_aligns_ends_and_positions_count_words_only() -> None:
    packed = rows(4, 2).pad_left()
    assert packed.embeds[1, 2:, 0].tolist() == pytest.approx([1, 1.01])
    assert packed.mask.int().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert packed.positions().tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
