"""Checks of data sets: a sound one passes, and every planted fault is found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from recording import record_drawn_episode
from requirements import need_package

from calvin_eval.errors import UsageError
from calvin_eval.foreign.splits import SplitFolder, open_splits
from calvin_eval.rollouts.datasets.checks import Fault
from calvin_eval.rollouts.datasets.drawing import RendererPsnr, psnr
from calvin_eval.rollouts.datasets.report import DatasetReport, check_dataset, explain
from calvin_eval.rollouts.datasets.show import choose, contact_sheet, write_videos
from calvin_eval.rollouts.recording.labels import save_plain
from calvin_eval.sim.render import probe_egl

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One short episode with images by TinyRenderer."""
    return record_drawn_episode(tmp_path_factory.mktemp("drawn") / "data") / "training"


@pytest.fixture
def split(drawn: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(drawn, tmp_path / "training"))


def file(split: Path, index: int) -> Path:
    return split / f"episode_{index:07d}.npz"


def change(split: Path, index: int, **arrays: Any) -> None:
    """Replace arrays of a frame; a function gets the old one."""
    with np.load(file(split, index)) as archive:
        frame = dict(archive)
    for name, value in arrays.items():
        frame[name] = value(frame[name].copy()) if callable(value) else value
    np.savez_compressed(file(split, index), **frame)


def put(position: int, value: float) -> Callable[[Any], Any]:
    def edit(array: Any) -> Any:
        array[position] = value
        return array

    return edit


def check(split: Path, images: int = 0) -> DatasetReport:
    return check_dataset(split, images=images)


def test_a_sound_split_is_sound(drawn: Path) -> None:
    report = check(drawn)
    assert report.sound
    assert not report.faults
    (facts,) = report.splits
    assert facts.read == facts.frames == len([*drawn.glob("*.npz")])
    assert (facts.episodes, facts.annotations, facts.scenes) == (1, 1, ["D"])
    assert facts.arrays == [
        "actions", "rel_actions", "rgb_gripper", "rgb_static", "robot_obs", "scene_obs"
    ]  # fmt: skip
    assert facts.statistics["rel_actions"]["max"][6] == 1


@pytest.mark.parametrize("name", ["scene_obs", "actions"])
def test_states_that_a_converted_split_lacks_are_warned_of(split: Path, name: str) -> None:
    for path in split.glob("*.npz"):
        with np.load(path) as archive:
            arrays = {key: archive[key] for key in archive.files if key != name}
        np.savez_compressed(path, **arrays)
    report = check(split)
    assert report.sound
    (fault,) = report.faults
    assert (fault.level, fault.check) == ("warning", "arrays")
    assert f"no {name}: " in fault.message
    assert name not in report.splits[0].statistics


def test_annotations_in_another_folder_are_found(split: Path) -> None:
    (split / "lang_annotations").rename(split / "lang_clip_resnet50")
    assert check(split).splits[0].annotations == 1


def missing(split: Path) -> None:
    file(split, 5).unlink()


