"""Losses and tokens beside those of actions, next to what RoboVLMs' own code computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_clip
import tiny_vlm
import torch
from tiny_batch import batch, set_weights
from torch import nn
from torch.nn import functional as F

from calvin_eval.errors import CheckpointError, PolicyError, UsageError
from calvin_eval.vla.clip_norm import ClipNormHead
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.collate import robot_state
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.forward import training_losses
from calvin_eval.vla.training.losses import LossWeights

SENTENCES = ["push the red block", "open it"]
FED = Compat(state_token="fed")
Builder = Callable[..., RoboVLM]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    folder = tiny_vlm.save_vlm(tmp_path_factory.mktemp("vlm"), "kosmos")
    clip = tiny_clip.save_clip(tmp_path_factory.mktemp("clip"))

    def make(compat: Compat | None = None, **values: Any) -> RoboVLM:
        torch.manual_seed(0)
        config = tiny_vlm.project("kosmos", **{"window_size": 3, "fwd_pred_next_n": 2, **values})
        if values.get("use_clip_norm"):
            config["clip_text"] = str(clip)
        model = RoboVLM.build(config, folder, compat or Compat())
        model.clip_norm_head = ClipNormHead.of_config(config, model.parts.hidden_size)
        set_weights(model)
        return model

    return make


def given() -> dict[str, Any]:
    state = tiny_vlm.wave_like((2, 3, 7), 5)
    state[..., -1] = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    return {**batch(), "raw_text": SENTENCES, "rel_state": state}


def read() -> TrainingBatch:
    return TrainingBatch.read(given(), window=3)


@pytest.mark.parametrize(
    "head", [{"latent": 2}, {"action_space": "down_sample", "down_sample": "pooling"}]
)
@torch.no_grad()
def test_the_clip_loss_is_the_originals(build: Builder, head: dict[str, Any]) -> None:
    """Adaptive max pooling, a linear layer, smooth L1 to the normalised sentence, step by step."""
    model = build(use_clip_norm=True, act_head=head)
    clip: Any = model.clip_norm_head
    shown = read()
    assert shown.ids is not None
    assert shown.mask is not None
    found = training_losses(model, shown)["text_l1_clip"]
    tokens = model.features(shown.static, shown.hand, shown.ids, shown.mask, per_row=False)
    rows = tokens.flatten(0, 1).permute(0, 2, 1)
    pooled = nn.AdaptiveMaxPool1d(1)(rows).reshape(2, 3, -1)
    sentences = []
    for text in SENTENCES:
        ids = clip._tokenizer(text, return_tensors="pt").input_ids
        ids = torch.cat([ids, torch.tensor([[clip._tokenizer.eos_token_id]])], 1)
        embed = clip.model(ids).text_embeds[0]
        sentences.append(embed / embed.norm())
    wanted = torch.stack(sentences).unsqueeze(1).repeat(1, 3, 1)
    said = pooled @ clip.lang_fc.weight.T + clip.lang_fc.bias
    apart = (said - wanted).abs()
    expected = torch.where(apart < 1, 0.5 * apart**2, apart - 0.5).mean()
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found.item() == pytest.approx(F.smooth_l1_loss(said, wanted).item(), abs=1e-5)
    total = LossWeights.from_config({"clip_norm_ratio": 0.2}).total({"text_l1_clip": found})
    assert total.item() == pytest.approx(0.2 * expected.item(), abs=1e-6)


def test_the_clip_loss_trains_clip_as_the_original_does_unless_it_is_frozen(
    build: Builder,
) -> None:
    for frozen in (False, True):
        model = build(use_clip_norm=True, train_setup={"freeze_clip_text": frozen})
        clip: Any = model.clip_norm_head
        training_losses(model, read())["text_l1_clip"].backward()
        assert clip.lang_fc.weight.grad.any()
        reached = [p.grad is not None and bool(p.grad.any()) for p in clip.model.parameters()]
        assert any(reached) != frozen
        assert any(p.grad is not None and p.grad.any() for p in model.parts.text.parameters())


def test_the_clip_loss_needs_its_model_and_sentences(build: Builder, tmp_path: Path) -> None:
    config = tiny_vlm.project("kosmos", use_clip_norm=True)
    with pytest.raises(UsageError, match="clip_text=FOLDER"):
        ClipNormHead.of_config(config, 32)
    with pytest.raises(CheckpointError, match="nothing is downloaded"):
        ClipNormHead.of_config({**config, "clip_text": str(tmp_path)}, 32)
    words = {**config, "act_head": {"action_space": "discrete"}}
    assert ClipNormHead.of_config(words, 32) is None
    without = {key: value for key, value in given().items() if key != "raw_text"}
    with pytest.raises(UsageError, match="needs raw_text"):
        training_losses(build(use_clip_norm=True), TrainingBatch.read(without, window=3))


@pytest.mark.parametrize("history", ["post", "pre", "video"])
@torch.no_grad()
def test_the_state_lies_between_words_and_action_tokens(build: Builder, history: str) -> None:
    """The layout that RoboVLMs' code writes down, put together here by hand."""
    kind = {"type": "FCDecoder"} if history == "video" else {}
    model = build(FED, use_state=True, act_head={"latent": 2, "history_type": history, **kind})
    token = model.state_token
    assert token is not None
    shown = read()
    assert shown.state is not None
    assert shown.ids is not None
    static, hand = shown.static[:1], given()["hand_rgb"][:1]
    ids, state = shown.ids[:1], shown.state[:1]
    found = model.features(static, hand, ids, ids != 1, state=state)
    arm = state[..., :6] @ token.embed_arm_state.weight.T + token.embed_arm_state.bias
    gripper = token.embed_gripper_state.weight[state[..., 6].long()]
    both = torch.cat([arm, gripper], -1)
    tokens = both @ token.embed_state.weight.T + token.embed_state.bias
    words, action = model.parts.embed(ids)[0], model.action_token.expand(2, -1)
    pictures = [model.parts.encode_images(images[0]) for images in (hand, static)]
    frames = [[picture[t] for picture in pictures] for t in range(3)]
    if history == "video":
        blocks = [torch.cat([p.flatten(0, 1) for p in pictures])]
        parts = [[words[:1], blocks[0], words[1:-1], tokens[0], action, words[-1:]]]
    else:
        parts = [
            [words[:1], *frames[t], words[1:-1], tokens[0, t : t + 1], action, words[-1:]]
            for t in range(3)
        ]
    rows = [torch.cat(part) for part in parts]
    rows = [torch.cat(rows)] if history == "pre" else rows
    hidden = [model.parts.decode(r[None], torch.ones(1, len(r)).bool())[0] for r in rows]
    length = sum(map(len, parts[0]))
    wanted = torch.cat([h.reshape(-1, length, h.shape[-1])[:, -3:-1] for h in hidden])
    assert (found[0] - wanted).abs().max() < 1e-5


