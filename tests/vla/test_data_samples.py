"""Samples, labels and batches, beside what RoboVLMs' code gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from calvin_folder import SPANS, TEXTS, ToyTokenizer, frame, write_split
from torch import Tensor

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.actions import ActionTransform
from calvin_eval.vla.data.collate import (
    SPELLINGS,
    ActionPredictionCollator,
    CalvinCollator,
    spelled,
)
from calvin_eval.vla.data.dataset import CalvinDataset, ReadOptions, raw_images
from calvin_eval.vla.data.labels import IGNORED, Writer
from calvin_eval.vla.data.transform import ActionPredictionTransform, SampleLayout

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("data_golden.json").read_text())
TOKENIZERS = {"ends": ToyTokenizer(), "bare": ToyTokenizer(ends=False)}
HEAD = {"n_bin": 256, "min_action": -1, "max_action": 1}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_split(tmp_path_factory.mktemp("data") / "training")


def text(sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    ids = torch.arange(len(sentences))[:, None]
    return ids, torch.ones_like(ids)


def writer(tokenizer: str, chat: str, **options: Any) -> Writer:
    made = ActionTokenizer.from_tokenizer(TOKENIZERS[tokenizer], HEAD, Compat())
    return Writer(tokenizer=TOKENIZERS[tokenizer], chat=chat, actions=made, **options)


def check(found: dict[str, Any], golden: dict[str, Any], images: Sequence[str]) -> None:
    for key, expected in golden.items():
        value = found[key]
        if torch.is_tensor(value):
            value = value[..., 0, 0, 0] if key in images else value
            expected = torch.tensor(expected, dtype=value.dtype)
            assert value.shape == expected.shape, key
            assert torch.allclose(value.double(), expected.double(), rtol=0, atol=3e-4), key
        else:
            assert value == expected, key


@pytest.mark.parametrize("golden", GOLDEN["calvin"], ids=lambda g: g["model"])
def test_calvin_batches_are_the_originals(split: Path, golden: dict[str, Any]) -> None:
    dataset = CalvinDataset(split, ReadOptions(window=3, chunk=2))
    collate = CalvinCollator(
        window=3,
        chunk=2,
        text=text,
        actions=ActionTransform.from_config(golden["config"]),
        writer=writer(golden["tokenizer"], golden["model"], predict_stop=golden["predict_stop"]),
    )
    assert len(dataset) == golden["length"]
    batch = collate([dataset[i] for i in golden["indices"]])
    images = ("rgb", "hand_rgb", "fwd_rgb_chunck", "fwd_hand_rgb_chunck")
    check(batch, golden["batch"], images)
    assert set(batch) == {*golden["batch"], "text", "text_mask"}


@pytest.mark.parametrize("golden", GOLDEN["transform"], ids=lambda g: g["layout"]["organise"])
def test_transformed_samples_are_the_originals(golden: dict[str, Any]) -> None:
    layout = SampleLayout(**golden["layout"])
    transform = ActionPredictionTransform(
        layout=layout,
        writer=writer(golden["tokenizer"], "kosmos", predict_stop=golden["predict_stop"]),
        images=raw_images,
        actions=ActionTransform.from_config(golden["config"]),
    )
    mask = np.array(golden["mask"], bool)
    frames = [frame(200 + i) for i in range(len(mask))]
    # In float64, since NumPy 2 gives the original's float32 companding another type than NumPy 1.
    actions = np.stack([f["rel_actions"] for f in frames])
    static, gripper = (np.stack([f[n] for f in frames]) for n in ("rgb_static", "rgb_gripper"))
    taken = actions if layout.mode == "train" else actions[:-1]
    sample = transform("open it", taken, mask, static, gripper)
    assert list(sample) == list(golden["sample"])
    assert len(sample) == 12
    shown = ("image_tensors", "image_chunk", "gripper_image_tensors", "gripper_image_chunk")
    check(sample, golden["sample"], shown)


def test_shapes_of_a_batch(split: Path) -> None:
    window, chunk = 8, 10
    dataset = CalvinDataset(split, ReadOptions(window=window, chunk=chunk))
    collate = CalvinCollator(window=window, chunk=chunk, text=text, writer=writer("ends", "kosmos"))
    batch = collate([dataset[i] for i in (0, 20, 56, 57)])
    assert batch["rgb"].shape == (4, 8, 3, 8, 8)
    assert batch["hand_rgb"].shape == (4, 8, 3, 4, 4)
    assert batch["action"].shape == (4, 17, 7)
    assert batch["action_chunck"].shape == (4, 8, 10, 7)
    assert batch["chunck_mask"].shape == batch["fwd_mask"].shape == (4, 8, 10)
    assert batch["fwd_rgb_chunck"].shape == (4, 8, 10, 3, 8, 8)
    assert batch["text"].shape == batch["text_mask"].shape == (4, 1)
    assert batch["raw_text"] == [TEXTS[0]] * 3 + [TEXTS[1]]
    ids, labels, mask = (batch[f"instr_and_action_{name}"] for name in ("ids", "labels", "mask"))
    assert ids.shape == labels.shape == mask.shape
    assert ids.shape[:2] == (4, 8)
    assert not ids[~mask].any()
    assert (labels[~mask] == IGNORED).all()
    start = SPANS[0][0]
    for w in range(window):
        for c in range(chunk):
            assert (batch["fwd_rgb_chunck"][0, w, c] == start + w + 1 + c).all()
            expected = frame(start + w + c)["rel_actions"]
            assert np.allclose(batch["action_chunck"][0, w, c, :6], expected[:6], atol=1e-6)
            assert batch["action_chunck"][0, w, c, 6] == (expected[6] == 1)
    assert batch["chunck_mask"][2].sum() == sum(range(1, 9))
    assert batch["fwd_mask"][2].sum() == sum(range(1, 8))


def test_labels_are_learned_where_actions_are_real() -> None:
    made = writer("ends", "kosmos")
    actions = np.linspace(-1, 1, 35).reshape(5, 7)
    mask = np.array([True, True, True, False, False])
    ids, labels, seen = made.window("go", actions, mask, chunk=2)
    assert seen.all()
    assert made.actions is not None
    coded = torch.from_numpy(made.actions.encode(actions))
    prompt = ids.shape[1] - 15
    for w in range(3):
        assert ids[w, prompt:-1].tolist() == coded[w : w + 2].flatten().tolist()
        real = int(mask[w : w + 2].sum()) * 7
        learned = labels[w, prompt : prompt + real]
        assert learned.tolist() == ids[w, prompt : prompt + real].tolist()
        assert (labels[w, :prompt] == IGNORED).all()
        assert (labels[w, prompt + real : -1] == IGNORED).all()
    assert (labels[:, -1] == 3).all()
    silent = writer("ends", "kosmos", predict_stop=False).window("go", actions, mask, chunk=2)
    assert (silent.labels[:, -1] == IGNORED).all()


def test_attention_may_see_actions() -> None:
    hidden = writer("ends", "kosmos").answered([5, 3], np.zeros((2, 7)), np.ones(2, bool))
    shown = writer("ends", "kosmos", attend_actions=True).answered(
        [5, 3], np.zeros((2, 7)), np.ones(2, bool)
    )
    assert hidden.mask.tolist() == [True] + [False] * 14 + [True]
    assert shown.mask.all()


def test_labels_can_follow_the_tcp_frame(split: Path) -> None:
    dataset = CalvinDataset(split, ReadOptions(window=3, chunk=2))
    parts: dict[str, Any] = {
        "window": 3, "chunk": 2, "text": text, "writer": writer("ends", "kosmos"),
        "actions": ActionTransform(tcp=True),
    }  # fmt: skip
    world, tcp = (CalvinCollator(**parts, tcp_labels=on)([dataset[4]]) for on in (False, True))
    assert torch.equal(world["action"], tcp["action"])
    made = parts["writer"].actions
    ids = tcp["instr_and_action_ids"][0, 0, -15:-1].reshape(2, 7)
    assert np.array_equal(ids[:, :6], made.encode(tcp["action"][0, :2, :6]))
    assert not torch.equal(world["instr_and_action_ids"], tcp["instr_and_action_ids"])


def test_companding_leaves_the_gripper_or_the_last_step_alone() -> None:
    actions = np.full((4, 7), 0.25, np.float32)
    for axis, row, column in (("first", 3, slice(None)), ("last", slice(None), 6)):
        made = ActionTransform.from_config({"use_mu_law": True}, Compat(mu_law_axis=axis))
        result = made.scaled(actions)
        assert (result[row, column] == 0.25).all()
        assert (result[:3, :6] > 0.7).all()
        assert result.dtype == np.float32


def test_batches_of_transformed_samples(split: Path) -> None:
    frames = [frame(i) for i in range(5)]
    actions = np.stack([f["rel_actions"] for f in frames]).astype(np.float32)
    images = np.stack([f["rgb_static"] for f in frames])
    layout = SampleLayout(window=3, chunk=2, discrete=True)
    transform = ActionPredictionTransform(
        layout=layout, writer=writer("ends", "kosmos"), images=raw_images
    )
    rows = [transform(s, actions, np.ones(5, bool), images) for s in ("go", "open it")]
    batch = ActionPredictionCollator(pad_id=1)(rows)
    shapes = {key: tuple(value.shape) for key, value in batch.items() if torch.is_tensor(value)}
    length = shapes["text"][-1]
    assert shapes["rgb"] == (2, 3, 3, 8, 8)
    assert shapes["fwd_rgb_chunck"] == (2, 3, 2, 3, 8, 8)
    assert shapes["action"] == (2, 4, 7)
    assert shapes["action_chunck"] == (2, 3, 2, 7)
    assert shapes["text"] == shapes["instr_and_action_labels"] == (2, 3, length)
    assert batch["hand_rgb"] is None
    assert batch["text"][0, 0, -5:].tolist() == [1] * 5
    assert not batch["text_mask"][0, 0, -5:].any()


def test_layouts_that_cannot_be() -> None:
    with pytest.raises(UnknownNameError, match="segment"):
        SampleLayout(window=3, chunk=2, organise="segmented")
    with pytest.raises(UsageError, match="for training"):
        SampleLayout(window=3, chunk=2, discrete=True, mode="inference")
    transform = ActionPredictionTransform(
        layout=SampleLayout(window=3, chunk=2), writer=writer("ends", "kosmos"), images=raw_images
    )
    with pytest.raises(UsageError, match=r"expected .* \(5, 5, 5\) frames"):
        transform("x", np.zeros((4, 7)), np.ones(5, bool), np.zeros((5, 2, 2, 3), np.uint8))


def test_both_spellings() -> None:
    readme = dict.fromkeys([*SPELLINGS, "rgb"], 0)
    code = dict.fromkeys([*SPELLINGS.values(), "rgb"], 0)
    assert spelled(readme) == spelled(code) == code
    with pytest.raises(UsageError, match="one spelling"):
        spelled({**readme, "action_chunck": 1})