def truncated(split: Path) -> None:
    data = file(split, 5).read_bytes()
    file(split, 5).write_bytes(data[: len(data) // 2])


def wrong_gripper(split: Path) -> None:
    change(split, 5, rel_actions=put(6, 0), actions=put(6, 0))


def disagreeing_gripper(split: Path) -> None:
    with np.load(file(split, 5)) as frame:
        change(split, 5, rel_actions=put(6, -frame["rel_actions"][6]))


def out_of_range(split: Path) -> None:
    change(split, 5, rel_actions=put(0, 1.5))


def not_a_number(split: Path) -> None:
    change(split, 5, robot_obs=put(0, np.nan))


def dim_light(split: Path) -> None:
    change(split, 5, scene_obs=put(4, 0.3))


def short_state(split: Path) -> None:
    change(split, 5, robot_obs=np.zeros(14))


def small_image(split: Path) -> None:
    change(split, 5, rgb_static=np.zeros((100, 100, 3), np.uint8))


def stray_annotation(split: Path) -> None:
    annotate(split, [(5, 100_000)])


def annotate(split: Path, spans: Any, texts: Any = ("go",)) -> None:
    content = {
        "language": {"ann": list(texts), "task": ["open_drawer"] * len(texts), "emb": []},
        "info": {"indx": spans},
    }
    save_plain(split / "lang_annotations/auto_lang_ann.npy", content)


def uneven_annotations(split: Path) -> None:
    annotate(split, [(0, 5)], texts=("go", "come"))


def hostile_annotations(split: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path(split / "pwned").touch, ()

    np.save(split / "lang_annotations/auto_lang_ann.npy", np.array({"a": Evil()}, dtype=object))


def overlapping(split: Path) -> None:
    last = len([*split.glob("*.npz")]) - 1
    np.save(split / "ep_start_end_ids.npy", np.array([[0, 10], [0, last]]))


def endless_range(split: Path) -> None:
    np.save(split / "ep_start_end_ids.npy", np.array([[0, 10**15]]))


def no_ranges(split: Path) -> None:
    (split / "ep_start_end_ids.npy").unlink()


def broken_statistics(split: Path) -> None:
    (split / "statistics.yaml").write_text("robot_obs: []")


@pytest.mark.parametrize(
    ("spoil", "found", "frames"),
    [
        (missing, "missing frames", (5,)),
        (truncated, "broken frames", (5,)),
        (wrong_gripper, "gripper", (5,)),
        (disagreeing_gripper, "gripper", (5,)),
        (out_of_range, "ranges of numbers", (5,)),
        (not_a_number, "numbers", (5,)),
        (dim_light, "ranges of numbers", (5,)),
        (short_state, "arrays", (5,)),
        (small_image, "arrays", (5,)),
        (stray_annotation, "annotations", (5,)),
        (uneven_annotations, "annotations", ()),
        (hostile_annotations, "annotations", ()),
        (overlapping, "ranges", ()),
        (endless_range, "missing frames", ()),
        (no_ranges, "ranges", ()),
        (broken_statistics, "action statistics", ()),
    ],
)
def test_a_planted_fault_is_found(
    split: Path, spoil: Callable[[Path], None], found: str, frames: tuple[int, ...]
) -> None:
    spoil(split)
    report = check(split)
    assert not report.sound
    errors = [fault for fault in report.faults if fault.level == "error"]
    assert {fault.check for fault in errors} == {found}
    assert all(fault.frames == frames for fault in errors)
    assert not (split / "pwned").exists()


def unscaled(split: Path) -> None:
    for path in split.glob("*.npz"):
        change(split, int(path.stem[-7:]), rel_actions=lambda a: np.append(a[:6] / 50, a[6]))


def foreign_statistics(split: Path) -> None:
    path = split / "statistics.yaml"
    content = yaml.safe_load(path.read_text())
    content["robot_obs"][0]["mean"][0] = 5.0
    path.write_text(yaml.safe_dump(content))


def no_annotations(split: Path) -> None:
    shutil.rmtree(split / "lang_annotations")


@pytest.mark.parametrize(
    ("spoil", "found", "message"),
    [
        (unscaled, "action statistics", "scaled by 50"),
        (foreign_statistics, "action statistics", "a deviation away"),
        (no_annotations, "annotations", "there are none"),
    ],
)
def test_what_looks_odd_is_a_warning(
    split: Path, spoil: Callable[[Path], None], found: str, message: str
) -> None:
    spoil(split)
    report = check(split)
    assert report.sound
    (fault,) = report.faults
    assert (fault.level, fault.check) == ("warning", found)
    assert message in fault.message


def test_a_sample_still_finds_a_truncated_file(split: Path) -> None:
    data = file(split, 5).read_bytes()
    file(split, 5).write_bytes(data[:200])
    report = check_dataset(split, images=0, frames=2)
    assert [fault.check for fault in report.faults] == ["broken frames"]
    assert report.splits[0].read == 3


# Images


def test_the_renderer_of_a_data_set_is_recognised(drawn: Path) -> None:
    report = check(drawn, images=4)
    assert report.sound
    assert not report.faults
    ((_, one),) = report.images
    assert one.renderer == "tiny"
    assert "--render tiny" in explain(one)
    assert one.decibels["tiny"]["static"] > 35
    if not probe_egl().error:
        assert one.decibels["egl"]["static"] < 25
    assert report.to_json()["images"][0]["renderer"] == "tiny"


def test_images_by_the_other_renderer_are_told_apart(egl: None, split: Path) -> None:
    from calvin_eval.sim import make_env

    with make_env(render="egl") as env:
        for index in (0, 10):
            with np.load(file(split, index)) as frame:
                obs = env.reset(frame["robot_obs"], frame["scene_obs"])
            change(split, index, **obs["rgb_obs"])
    for path in split.glob("*.npz"):
        if path not in (file(split, 0), file(split, 10)):
            path.unlink()
    ((_, one),) = check(split, images=2).images
    assert one.renderer == "egl"
    assert "--render egl" in explain(one)


def test_altered_images_match_nobody(split: Path) -> None:
    for path in split.glob("*.npz"):
        change(split, int(path.stem[-7:]), rgb_static=lambda a: a[:, ::-1])
    report = check(split, images=2)
    assert [(f.level, f.check) for f in report.faults] == [("warning", "images")]
    one = report.images[0][1]
    assert (one.renderer, one.nearest) == (None, None)
    assert explain(one) == "drawn by something else"


def test_images_by_a_kindred_renderer_are_told(split: Path) -> None:
    rng = np.random.default_rng(0)

    def rougher(image: Any) -> Any:
        return np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)

    for path in split.glob("*.npz"):
        change(split, int(path.stem[-7:]), rgb_static=rougher)
    ((_, one),) = check(split, images=2).images
    assert (one.renderer, one.nearest) == (None, "tiny")
    assert "most like TinyRenderer, but not drawn as here" in explain(one)


def test_a_wrong_scene_is_found(split: Path) -> None:
    last = len([*split.glob("*.npz")]) - 1
    save_plain(split / "scene_info.npy", {"calvin_scene_A": [0, last]})
    report = check(split, images=2)
    (fault,) = [f for f in report.faults if f.check == "images"]
    assert fault.level == "error"
    assert "said to show scene A, and look like D" in fault.message


def test_a_split_without_a_scene_asks_for_it(split: Path) -> None:
    (split / "scene_info.npy").unlink()
    shutil.rmtree(split / ".hydra")
    assert any("name it by --scene" in f.message for f in check(split, images=1).faults)
    report = check_dataset(split, images=1, scene="D")
    assert report.images[0][1].renderer == "tiny"


def test_psnr_is_that_of_the_definition() -> None:
    a, b = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 16, np.uint8)
    assert psnr(a, a) == 99
    assert psnr(a, b) == pytest.approx(20 * np.log10(255 / 16))


def test_nothing_is_claimed_without_images() -> None:
    one = RendererPsnr(scene="D", frames=(1,), decibels={"tiny": {}})
    assert one.renderer is None


# Folders


def test_both_splits_or_one_are_opened(drawn: Path) -> None:
    assert [s.name for s in open_splits(drawn.parent)] == ["training"]
    assert [s.name for s in open_splits(drawn)] == ["training"]


def test_an_empty_folder_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected frames such as"):
        open_splits(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        open_splits(tmp_path / "nowhere")


def test_faults_count_their_frames() -> None:
    assert Fault(level="error", check="x", split="s", message="m").count == 1


# To look at


def test_a_contact_sheet_and_videos(drawn: Path, tmp_path: Path) -> None:
    import imageio_ffmpeg
    from PIL import Image

    split = SplitFolder(drawn)
    shown = choose(split, 3)
    with Image.open(contact_sheet(split, shown, tmp_path / "sheet.png")) as sheet:
        assert sheet.size == (720, 138)
        assert len(sheet.getcolors(1 << 20) or []) > 1000
    (video,) = write_videos(split, shown, tmp_path)
    count, _ = imageio_ffmpeg.count_frames_and_secs(video)
    assert count == shown[0].last - shown[0].first + 1


def test_a_task_without_demonstrations_is_told(drawn: Path) -> None:
    with pytest.raises(UsageError, match="expected demonstrations of nothing"):
        choose(SplitFolder(drawn), 3, "nothing")


# LeRobot


def test_a_lerobot_data_set_holds_the_same(drawn: Path, tmp_path: Path) -> None:
    need_package("lerobot", "LeRobot")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from calvin_eval.rollouts.datasets.lerobot import export_lerobot

    split = SplitFolder(drawn)
    (annotation,) = split.annotations or ()
    assert export_lerobot([split], tmp_path / "out") == 1
    dataset = LeRobotDataset("local/calvin", root=tmp_path / "out")
    assert len(dataset) == annotation.last - annotation.first + 1
    item, frame = dataset[3], split.read(annotation.first + 3)
    assert item["task"] == annotation.text
    np.testing.assert_array_equal(item["action"], frame["rel_actions"].astype(np.float32))
    np.testing.assert_array_equal(item["observation.state"], frame["robot_obs"].astype(np.float32))
    image = (item["observation.images.static"].permute(1, 2, 0) * 255).round().numpy()
    np.testing.assert_array_equal(image, frame["rgb_static"])
    with pytest.raises(UsageError, match="does not exist yet"):
        export_lerobot([split], tmp_path / "out")


@pytest.mark.parametrize("videos", [False, True])
def test_a_data_set_that_lerobot_wrote_is_read(drawn: Path, tmp_path: Path, videos: bool) -> None:
    need_package("lerobot", "LeRobot")
    from calvin_eval.rollouts.datasets.lerobot import export_lerobot
    from calvin_eval.wrappers.check.lerobot_split import LeRobotSplit

    split = SplitFolder(drawn)
    export_lerobot([split], tmp_path / "out", videos=videos)
    (annotation,) = split.annotations or ()
    read = LeRobotSplit(tmp_path / "out")
    assert [a.text for a in read.annotations or ()] == [annotation.text]
    for step in (0, 5):
        frame, recorded = read.read(step), split.read(annotation.first + step)
        for name in ("rel_actions", "robot_obs", "scene_obs"):
            assert np.array_equal(frame[name], recorded[name].astype(np.float32))
        for name in ("rgb_static", "rgb_gripper"):
            assert psnr(frame[name], recorded[name]) > (25 if videos else 98)


def test_without_lerobot_the_extra_is_named(drawn: Path, tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    from calvin_eval.rollouts.datasets.lerobot import export_lerobot

    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(UsageError, match=r'pip install "calvin-eval\[lerobot\]"'):
        export_lerobot([SplitFolder(drawn)], tmp_path / "out")
