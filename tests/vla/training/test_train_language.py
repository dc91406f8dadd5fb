"""Images with sentences: what is read, what is learned, and how data sets take turns."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
from PIL import Image
from tiny_batch import set_weights
from tiny_training import TrainingNotes, run, write_data
from torch.nn import functional as F

from calvin_eval.errors import UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.labels import IGNORED, Writer
from calvin_eval.vla.data.language import (
    CAPTION,
    CONVERSATION,
    IMAGE_ID,
    LanguageCollator,
    LanguageDataset,
    read_conversations,
)
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.forward import Trainee
from calvin_eval.vla.training.language import language_losses
from calvin_eval.vla.training.losses import LossWeights
from calvin_eval.vla.training.mixing import MixedLoader

ENTRIES: list[dict[str, Any]] = [
    {"image": "a.png", "kind": "question", "conversations": [
        {"from": "human", "value": "<image>\nis it open?"}, {"from": "gpt", "value": "yes, it is"},
        {"from": "human", "value": "why?"}, {"from": "gpt", "value": "somebody pulled"}]},
    {"image": "b.npz", "kind": "caption", "conversations": [
        {"from": "human", "value": "<image>\nwhat is it?"}, {"from": "gpt", "value": "a table"}]},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sentences")
    pixels = np.random.default_rng(0).integers(0, 255, (2, 40, 40, 3), np.uint8)
    Image.fromarray(pixels[0]).save(root / "a.png")
    np.savez(root / "b.npz", rgb_static=pixels[1])
    (root / "captions.json").write_text(json.dumps(ENTRIES))
    return root


@pytest.fixture(scope="module", params=["kosmos", "paligemma"])
def model(tmp_path_factory: pytest.TempPathFactory, request: Any) -> RoboVLM:
    place = tiny_vlm.save_vlm(tmp_path_factory.mktemp("vlm"), request.param)
    made = RoboVLM.build(tiny_vlm.project(request.param), place, Compat())
    set_weights(made)
    return made


def batch(model: RoboVLM, folder: Path, source: str = CONVERSATION) -> dict[str, Any]:
    tokenizer = model.preprocess.tokenizer
    data = LanguageDataset(
        read_conversations(folder / "captions.json"),
        Writer(tokenizer=tokenizer, chat="other"),
        model.preprocess.images,
        source=source,
    )
    collate = LanguageCollator(pad_id=tokenizer.pad_token_id, source=source)
    return collate([data[0], data[1]])


def test_answers_are_learned_and_questions_are_not(model: RoboVLM, folder: Path) -> None:
    made, tokenizer = batch(model, folder), model.preprocess.tokenizer
    ids, labels = made["instr_and_action_ids"], made["instr_and_action_labels"]
    assert (ids == IMAGE_ID).sum(1).tolist() == [1, 1]
    learned = [tokenizer.decode(row[row != IGNORED]) for row in labels]
    end = tokenizer.eos_token
    assert learned == [f"yes, it is{end}somebody pulled{end}", f"a table{end}"]
    said = tokenizer.decode(ids[0][(ids[0] != IMAGE_ID) & made["instr_and_action_mask"][0]])
    assert "is it open?" in said
    assert "why?" in said
    assert "<image>" not in said
    captions = batch(model, folder, CAPTION)["instr_and_action_labels"]
    assert tokenizer.decode(captions[0][captions[0] != IGNORED]) == f"somebody pulled{end}"


@torch.no_grad()
def test_the_loss_is_the_originals(model: RoboVLM, folder: Path) -> None:
    """RoboVLMs' forward_vl_task, written down again: one row after the other, with loops."""
    made = batch(model, folder)
    total, count = 0.0, 0
    for row in range(2):
        seen = made["instr_and_action_mask"][row]
        ids = made["instr_and_action_ids"][row][seen].tolist()
        labels = made["instr_and_action_labels"][row][seen].tolist()
        image = model.parts.encode_images(made["rgb"][row])[0]
        parts, wanted = [], []
        for one, label in zip(ids, labels, strict=True):
            if one == -200:
                parts += list(image)
                wanted += [-100] * len(image)
            else:
                parts.append(model.parts.words.weight[one])
                wanted.append(label)
        hidden = model.parts.decode(torch.stack(parts)[None], torch.ones(1, len(parts)).bool())
        logits = model.parts.logits(hidden)[0]
        total += F.cross_entropy(logits[:-1], torch.tensor(wanted[1:]), reduction="sum").item()
        count += sum(label != -100 for label in wanted[1:])
    found = language_losses(model, made)
    assert set(found) == {"loss_vl_cotrain"}
    assert found["loss_vl_cotrain"].item() == pytest.approx(total / count, abs=1e-5)
    listed = {**made, "rgb": [image[0] for image in made["rgb"]]}
    again = language_losses(model, listed)["loss_vl_cotrain"]
    assert again.item() == pytest.approx(found["loss_vl_cotrain"].item(), abs=1e-6)


