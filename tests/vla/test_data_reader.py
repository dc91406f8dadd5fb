"""The data set: what is read, what samples depend on, and workers."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from calvin_folder import slanted, text, write_split
from torch.utils.data import DataLoader

from calvin_eval.errors import UsageError
from calvin_eval.vla.data.annotations import read_language, read_play
from calvin_eval.vla.data.augment import RandomShift
from calvin_eval.vla.data.collate import (
    CalvinCollator,
)
from calvin_eval.vla.data.dataset import CalvinDataset, ReadOptions


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "training")


def test_only_what_is_wanted_is_read(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ReadOptions(
        window=8, chunk=10, cameras=("rgb_gripper",), actions="actions", extra=("scene_obs",)
    )
    dataset = CalvinDataset(split, options)
    reads: list[int] = []
    names: set[str] = set()
    read = type(dataset.frames).read

    def counted(self: Any, index: int, wanted: Sequence[str]) -> Any:
        reads.append(index)
        names.update(wanted)
        return read(self, index, wanted)

    monkeypatch.setattr(type(dataset.frames), "read", counted)
    sample = dataset[56]
    assert reads == list(range(156, 165))
    assert names == {"rgb_gripper", "actions", "robot_obs", "scene_obs"}
    assert set(sample) == {
        "rgb_gripper", "actions", "robot_obs", "scene_obs", "mask", "text", "task"
    }  # fmt: skip
    assert sample["actions"].shape == (18, 7)
    assert sample["scene_obs"].dtype == torch.float64
    assert (sample["rgb_gripper"][8:] == (2 * 164) % 256).all()
    dataset[55]
    assert reads == [*range(156, 165), 155]


def test_images_to_come_can_be_left_out(split: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = CalvinDataset(split, ReadOptions(window=3, chunk=2))
    short = CalvinDataset(split, ReadOptions(window=3, chunk=2, future_images=False))
    collate = CalvinCollator(window=3, chunk=2, text=text)
    numbers = [0, 40, 61]
    expected = collate([full[i] for i in numbers])
    seen: list[tuple[int, bool]] = []
    read = type(short.frames).read

    def counted(self: Any, index: int, wanted: Sequence[str]) -> Any:
        seen.append((index, "rgb_static" in wanted))
        return read(self, index, wanted)

    monkeypatch.setattr(type(short.frames), "read", counted)
    found = collate([short[i] for i in numbers])
    assert seen[:5] == [(100, True), (101, True), (102, True), (103, False), (104, False)]
    for key, value in expected.items():
        if key in ("fwd_rgb_chunck", "fwd_hand_rgb_chunck"):
            assert found[key] is None
        else:
            assert torch.equal(value, found[key]) if torch.is_tensor(value) else value == found[key]


def test_pickled_frames_and_play_give_samples(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "validation", suffix=".pkl", spans=((3, 9),))
    dataset = CalvinDataset(folder, ReadOptions(window=3, chunk=2), segments=read_play(folder))
    assert len(dataset) == 4
    assert dataset[0]["task"] == ""
    assert dataset[0]["rgb_static"][:, 0, 0, 0].tolist() == [3, 4, 5, 6, 7]


def test_samples_depend_on_index_seed_and_epoch_alone(split: Path) -> None:
    def made(seed: int = 0) -> CalvinDataset:
        shifts = {"rgb_static": RandomShift(3), "rgb_gripper": RandomShift(1)}
        options = ReadOptions(window=3, chunk=2, seed=seed)
        return CalvinDataset(split, options, images=slanted, shifts=shifts)

    first, second = made(), made()
    [second[i] for i in (5, 9, 2)]
    assert torch.equal(first[7]["rgb_static"], second[7]["rgb_static"])
    assert torch.equal(first[-1]["rgb_static"], second[len(second) - 1]["rgb_static"])
    assert not torch.equal(first[7]["rgb_static"], made(1)[7]["rgb_static"])
    second.set_epoch(1)
    assert not torch.equal(first[7]["rgb_static"], second[7]["rgb_static"])
    copy = pickle.loads(pickle.dumps(second))
    assert torch.equal(copy[7]["rgb_static"], second[7]["rgb_static"])


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
@pytest.mark.processes
@pytest.mark.slow
def test_workers_give_what_one_process_gives(split: Path, start: str, workers: int) -> None:
    options = ReadOptions(window=3, chunk=2)
    dataset = CalvinDataset(split, options, images=slanted, shifts={"rgb_static": RandomShift(2)})
    collate = CalvinCollator(window=3, chunk=2, text=text)
    loader = DataLoader(
        dataset, batch_size=24, num_workers=workers, collate_fn=collate, persistent_workers=True,
        multiprocessing_context=start,
    )  # fmt: skip
    for epoch in range(2):
        dataset.set_epoch(epoch)
        seen = 0
        for found in loader:
            expected = collate([dataset[i] for i in range(seen, seen + len(found["rgb"]))])
            seen += len(found["rgb"])
            for key, value in expected.items():
                same = (
                    torch.equal(value, found[key])
                    if torch.is_tensor(value)
                    else value == found[key]
                )
                assert same, key
        assert seen == len(dataset)


def test_data_sets_that_cannot_be(split: Path) -> None:
    with pytest.raises(UsageError, match="more than 65 frames"):
        CalvinDataset(split, ReadOptions(window=65))
    with pytest.raises(UsageError, match="one kind of actions"):
        ReadOptions(extra=("actions",))
    dataset = CalvinDataset(split, segments=read_language(split)[:1])
    with pytest.raises(IndexError):
        dataset[len(dataset)]
