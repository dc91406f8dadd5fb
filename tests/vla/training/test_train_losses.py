"""Losses and their weights beside RoboVLMs' own code."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
import torch
from tiny_batch import batch, set_weights, with_rows

from calvin_eval.errors import UsageError
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.forward import answered, training_losses
from calvin_eval.vla.training.losses import LossWeights, action_losses, token_losses

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "golden" / "robovlms_losses.json").read_text()
)
POOLED = {"action_space": "down_sample", "down_sample": "pooling"}
DISCRETE = {
    "type": "DiscreteDecoder", "action_space": "discrete", "n_bin": 256, "min_action": -1,
    "max_action": 1,
}  # fmt: skip
HEADS: dict[str, dict[str, Any]] = {
    "continuous post": {"latent": 2},
    "continuous pre": {"latent": 2, "history_type": "pre"},
    "fill_zero": {"fill_zero": True},
    "down_sample all": {**POOLED, "token_source": "all"},
    "down_sample text": {**POOLED, "token_source": "text"},
    "down_sample vision": {**POOLED, "token_source": "vision"},
    "discrete": DISCRETE,
    "discrete no hand": DISCRETE,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm.save_vlm(tmp_path_factory.mktemp("vlm"), "kosmos")


def build(folder: Path, name: str) -> RoboVLM:
    hand = "no hand" not in name
    config = tiny_vlm.project(
        "kosmos", window_size=3, fwd_pred_next_n=2, act_head=HEADS[name], use_hand_rgb=hand
    )
    model = RoboVLM.build(config, folder, Compat())
    set_weights(model)
    return model


@pytest.mark.parametrize("name", HEADS)
@torch.no_grad()
def test_losses_of_a_padded_batch_are_the_originals(folder: Path, name: str) -> None:
    model = build(folder, name)
    given = batch()
    if model.action_tokenizer is not None:
        given = with_rows(given, model.action_tokenizer)
    losses = training_losses(model, TrainingBatch.read(given, window=3))
    expected = {key.replace("l1_act", "l1"): value for key, value in GOLDEN[name].items()}
    assert {key: value.item() for key, value in losses.items()} == pytest.approx(expected, abs=2e-6)


@torch.no_grad()
def test_discrete_labels_and_masks_lie_where_the_originals_lie(folder: Path) -> None:
    """Images behind the first word, their labels ignored; frames one after the other."""
    model = build(folder, "discrete")
    assert model.action_tokenizer is not None
    given = with_rows(batch(), model.action_tokenizer)
    fused = answered(model, TrainingBatch.read(given, window=3))
    assert fused.labels is not None
    assert fused.labels[1].tolist() == GOLDEN["discrete layout"]["labels"]
    assert "".join(map(str, fused.mask[1].int().tolist())) == GOLDEN["discrete layout"]["mask"]


def test_measures_of_words_are_the_originals() -> None:
    tokenizer = ActionTokenizer(base=646)
    labels = torch.tensor([-100, -100, *range(400, 470, 5), 2, -100, *range(600, 614), 2])
    logits = 3 * tiny_vlm.wave_like((len(labels), 660), 4)
    for i in range(1, len(labels), 3):
        if labels[i] >= 0:
            logits[i - 1, labels[i]] = 9.0
    losses = token_losses(logits[:-1], labels[1:], tokenizer)
    expected = {
        "loss_arm_act": "loss_arm", "acc_arm_act": "acc_arm", "acc_gripper_act": "acc_gripper",
        "action_l1": "action_l1",
    }  # fmt: skip
    for ours, theirs in expected.items():
        assert losses[ours].item() == pytest.approx(GOLDEN["tokens"][theirs], abs=2e-6), ours


def test_losses_by_hand() -> None:
    """Huber is quadratic up to 1 and linear behind; padded actions count nowhere."""
    arm, chunk = torch.zeros(1, 1, 3, 6), torch.zeros(1, 1, 3, 7)
    chunk[0, 0, 0, :6], chunk[0, 0, 1, :6], chunk[0, 0, 2] = 0.5, 2.0, 77.0
    chunk[0, 0, 1, 6] = 1.0
    logit = torch.tensor([[[[0.0], [math.log(3)], [-50.0]]]])
    mask = torch.tensor([[[True, True, False]]])
    losses = action_losses(arm, logit, chunk, mask)
    assert losses["loss_arm_act"].item() == pytest.approx((0.125 + 1.5) / 2)
    assert losses["loss_gripper_act"].item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)
    assert losses["acc_gripper_act"].item() == 1.0


def test_a_batch_in_which_nothing_counts_has_zero_loss_and_zero_gradient() -> None:
    arm = torch.randn(1, 2, 3, 6, requires_grad=True)
    logit = torch.randn(1, 2, 3, 1, requires_grad=True)
    losses = action_losses(arm, logit, torch.zeros(1, 2, 3, 7), torch.zeros(1, 2, 3).bool())
    LossWeights().total(losses).backward()
    assert {key: value.item() for key, value in losses.items()} == dict.fromkeys(losses, 0.0)
    assert arm.grad is not None
    assert not arm.grad.any()
    words = token_losses(
        torch.randn(2, 660, requires_grad=True), torch.tensor([-100, -100]), ActionTokenizer(646)
    )
    assert {key: value.item() for key, value in words.items()} == {"loss_arm_act": 0.0}


def test_only_whole_actions_are_measured() -> None:
    with pytest.raises(UsageError, match="whole actions of 7 words, found 3"):
        token_losses(torch.zeros(3, 660), torch.tensor([600, 601, 602]), ActionTokenizer(646))


def test_total_is_arm_and_a_hundredth_of_the_gripper_and_captions() -> None:
    losses = {"loss_arm_act": torch.tensor(0.7), "loss_gripper_act": torch.tensor(0.3)}
    weights = LossWeights.from_config({})
    assert weights.total(losses).item() == pytest.approx(0.7 + 0.01 * 0.3, abs=1e-6)
    losses["loss_cap"] = torch.tensor(2.0)
    assert weights.total(losses).item() == pytest.approx(0.7 + 0.01 * 0.3 + 0.05 * 2, abs=1e-6)
    losses["acc_gripper_act"] = torch.tensor(99.0)
    assert weights.total(losses).item() == pytest.approx(0.7 + 0.01 * 0.3 + 0.05 * 2, abs=1e-6)
    with pytest.raises(UsageError, match="expected one of loss_arm_act"):
        weights.total({"acc_gripper_act": torch.tensor(1.0)})


def test_weights_of_a_configuration() -> None:
    names = {
        "arm_gripper_loss_ratio": "loss_gripper_act", "kl_div_ratio": "loss_kl",
        "clip_norm_ratio": "text_l1_clip", "fwd_loss_ratio": "loss_obs_fwd",
        "cap_loss_ratio": "loss_cap", "vl_cotrain_ratio": "loss_vl_cotrain",
    }  # fmt: skip
    for key, loss in names.items():
        weights = LossWeights.from_config({key: 0.5, "train_setup": {"predict_forward": True}})
        assert weights.total({loss: torch.tensor(3.0)}).item() == pytest.approx(1.5)
    unseen = LossWeights.from_config({"fwd_loss_ratio": 0.5})
    assert unseen.total({"loss_obs_fwd": torch.tensor(3.0)}).item() == 0
    discrete = LossWeights.from_config({"act_head": DISCRETE})
    assert discrete.total({"loss_vl_cotrain": torch.tensor(1.0)}).item() == pytest.approx(0.5)
    for wrong in (-1, "0.1", True):
        with pytest.raises(UsageError, match="cap_loss_ratio: expected a number from 0 up"):
            LossWeights.from_config({"cap_loss_ratio": wrong})