def test_weights_are_the_originals(model: RoboVLM, folder: Path) -> None:
    """Captions by cap_loss_ratio, conversations by vl_cotrain_ratio, ten times it with words."""
    for source, name in ((CAPTION, "loss_cap"), (CONVERSATION, "loss_vl_cotrain")):
        losses = Trainee(model, LossWeights.from_config({}))(batch(model, folder, source))
        assert losses["loss"].item() == pytest.approx(0.05 * losses[name].item(), rel=1e-5)
        losses["loss"].backward()
    words = LossWeights.from_config({"act_head": {"action_space": "discrete"}})
    assert words.total({"loss_vl_cotrain": torch.tensor(1.0)}).item() == pytest.approx(0.5)
    assert any(p.grad is not None and p.grad.any() for p in model.parts.vision.parameters())


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image": "../out.png"}, "expected an image below"),
        ({"conversations": []}, "expected an image and conversations"),
        ({"image": "a.png", "conversations": [{"from": "gpt", "value": "x"}]}, "turns of human"),
        ({"image": "a.png", "conversations": [{"from": "gpt"}, {"from": "human"}]}, "of 'human'"),
    ],
)
def test_entries_of_another_form_are_refused(
    tmp_path: Path, entry: dict[str, Any], message: str
) -> None:
    path = tmp_path / "captions.json"
    path.write_text(json.dumps([entry]))
    with pytest.raises(UsageError, match=message):
        read_conversations(path)
    path.write_text("[")
    with pytest.raises(UsageError, match="is not JSON"):
        read_conversations(path)


class Counted:
    """A loader of numbers: which, epoch, place."""

    def __init__(self, which: int, length: int) -> None:
        self.which, self.length, self.epoch, self.done = which, length, 0, 0
        self.dataset, self.batch_sampler = range(length), self

    def start(self, epoch: int, done: int = 0) -> None:
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        return iter([(self.which, self.epoch, place) for place in range(self.done, self.length)])


def test_data_sets_take_turns_by_weight_and_start_over() -> None:
    def loader(weights: list[float] | None) -> MixedLoader:
        return MixedLoader([Counted(0, 1000), Counted(1, 30)], weights, 3)  # type: ignore[list-item]

    mixed = loader([0.8, 0.2])
    assert (len(mixed), len(mixed.dataset)) == (1000, 1030)
    mixed.start(0)
    found = list(mixed)
    counts = Counter(which for which, _, _ in found)
    assert abs(counts[1] - 200) < 40
    short = [(epoch, place) for which, epoch, place in found if which == 1]
    assert [place for _, place in short] == [i % 30 for i in range(len(short))]
    assert len({epoch for epoch, _ in short}) == -(-len(short) // 30)
    for done in (1, 77, 555):
        again = loader([0.8, 0.2])
        again.start(0, done)
        assert list(again) == found[done:]
    mixed.start(1)
    assert list(mixed) != found
    assert Counter(which for which, _, _ in loader(None)).total() == 1000
    with pytest.raises(UsageError, match="expected 2 numbers"):
        loader([1.0])


@pytest.mark.slow
def test_a_training_of_actions_and_sentences_goes_on_where_it_was(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    frames = sorted(path.name for path in (data / "training").glob("episode_*.npz"))[:6]
    entries = [{**ENTRIES[i % 2], "image": name} for i, name in enumerate(frames)]
    (data / "training" / "captions.json").write_text(json.dumps(entries))
    section = f"data_dir:'{data / 'training'}'"
    asked, told = "type:VideoLLaVADataset,batch_size:2", "type:ImageTextDataset"
    mix = f"cotrain=[{{{asked},{section}}},{{{told},{section}}}]"
    keys = (mix, "weights=[2,1,1]", "trainer.max_epochs=-1", "vl_cotrain_ratio=0.3")
    notes = TrainingNotes()
    through = run(data, tmp_path / "one", *keys, "trainer.max_steps=12", notes=notes)
    logged = Counter(name for values in notes.values for name in values)
    for name in ("train_loss_arm_act", "train_loss_vl_cotrain", "train_loss_cap"):
        assert 0 < logged[name] < 12
    for values in notes.values:
        if "train_loss_vl_cotrain" in values:
            expected = 0.3 * values["train_loss_vl_cotrain"]
            assert values["train_loss"] == pytest.approx(expected, rel=1e-4)
    run(data, tmp_path / "two", *keys, "trainer.max_steps=5")
    resumed = run(None, tmp_path / "two", "trainer.max_steps=12")
    assert resumed.position.step == through.position.step
    tokenizer = (tmp_path / "one" / "vlm" / "tokenizer.json").read_text()
    assert "pulled" in tokenizer  # its merges are learned from the sentences too
