"""From a batch to losses and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
import torch
from calvin_folder import write_split
from tiny_batch import batch, set_weights, with_rows

from calvin_eval.errors import UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.actions import ActionTransform
from calvin_eval.vla.data.collate import CalvinCollator
from calvin_eval.vla.data.dataset import CalvinDataset, ReadOptions
from calvin_eval.vla.data.labels import Writer
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.forward import Trainee, answered, training_losses

pytestmark = pytest.mark.slow

Builder = Callable[..., RoboVLM]
PER_ROW = Compat(act_insert="per_row")
DISCRETE = {
    "type": "DiscreteDecoder", "action_space": "discrete", "n_bin": 256, "min_action": -1,
    "max_action": 1,
}  # fmt: skip
POOLED = {"action_space": "down_sample", "down_sample": "pooling"}
HEADS: dict[str, dict[str, Any]] = {
    "lstm": {"type": "LSTMDecoder"},
    "fc": {"type": "FCDecoder"},
    "gpt": {"type": "GPTDecoder", "hidden_size": 32},
    "pre": {"history_type": "pre"},
    "video": {"history_type": "video", "type": "FCDecoder"},
    "down_sample": POOLED,
    "discrete": DISCRETE,
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    root = tmp_path_factory.mktemp("vlms")
    for family in tiny_vlm.FAMILIES:
        tiny_vlm.save_vlm(root / family, family)

    def make(family: str = "kosmos", compat: Compat | None = None, **head: Any) -> RoboVLM:
        torch.manual_seed(0)
        config = tiny_vlm.project(family, window_size=3, fwd_pred_next_n=2, act_head=head)
        return RoboVLM.build(config, root / family, compat or Compat())

    return make


def fitting(model: RoboVLM) -> dict[str, Any]:
    given = batch(size=model.preprocess.size)
    return with_rows(given, model.action_tokenizer) if model.action_tokenizer else given


def fit(model: RoboVLM, steps: int = 8) -> tuple[float, float]:
    """The loss on one batch before and after a few steps."""
    trainee, given = Trainee(model).train(), fitting(model)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=3e-3)
    before = trainee(given)["loss"].item()
    for _ in range(steps):
        optimizer.zero_grad()
        trainee(given)["loss"].backward()
        optimizer.step()
    return before, trainee(given)["loss"].item()


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
def test_training_lowers_the_loss_of_every_family(build: Builder, family: str) -> None:
    for head in ({}, DISCRETE):
        before, after = fit(build(family, **head))
        assert after < 0.9 * before


@pytest.mark.parametrize("name", HEADS)
def test_training_lowers_the_loss_of_every_head(build: Builder, name: str) -> None:
    before, after = fit(build(**HEADS[name]))
    assert after < 0.9 * before


@pytest.mark.parametrize("name", HEADS)
def test_one_loss_reaches_the_vlm_and_the_head(build: Builder, name: str) -> None:
    model = build(**HEADS[name])
    tiny_vlm.set_weights(model)
    losses = Trainee(model)(fitting(model))
    losses["loss"].backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    for part in ("vision_model", "image_to_text_projection", "text_model"):
        assert any(n.startswith(f"backbone.{part}.") for n in reached), part
    head = {n for n, _ in model.named_parameters() if n.startswith("act_head.")}
    assert head <= reached
    assert ("action_token" in reached) == (model.space == "continuous")
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert loss.requires_grad == ("loss" in name), name


LENGTHS = {
    "text": 6, "text_mask": 6, "instr_and_action_ids": 20, "instr_and_action_labels": 20,
    "instr_and_action_mask": 20,
}  # fmt: skip
"""What the second sample's rows are long without padding."""


