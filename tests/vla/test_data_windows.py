"""Windows, masks, chunks and shifts, beside what RoboVLMs' code gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calvin_folder import SPANS, TEXTS
from hypothesis import given
from hypothesis import strategies as st

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.data.augment import RandomShift, shift
from calvin_eval.vla.data.chunks import (
    claw_matrix,
    generate_chunk,
    get_chunked_episode,
    get_tensor_chunk,
    pad_sequences,
)
from calvin_eval.vla.data.windows import Windows

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("data_golden.json").read_text())


def test_a_segment_of_64_frames_and_its_end() -> None:
    windows = Windows([(0, 64)], window=8, chunk=10)
    assert len(windows) == 57
    _, frames, mask = windows[-1]
    assert frames.tolist() == [*range(56, 64)] + [64] * 10
    assert mask.tolist() == [True] * 8 + [False] * 10
    assert windows[46].mask.all()
    assert windows[46].frames.tolist() == list(range(46, 64))
    assert windows[47].mask.tolist() == [True] * 17 + [False]
    assert len(Windows([(0, 7)], window=8, chunk=1)) == 0


def test_windows_are_the_originals() -> None:
    golden = GOLDEN["windows"]
    windows = Windows(SPANS, window=golden["window"], chunk=golden["chunk"], skip=golden["skip"])
    assert len(windows) == len(golden["rows"])
    for window, (frames, mask, text) in zip(windows, golden["rows"], strict=True):
        assert window.frames.tolist() == frames
        assert window.mask.astype(int).tolist() == mask
        assert TEXTS[window.segment] == text


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=6),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_windows_are_those_of_a_plain_loop(
    spans: list[tuple[int, int]], window: int, chunk: int, skip: int
) -> None:
    ranges = [(start, start + length) for start, length in spans]
    expected = [
        (number, start)
        for number, (first, last) in enumerate(ranges)
        for start in range(first, last - window + 1, skip)
    ]
    found = Windows(ranges, window=window, chunk=chunk, skip=skip)
    assert [(w.segment, int(w.frames[0])) for w in found] == expected
    assert all(len(w.frames) == window + chunk and w.mask[:window].all() for w in found)
    with pytest.raises(IndexError):
        found[len(expected)]


@pytest.mark.parametrize("wrong", [{"window": 0}, {"chunk": 0}, {"skip": -1}])
def test_windows_without_a_length(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Windows([(0, 9)], **{"window": 2, "chunk": 2, **wrong})


def test_chunks() -> None:
    data = torch.arange(2 * 5 * 7).reshape(2, 5, 7)
    for after in (False, True):
        chunks = generate_chunk(data, 3, 2, after=after)
        assert chunks.shape == (2, 3, 2, 7)
        for w in range(3):
            for c in range(2):
                assert torch.equal(chunks[:, w, c], data[:, w + c + after])
    assert torch.equal(
        get_tensor_chunk(data[0], 2), torch.stack([data[0, i : i + 2] for i in range(4)])
    )
    with pytest.raises(UsageError, match="expected 6 frames"):
        generate_chunk(data, 3, 3)


def test_the_claw_selects_the_chunk() -> None:
    """RoboVLMs picks chunks with this matrix; row i has its ones where the chunk of i lies."""
    data = torch.arange(5.0)[None]
    rows = [data[0][row.bool()] for row in claw_matrix(5, 1)[:3]]
    assert torch.equal(torch.stack(rows), generate_chunk(data, 3, 2)[0])


def test_pad_sequences() -> None:
    rows = [torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[7], [8]])]
    assert pad_sequences(rows, -100).tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[7, -100, -100], [8, -100, -100]],
    ]


@pytest.mark.parametrize("golden", GOLDEN["episodes"], ids=lambda g: f"{g['mode']}-{g['left_pad']}")
def test_chunked_episodes_are_the_originals(golden: dict[str, Any]) -> None:
    frames, mask = get_chunked_episode(golden["mode"], golden["left_pad"], 3, 2, np.arange(40, 45))
    assert frames.tolist() == golden["frames"]
    assert mask.astype(int).tolist() == golden["mask"]


@pytest.mark.parametrize("golden", GOLDEN["shifts"], ids=lambda g: g["mode"])
def test_shifts_are_the_originals(golden: dict[str, Any]) -> None:
    images = torch.arange(72.0).reshape(2, 1, 6, 6)
    moved = shift(images, np.array(golden["offsets"]), 2)
    assert torch.allclose(moved, torch.tensor(golden["images"]), atol=1e-4)
    drawn = RandomShift(2, golden["mode"]).draw(2000, np.random.default_rng(0))
    assert sorted(np.unique(drawn)) == list(range(golden["range"][0], golden["range"][1] + 1))


def test_a_shift_of_a_trajectory_is_one_shift() -> None:
    images = torch.rand(1, 3, 9, 9).expand(5, 3, 9, 9)
    rng = np.random.default_rng(1)
    kept = RandomShift(3, "per_trajectory")(images, rng)
    assert all(torch.equal(kept[0], image) for image in kept)
    loose = RandomShift(3, "per_frame")(images, rng)
    assert not all(torch.equal(loose[0], image) for image in loose)
    drawn = [RandomShift(2, "per_trajectory").draw(4, rng) for _ in range(300)]
    assert np.unique(drawn).tolist() == [0, 1, 2, 3, 4]


def test_no_shift() -> None:
    images = torch.rand(2, 3, 6, 6)
    assert RandomShift()(images, np.random.default_rng(0)) is images
    assert torch.equal(shift(images, np.full((2, 2), 4), 4), images)


def test_shifts_of_a_configuration() -> None:
    section = {"rgb_pad": 10, "gripper_pad": 4, "traj_cons": True}
    assert RandomShift.from_config(section, "rgb_pad") == RandomShift(10, "per_frame")
    assert RandomShift.from_config({**section, "traj_cons": False}, "gripper_pad") == RandomShift(
        4, "per_frame_full"
    )
    assert RandomShift.from_config({}, "rgb_pad").pad == -1
    with pytest.raises(UnknownNameError, match="per_trajectory"):
        RandomShift(3, "per_traj")
    with pytest.raises(UsageError, match="found 0"):
        RandomShift(0)