@torch.no_grad()
def test_without_the_option_a_state_changes_nothing_as_in_the_original(build: Builder) -> None:
    assert build(use_state=True).state_token is None
    assert build(FED).state_token is None
    one = training_losses(build(use_state=True), read())
    other = training_losses(build(), TrainingBatch.read(batch(), window=3))
    assert {k: v.item() for k, v in one.items()} == {k: v.item() for k, v in other.items()}


def test_a_state_matters_and_is_asked_for(build: Builder) -> None:
    model = build(FED, use_state=True)
    assert {"state_token.embed_state.weight", "state_token.embed_gripper_state.weight"} <= (
        model.required_keys()
    )
    assert model.rename_old_key("embed_state.bias") == "state_token.embed_state.bias"
    losses = training_losses(model, read())
    losses["loss_arm_act"].backward()
    assert model.state_token is not None
    assert all(p.grad is not None and p.grad.any() for p in model.state_token.parameters())
    with pytest.raises(PolicyError, match="needs states"):
        training_losses(model, TrainingBatch.read(batch(), window=3))
    wrong = {**batch(), "rel_state": torch.zeros(2, 3, 6)}
    with pytest.raises(UsageError, match=r"rel_state of shape \(2, 3, 7\), found \(2, 3, 6\)"):
        TrainingBatch.read(wrong, window=3)


def test_a_state_is_pose_and_gripper() -> None:
    robot = torch.arange(15.0)
    assert robot_state(robot).tolist() == [0, 1, 2, 3, 4, 5, 1]
    robot[14] = -1
    assert robot_state(robot)[-1] == 0