@torch.no_grad()
def test_every_row_is_laid_out_as_if_it_were_alone(build: Builder) -> None:
    """The per-row fix: padding changes no sample's loss; in one column it does."""
    for head in (HEADS["lstm"], HEADS["pre"], DISCRETE):
        apart = {}
        for compat in (PER_ROW, Compat()):
            model = build("kosmos", compat, **head)
            set_weights(model)
            given = fitting(model)
            padded = {k: v if k == "data_source" else v[1:] for k, v in given.items()}
            short = {k: v[..., : LENGTHS[k]] if k in LENGTHS else v for k, v in padded.items()}
            losses = [training_losses(model, TrainingBatch.read(b, window=3))["loss_arm_act"]
                      for b in (padded, short)]  # fmt: skip
            apart[compat.act_insert] = abs(losses[0] - losses[1]).item()
        assert apart["per_row"] < 1e-5, head
        assert apart["column"] > 1e-4, head


@torch.no_grad()
def test_words_hidden_from_attention_are_no_padding(build: Builder) -> None:
    """Samples for Open X-Embodiment hide their actions: they stay in front of the end token."""
    model = build("kosmos", PER_ROW, **DISCRETE)
    given = fitting(model)
    labels = given["instr_and_action_labels"]
    given["instr_and_action_mask"] &= ~((labels >= 0) & (labels != 2))
    read = TrainingBatch.read(given, window=3)
    fused = answered(model, read)
    assert fused.labels is not None
    learned = [row[row != -100].tolist() for row in fused.labels]
    assert learned == [rows[rows != -100].tolist() for rows in labels.flatten(1)]
    where = (fused.labels[0] != -100).nonzero().flatten()
    assert where[:15].tolist() == list(range(int(where[0]), int(where[0]) + 15))
    assert fused.mask[0, where[:15]].tolist() == [False] * 14 + [True]


@torch.no_grad()
def test_video_learns_the_chunk_of_the_last_frame(build: Builder) -> None:
    model = build(**HEADS["video"])
    set_weights(model)
    given = batch()
    before = Trainee(model)(given)["loss"].item()
    given["action_chunck"][:, :-1] = 0.9
    assert Trainee(model)(given)["loss"].item() == before
    given["action_chunck"][:, -1] = 0.9
    assert Trainee(model)(given)["loss"].item() != before


def test_what_a_model_needs_is_named(build: Builder) -> None:
    given = batch()
    continuous, discrete = Trainee(build()), Trainee(build(**DISCRETE))
    with pytest.raises(UsageError, match="needs instr_and_action_ids"):
        discrete(given)
    for key, name in (("text", "text"), ("action_chunck", "action_chunk")):
        with pytest.raises(UsageError, match=f"needs {name}"):
            continuous({**given, key: None})
    with pytest.raises(UsageError, match=r"chunks of 2 actions .* found 5"):
        continuous(batch(steps=5))


def test_half_precision_trains(build: Builder) -> None:
    """Weights stay float32 under autocast, and losses are float32."""
    trainee = Trainee(build()).train()
    exact = trainee(batch())["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        losses = trainee(batch())
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert losses["loss"].item() == pytest.approx(exact, abs=0.02)
    losses["loss"].backward()
    grads = [p.grad for p in trainee.parameters() if p.grad is not None]
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert any(grad.any() for grad in grads)


@pytest.mark.parametrize("head", [{}, DISCRETE], ids=["continuous", "discrete"])
def test_batches_of_a_calvin_split_train(
    build: Builder, tmp_path: Path, head: dict[str, Any]
) -> None:
    """From frames on disk to a gradient, with the project's own data set and collator."""
    model = build(**head)
    prepare = model.preprocess
    writer = None
    if model.action_tokenizer is not None:
        writer = Writer(tokenizer=prepare.tokenizer, chat="kosmos", actions=model.action_tokenizer)
    options = ReadOptions(window=3, chunk=2, future_images=False)
    data = CalvinDataset(write_split(tmp_path / "training"), options, images=prepare.images)
    collate = CalvinCollator(
        window=3,
        chunk=2,
        text=prepare.text,
        actions=ActionTransform(bounds=(-0.65, 0.65)),
        writer=writer,
    )
    given = collate([data[i] for i in (0, 61, 63)])
    assert len({int(n) for n in given["text_mask"].sum(1)}) > 1
    assert not given["chunck_mask"].all()
    trainee = Trainee(model).train()
    losses = trainee(given)
    assert all(torch.isfinite(loss) for loss in losses.values())
    losses["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in trainee.parameters())
