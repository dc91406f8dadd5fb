"""Frames, annotations and lists on disk; and what must not be opened."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calvin_folder import SPANS, TASKS, TEXTS, frame, write_split

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.data.annotations import (
    PLAY_TEXT,
    Segment,
    choose,
    read_language,
    read_pairs,
    read_play,
    read_scenes,
)
from calvin_eval.vla.data.format import FrameCache, Frames, find_frames
from calvin_eval.vla.data.npz import read_npz

SHORT = ((7, 9),)
ALL = tuple(frame(0))


@pytest.mark.parametrize("suffix", [".npz", ".pkl"])
def test_a_frame_comes_back_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    frames = find_frames(write_split(tmp_path / "training", suffix=suffix, spans=SHORT))
    found = frames.read(8, ALL)
    for name, value in frame(8).items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(found[name], value)


@pytest.mark.parametrize("name", ["episode_0000012.npz", "frame-12.npz", "000000000012.npz"])
def test_naming_is_found_from_one_file(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / name, robot_obs=np.arange(15))
    (tmp_path / "statistics.yaml").touch()
    np.save(tmp_path / "ep_start_end_ids.npy", np.array([[0, 1]]))
    assert find_frames(tmp_path).path(12) == str(tmp_path / name)


def test_a_data_set_is_not_a_split(tmp_path: Path) -> None:
    write_split(tmp_path / "training", spans=SHORT)
    with pytest.raises(UsageError, match="Name its folder training"):
        find_frames(tmp_path)
    with pytest.raises(UsageError, match="found none"):
        find_frames(tmp_path / "test")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "value",
    [
        np.float64(3.5),
        np.zeros((0, 7)),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.arange(4, dtype=">i2"),
        np.array(["a", "bcd"]),
        np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8),
    ],
    ids=["scalar", "empty", "fortran", "big-endian", "text", "image"],
)
def test_members_read_as_numpy_reads_them(tmp_path: Path, save: Any, value: Any) -> None:
    path = tmp_path / "x.npz"
    save(path, first=np.arange(3), value=value, **{f"other{i}": np.arange(9) for i in range(60)})
    with np.load(path) as archive:
        found, expected = read_npz(str(path), ["value"])["value"], archive["value"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


def test_what_numpy_does_not_write_is_left_to_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "value.npy", np.arange(5))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(tmp_path / "value.npy", "value.npy")
        archive.comment = b"a comment that hides the end of the directory" * 60
    assert read_npz(str(tmp_path / "x.npz"), ["value"])["value"].tolist() == [0, 1, 2, 3, 4]


class Bomb:
    def __reduce__(self) -> Any:
        return os.mkdir, ("ran",)


def test_pickles_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = np.array([Bomb()], object)
    for folder in ("npz", "pkl", "annotated"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "npz" / "episode_1.npz", actions=bomb)
    (tmp_path / "pkl" / "episode_1.pkl").write_bytes(pickle.dumps({"actions": bomb}))
    np.save(tmp_path / "annotated" / "auto_lang_ann.npy", bomb, allow_pickle=True)
    for kind in ("npz", "pkl"):
        with pytest.raises(UsageError, match="cannot be read"):
            find_frames(tmp_path / kind).read(1, ["actions"])
    with pytest.raises(UsageError, match="run code"):
        read_language(tmp_path / "annotated")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_frames_of_any_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"robot_obs": np.arange(15.0), "n": 3, "scalar": np.float32(2)}
    (tmp_path / "episode_1.pkl").write_bytes(pickle.dumps(content, protocol))
    found = find_frames(tmp_path).read(1, ["robot_obs", "scalar"])
    assert found["robot_obs"].tolist() == list(range(15))
    assert found["scalar"] == 2


def test_damage_is_named(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "training", spans=SHORT)
    frames = find_frames(folder)
    path = Path(frames.path(8))
    whole = path.read_bytes()
    with pytest.raises(UsageError, match=r"episode_0000042.npz; an annotation"):
        frames.read(42, ALL)
    with pytest.raises(UsageError, match=r"no array rgb_tactile, only actions, depth_static"):
        frames.read(8, ["rgb_tactile"])
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(UsageError, match=r"episode_0000008.npz cannot be read"):
            frames.read(8, ALL)
    start = whole.index(b"rel_actions.npy") + 60
    path.write_bytes(whole[:start] + bytes([whole[start] ^ 255]) + whole[start + 1 :])
    assert frames.read(8, ["robot_obs"])["robot_obs"].shape == (15,)
    with pytest.raises(UsageError, match="cannot be read"):
        frames.read(8, ["rel_actions"])


def test_the_cache_keeps_the_last_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = find_frames(write_split(tmp_path / "training", spans=((1, 4),)))
    reads: list[tuple[int, tuple[str, ...]]] = []
    read = Frames.read

    def counted(self: Frames, index: int, names: Sequence[str]) -> Any:
        reads.append((index, tuple(names)))
        return read(self, index, names)

    monkeypatch.setattr(Frames, "read", counted)
    cache = FrameCache(frames, 2)
    for number in (1, 2, 3, 2, 1):
        assert np.array_equal(
            cache.read(number, ["robot_obs"])["robot_obs"], frame(number)["robot_obs"]
        )
    assert [index for index, _ in reads] == [1, 2, 3, 1]
    both = cache.read(2, ["robot_obs", "actions"])
    assert np.array_equal(both["actions"], frame(2)["actions"])
    assert reads[-1] == (2, ("actions",))
    pickle.loads(pickle.dumps(cache)).read(2, ["robot_obs"])
    assert reads[-1] == (2, ("robot_obs",))


def test_annotations_and_play(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "training")
    found = read_language(folder)
    assert found == [
        Segment(*span, text, task) for span, text, task in zip(SPANS, TEXTS, TASKS, strict=True)
    ]
    assert read_play(folder) == [Segment(100, 181, PLAY_TEXT)]
    (folder / "lang_annotations" / "auto_lang_ann.npy").rename(folder / "auto_lang_ann.npy")
    assert read_language(folder) == found
    with pytest.raises(UsageError, match="found none"):
        read_language(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"language": {"ann": ["a"], "task": ["t"]}},
        {"language": {"ann": ["a"], "task": []}, "info": {"indx": [(0, 1)]}},
        {"language": {"ann": ["a"], "task": ["t"]}, "info": {"indx": [(5, 1)]}},
        ["no dict"],
    ],
)
def test_annotations_that_are_none(tmp_path: Path, content: Any) -> None:
    np.save(tmp_path / "auto_lang_ann.npy", np.array(content, object), allow_pickle=True)
    with pytest.raises(UsageError, match=r"auto_lang_ann\.npy: expected"):
        read_language(tmp_path)


def test_filters(tmp_path: Path) -> None:
    folder = write_split(tmp_path / "training")
    segments, scenes = read_language(folder), read_scenes(folder)
    assert scenes == dict(zip("ABC", SPANS, strict=True))
    assert choose(segments, exclude=["open_drawer"]) == segments[1:]
    assert choose(segments, scenes=scenes, only=["A", "C"]) == [segments[0], segments[2]]
    with pytest.raises(UnknownNameError, match=r"'E'.*A, B, C"):
        choose(segments, scenes=scenes, only=["E"])
    (tmp_path / "names.txt").write_text("0 165 177 \n1 5 9 \n")
    (tmp_path / "shots.json").write_text('{"open_drawer": [[100, 164]], "x": [[165, 177]]}')
    assert choose(segments, pairs=read_pairs(tmp_path / "names.txt")) == segments[1:2]
    shots = read_pairs(tmp_path / "shots.json")
    assert choose(segments, pairs=shots) == segments[:2]
    (tmp_path / "part.json").write_text("[[100, 164], [165, 177], [165, 177]]")
    assert read_pairs(tmp_path / "part.json") == shots
    assert choose(segments, pairs=shots, exclude=["open_drawer"]) == segments[1:2]


@pytest.mark.parametrize("name", ["missing.txt", "words.txt", "list.json"])
def test_lists_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "words.txt").write_text("0 one two\n")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UsageError, match=name):
        read_pairs(tmp_path / name)


def test_play_of_a_wrong_shape(tmp_path: Path) -> None:
    np.save(tmp_path / "ep_start_end_ids.npy", np.arange(3))
    with pytest.raises(UsageError, match=r"expected \(E, 2\)"):
        read_play(tmp_path)
