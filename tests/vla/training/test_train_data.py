"""From a project configuration to batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from calvin_folder import TEXTS
from tiny_training import SMALL, write_data

from calvin_eval.config.training import compose_training
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.labels import IGNORED
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.preprocess import Preprocess
from calvin_eval.vla.training.data import (
    Batches,
    Share,
    make_dataset,
    make_loader,
    training_compat,
)
from calvin_eval.vla.training.project import write_vlm
from calvin_eval.vla.training.saving import VLM

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def preprocess(data: Path) -> Preprocess:
    config = project(data)
    folder = write_vlm(None, data, TEXTS, config["vlm"]["sizes"])
    return RoboVLM.build(config, folder, Compat()).preprocess


def project(data: Path, *overrides: str) -> dict[str, Any]:
    return compose_training([f"data={data}", *SMALL, *overrides]).project


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


@pytest.mark.parametrize("split", ["train", "val"])
def test_samples_from_memory_are_those_from_disk(
    data: Path, preprocess: Preprocess, split: str
) -> None:
    seen: list[tuple[int, int]] = []
    kept = make_loader(
        project(data, "window_size=2"), preprocess, split,
        watch=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    read = make_loader(
        project(data, "window_size=2", "train_dataset.cache=false"), preprocess, split
    )
    for loader in (kept, read):
        loader.dataset.set_epoch(3)  # type: ignore[attr-defined]
        loader.batch_sampler.start(3)  # type: ignore[union-attr]
    one, other = list(kept), list(read)
    assert all(map(equal, one, other))
    assert len(one) == len(other) > 1
    assert seen[-1] == ((26, 26) if split == "train" else (13, 13))


def test_images_are_the_networks_and_shifted_in_training_only(
    data: Path, preprocess: Preprocess
) -> None:
    config = project(data, f"train_dataset.data_dir={data / 'validation'}")
    still, moved = (make_dataset(config, preprocess, split) for split in ("val", "train"))
    raw = still.frames.read(100, ("rgb_static",))["rgb_static"]
    image = preprocess.normalize(still[0]["rgb_static"][0])
    assert torch.equal(image, preprocess.images([raw])[0])
    slanted = torch.arange(16, dtype=torch.uint8).expand(1, 3, 16, 16)
    for dataset in (still, moved):
        dataset.read_from(dataset.frames, lambda images: slanted)
    found = [[d[i]["rgb_static"][0] for i in range(12)] for d in (still, moved)]
    assert all(torch.equal(image, slanted[0]) for image in found[0])
    assert any(not torch.equal(image, slanted[0]) for image in found[1])
    batch = next(iter(make_loader(config, preprocess, "val")))
    assert (batch["rgb"].dtype, tuple(batch["rgb"].shape)) == (torch.float32, (4, 1, 3, 16, 16))


def test_workers_make_the_same_batches(data: Path, preprocess: Preprocess) -> None:
    config = project(data, "train_dataset.cache=false")
    alone = list(make_loader({**config, "num_workers": 0}, preprocess, "train"))
    helped = list(make_loader({**config, "num_workers": 2}, preprocess, "train"))
    assert len(alone) == 6
    assert all(map(equal, alone, helped))


def test_every_sample_is_in_one_batch_of_an_epoch() -> None:
    batches = Batches(20, 4, seed=1, share=Share())
    orders = []
    for epoch in (0, 1):
        batches.start(epoch)
        orders.append([index for batch in batches for index in batch])
        assert sorted(orders[-1]) == list(range(20))
    assert orders[0] != orders[1]
    batches.start(1, done=3)
    assert [index for batch in batches for index in batch] == orders[1][12:]
    assert len(batches) == 5, "of a whole epoch"


def test_processes_share_the_batches_of_one() -> None:
    whole = list(Batches(23, 6, seed=1, share=Share()))
    halves = [list(Batches(23, 3, seed=1, share=Share(rank, 2))) for rank in range(2)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    assert len(whole) == 3, "what does not fill a batch is left out of this epoch"
    assert len(list(Batches(23, 6, seed=1, share=Share(), keep_last=True))) == 4
    assert len(Batches(3, 64, seed=1, share=Share())) == 1, "few samples are one small batch"
    with pytest.raises(UsageError, match="a sample for each of 4 processes"):
        Batches(3, 2, seed=1, share=Share(0, 4))


def test_tasks_are_chosen(data: Path, preprocess: Preprocess) -> None:
    only = project(data, "train_dataset.tasks=[open_drawer]")
    assert {sample["task"] for sample in _samples(only, preprocess)} == {"open_drawer"}
    without = project(data, "train_dataset.exclude_tasks=[open_drawer]")
    assert {sample["task"] for sample in _samples(without, preprocess)} == {"move_slider_left"}
    with pytest.raises(UnknownNameError, match="Did you mean 'open_drawer'"):
        _samples(project(data, "train_dataset.tasks=[open_drawers]"), preprocess)
    none = ("train_dataset.tasks=[open_drawer]", "train_dataset.exclude_tasks=[open_drawer]")
    with pytest.raises(UsageError, match="none of 2 annotated segments is left"):
        _samples(project(data, *none), preprocess)


def test_listed_segments_scenes_and_starts_are_chosen(
    data: Path, preprocess: Preprocess, tmp_path: Path
) -> None:
    """`pairs`, `scenes` and `skip_frames` of a section: 12 windows of one frame each."""
    pairs = tmp_path / "few_shot.json"
    pairs.write_text('{"move_slider_left": [[120, 132], [1, 2]]}', encoding="utf-8")
    cases = {
        f"pairs={pairs}": (["move_slider_left"], 12),
        "scenes=[A]": (["open_drawer"], 12),
        "scenes=[B]": (["move_slider_left"], 12),
        "skip_frames=5": (["open_drawer", "move_slider_left"], 6),
        "skip_frames=1": (["open_drawer", "move_slider_left"], 24),
    }
    for given, (tasks, count) in cases.items():
        found = _samples(project(data, f"train_dataset.{given}"), preprocess)
        assert [task for task in tasks if any(s["task"] == task for s in found)] == tasks, given
        assert ({sample["task"] for sample in found}, len(found)) == (set(tasks), count), given
    validation = project(data, "val_dataset.skip_frames=4")
    assert len(make_dataset(validation, preprocess, "val")) == 3


def test_validation_is_never_shifted(data: Path, preprocess: Preprocess) -> None:
    """Even where a project file gives its section the keys of training."""
    config = project(data, "use_hand_rgb=true")
    config["val_dataset"] = {**config["val_dataset"], "rgb_pad": 4, "gripper_pad": 4}
    slanted = torch.arange(16, dtype=torch.uint8).expand(1, 3, 16, 16)
    moved: dict[str, int] = {}
    for split in ("train", "val"):
        dataset = make_dataset(config, preprocess, split)
        dataset.read_from(dataset.frames, lambda images: slanted)
        images = [dataset[i][name][0] for i in range(12) for name in ("rgb_static", "rgb_gripper")]
        moved[split] = sum(not torch.equal(image, slanted[0]) for image in images)
    assert moved["val"] == 0 < moved["train"]


def _samples(config: dict[str, Any], preprocess: Preprocess) -> list[dict[str, Any]]:
    dataset = make_dataset(config, preprocess, "train")
    return [dataset[index] for index in range(len(dataset))]


WORDS = (
    "act_head.type=DiscreteDecoder", "act_head.action_space=discrete", "norm_action=true",
    "window_size=2",
)  # fmt: skip


def first_batch(config: dict[str, Any], preprocess: Preprocess) -> dict[str, Any]:
    loader = make_loader(config, preprocess, "val")
    loader.batch_sampler.start(0)  # type: ignore[union-attr]
    batch: dict[str, Any] = next(iter(loader))
    return batch


@pytest.mark.parametrize("rule", ["n", "n_plus_1"])
def test_a_discrete_model_is_trained_with_the_question_that_it_is_asked(
    data: Path, preprocess: Preprocess, rule: str
) -> None:
    config = project(data, *WORDS, f"compat.prompt_steps={rule}")
    batch = first_batch(config, preprocess)
    asked = RoboVLM.build(config, data / VLM, training_compat(config)).preprocess
    for row, sentence in enumerate(batch["raw_text"]):
        ids, mask = asked.prompt([sentence])
        wanted = ids[0][mask[0]].tolist()
        assert batch["instr_and_action_ids"][row, 0, : len(wanted)].tolist() == wanted
        assert batch["instr_and_action_labels"][row, 0, len(wanted)] != IGNORED


def test_words_of_actions_lie_in_the_frame_that_evaluation_takes_them_to_be_in(
    data: Path, preprocess: Preprocess
) -> None:
    config = project(data, *WORDS, "tcp_rel=true")
    batch = first_batch(config, preprocess)
    tokenizer = ActionTokenizer.from_tokenizer(
        preprocess.tokenizer, config["act_head"], training_compat(config)
    )
    labels = batch["instr_and_action_labels"][0, 0]
    words = labels[labels != IGNORED][:7].numpy()
    turned = batch["action_chunck"][0, 0, 0, :6].numpy()  # what a continuous model learns
    cut = turned.clip(-1, 1)
    assert abs(tokenizer.decode(words)[:6] - cut).max() < 0.01
    world = first_batch(project(data, *WORDS), preprocess)["action_chunck"][0, 0, 0, :6].numpy()
    assert abs(world - turned).max() > 0.05


@pytest.mark.parametrize("learned", [True, False])
def test_whether_the_end_token_is_learned(
    data: Path, preprocess: Preprocess, learned: bool
) -> None:
    config = project(data, *WORDS, f"train_dataset.predict_stop_token={str(learned).lower()}")
    batch = first_batch(config, preprocess)
    end = preprocess.tokenizer.eos_token_id
    labels = batch["instr_and_action_labels"]
    assert bool((labels == end).any()) == learned
    assert (batch["instr_and_action_ids"] == end).any()
