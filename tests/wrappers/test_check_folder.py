"""Demonstrations in CALVIN's on-disk format, and what must not be unpickled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demonstrating import STEPS, Knower, recorded

from calvin_eval.errors import UsageError
from calvin_eval.foreign.unpickle import load_plain
from calvin_eval.wrappers.check import ask, compare
from calvin_eval.wrappers.check.calvin_folder import read_folder
from calvin_eval.wrappers.policy import Requirements


def write_annotations(folder: Path, content: Any) -> Path:
    path = folder / "lang_annotations" / "auto_lang_ann.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.array(content, object), allow_pickle=True)
    return path


def annotations(spans: Any, sentences: list[str]) -> dict[str, Any]:  # type: ignore[no-redef]
    emb = np.zeros((len(sentences), 1, 4), np.float32)
    language = {"ann": sentences, "task": ["reach"] * len(sentences), "emb": emb}
    return {"language": language, "info": {"episodes": [], "indx": spans}}


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A data set with a validation split: one frame per step, numbers from 100 on."""
    folder = tmp_path / "dataset" / "validation"
    folder.mkdir(parents=True)
    spans, number = [], 100
    for motion in recorded():
        spans.append((np.int64(number), np.int64(number + STEPS - 1)))
        for state, action in zip(motion.states, motion.actions, strict=True):
            np.savez(
                folder / f"episode_{number:07d}.npz",
                robot_obs=state,
                scene_obs=np.zeros(24),
                rel_actions=action,
                rgb_static=np.full((200, 200, 3), number % 256, np.uint8),
            )
            number += 1
    write_annotations(folder, annotations(spans, [f"reach {i}" for i in range(len(spans))]))
    return folder


class Seeing(Knower):
    """Knows the motions by their first frame's number."""

    requirements = Requirements(rgb=("static",))

    def __init__(self) -> None:
        super().__init__()
        self._actions = {index: motion.actions for index, motion in enumerate(recorded())}
        self.seen: list[int] = []
        self.instructions: list[str] = []

    def reset(self, session: int, instruction: str) -> None:
        self.instructions.append(instruction)

    def act(self, requests: Any) -> Any:
        self.seen += [int(r.obs["rgb_obs"]["rgb_static"][0, 0, 0]) for r in requests]
        return super().act(requests)


@pytest.mark.parametrize("name", ["lang_clip_resnet50", "lang_paraphrase-MiniLM-L3-v2", "."])
@pytest.mark.parametrize("where", [".", ".."], ids=["split", "data set"])
def test_annotations_in_another_folder_are_found(split: Path, name: str, where: str) -> None:
    usual = split / "lang_annotations"
    (split / name).mkdir(exist_ok=True)
    (usual / "auto_lang_ann.npy").rename(split / name / "auto_lang_ann.npy")
    usual.rmdir()
    policy = Seeing()
    ask(policy, read_folder(split / where, 6))
    assert policy.instructions == [f"reach {i}" for i in range(6)]


def test_calvins_own_folder_of_annotations_comes_first(split: Path) -> None:
    other = split / "lang_a" / "auto_lang_ann.npy"
    other.parent.mkdir()
    np.save(other, np.array({"language": {}}, object), allow_pickle=True)
    policy = Seeing()
    ask(policy, read_folder(split, 6))
    assert len(policy.instructions) == 6


def test_frames_without_a_scene_serve_policies_that_do_not_look_at_it(split: Path) -> None:
    for file in split.glob("*.npz"):
        with np.load(file) as archive:
            arrays = {name: archive[name] for name in archive.files if name != "scene_obs"}
        np.savez(file, **arrays)

    class Plain(Seeing):
        def act(self, requests: Any) -> Any:
            assert all("scene_obs" not in request.obs for request in requests)
            return super().act(requests)

    policy = Plain()
    ask(policy, read_folder(split, 6))
    assert len(policy.seen) == 6 * STEPS


@pytest.mark.parametrize("where", [".", ".."], ids=["split", "data set"])
def test_a_split_is_shown_frame_by_frame(split: Path, where: str) -> None:
    policy = Seeing()
    pairs = ask(policy, read_folder(split / where, 6))
    assert policy.instructions == [f"reach {i}" for i in range(6)]
    assert policy.seen == [(100 + i) % 256 for i in range(6 * STEPS)]
    assert np.array_equal(pairs.robot_obs, np.concatenate([m.states for m in recorded()]))
    assert compare(pairs) == []


def test_a_few_demonstrations_are_spread_over_all(split: Path) -> None:
    policy = Seeing()
    ask(policy, read_folder(split, 2))
    assert policy.instructions == ["reach 0", "reach 5"]


def test_a_camera_that_was_not_recorded_is_named(split: Path) -> None:
    policy = Seeing()
    policy.requirements = Requirements(rgb=("gripper",))
    with pytest.raises(UsageError, match=r"no array rgb_gripper, only .*, but this"):
        ask(policy, read_folder(split, 2))


def test_what_is_no_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"lang_annotations/auto_lang_ann\.npy"):
        next(read_folder(tmp_path, 2))
    write_annotations(tmp_path, annotations([(0, 5)], ["reach"]))
    with pytest.raises(UsageError, match="expected frames such as"):
        next(read_folder(tmp_path, 2))


@pytest.mark.parametrize(
    "content",
    [
        {"info": {}},
        {"info": {"indx": [(0, 5)]}, "language": {"ann": ["a", "b"]}},
        {"info": {"indx": [(5, 0)]}, "language": {"ann": ["a"]}},
        {"info": {"indx": []}, "language": {"ann": []}},
        {"info": {"indx": [(0, 10**12)]}, "language": {"ann": ["a"]}},
        [1, 2, 3],
    ],
)
def test_annotations_of_another_form_are_refused(tmp_path: Path, content: Any) -> None:
    write_annotations(tmp_path, content)
    with pytest.raises(UsageError, match="expected"):
        next(read_folder(tmp_path, 2))


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    path = write_annotations(tmp_path, {"info": Evil(tmp_path / "ran")})
    with pytest.raises(UsageError, match=r"posix.mkdir"):
        load_plain(path)
    assert not (tmp_path / "ran").exists()
    np.load(path, allow_pickle=True)
    assert (tmp_path / "ran").exists(), "the file is harmless, so the test shows nothing"


OWN = np.empty(0).__reduce__()[0].__module__.encode()
"""Where the NumPy at hand keeps what rebuilds arrays."""


@pytest.mark.parametrize(
    ("protocol", "module"),
    [(2, b"numpy.core.multiarray"), (3, b"numpy._core.multiarray"), (4, OWN)],
)
def test_what_any_numpy_saves_is_read(tmp_path: Path, protocol: int, module: bytes) -> None:
    content = {"a": [(np.int64(1), 2)], "b": np.arange(3.0), "c": "text", "d": b"\x00\xff"}
    path = tmp_path / "some.npy"
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        data = pickle.dumps(np.array(content, object), protocol=protocol)
        file.write(data.replace(OWN, module))
    read = load_plain(path)
    assert read["a"] == [(1, 2)]
    assert np.array_equal(read["b"], np.arange(3.0))
    assert read["c"] == "text"
    assert read["d"] == b"\x00\xff"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.npy"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        load_plain(path)
