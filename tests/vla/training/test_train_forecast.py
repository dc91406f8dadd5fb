"""Predicting images: those to come, and what is hidden of the present one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
from tiny_batch import batch, set_weights
from torch import Tensor

from calvin_eval.errors import UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.extra_tokens import Shown
from calvin_eval.vla.forward_head import ForwardHead, evened, hidden_patches, patches, without
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.forward import Trainee, training_losses
from calvin_eval.vla.training.losses import LossWeights

HEAD = {
    "type": "ImageDecoder", "image_latent_num": 2, "pred_hand_image": True, "hidden_size": 16,
    "num_layers": 1, "num_heads": 2,
}  # fmt: skip
LEARNED = {"predict_action": True, "predict_forward": True}
BINS = {"n_bin": 256, "min_action": -1, "max_action": 1}
Builder = Callable[..., RoboVLM]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    folder = tiny_vlm.save_vlm(tmp_path_factory.mktemp("vlm"), "kosmos")

    def make(**values: Any) -> RoboVLM:
        torch.manual_seed(0)
        values = {"fwd_head": HEAD, "train_setup": LEARNED, **values}
        config = tiny_vlm.project("kosmos", window_size=3, fwd_pred_next_n=2, **values)
        model = RoboVLM.build(config, folder, Compat())
        set_weights(model)
        return model

    return make


def given() -> dict[str, Any]:
    wave, shape = tiny_vlm.wave_like, (2, 3, 2, 3, 28, 28)
    mask = torch.ones(2, 3, 2).long()
    mask[0, 2], mask[1, 1:, 1] = 0, 0
    return {
        **batch(), "fwd_rgb_chunck": wave(shape, 7), "fwd_hand_rgb_chunk": wave(shape, 8),
        "fwd_mask": mask,
    }  # fmt: skip


def read(**changes: Any) -> TrainingBatch:
    return TrainingBatch.read({**given(), **changes}, window=3)


def cut(image: Tensor, side: int) -> Tensor:
    """Patches of one image (3, S, S), with two loops."""
    rows = image.shape[-1] // side
    squares = [
        image[:, r * side : (r + 1) * side, c * side : (c + 1) * side].permute(1, 2, 0).flatten()
        for r in range(rows)
        for c in range(rows)
    ]
    return torch.stack(squares)


def test_patches_lie_row_by_row() -> None:
    images = tiny_vlm.wave_like((2, 3, 28, 28), 1)
    found = patches(images, 7)
    assert torch.equal(found, torch.stack([cut(image, 7) for image in images]))
    even = evened(found)
    assert even.mean(-1).abs().max() < 1e-5
    assert (even.std(-1) - 1).abs().max() < 1e-2


@torch.no_grad()
def test_the_pixel_loss_by_hand(build: Builder) -> None:
    """Padded frames count nowhere; the mean is over the images that are there."""
    model = build()
    head, shown = model.fwd_head, read()
    assert isinstance(head, ForwardHead)
    losses = training_losses(model, shown)
    assert shown.ids is not None
    assert shown.mask is not None
    look = Shown(shown.static, shown.hand, shown.ids, shown.mask)
    asked = model.read(look, per_row=False, asked=True).asked
    assert asked is not None
    assert asked.shape == (2, 3, 8, tiny_vlm.HIDDEN)  # two cameras, two images, two tokens
    said = head(asked, 4)
    data = given()
    for camera, (key, name) in enumerate(
        [("fwd_rgb_chunck", "loss_obs_fwd"), ("fwd_hand_rgb_chunk", "loss_hand_obs_fwd")]
    ):
        total, count = 0.0, 0
        for b, t, c in np.argwhere(data["fwd_mask"].numpy()):
            wanted = cut(data[key][b, t, c], 14)
            wanted = (wanted - wanted.mean(1, keepdim=True)) / (
                wanted.var(1, keepdim=True) + 1e-6
            ).sqrt()
            total += float(((said[camera][b, t, c] - wanted) ** 2).mean())
            count += 1
        assert count == 2 * 3 * 2 - 4
        assert losses[name].item() == pytest.approx(total / count, abs=1e-5)


@pytest.mark.parametrize("history", ["post", "pre", "video"])
@torch.no_grad()
def test_actions_do_not_see_the_questions_about_images(build: Builder, history: str) -> None:
    kind = {"type": "FCDecoder"} if history == "video" else {}
    act_head = {"history_type": history, **kind}
    model, plain = build(act_head=act_head), build(act_head=act_head, fwd_head=None)
    assert model.fwd_head is not None
    shown = read()
    assert shown.ids is not None
    assert shown.mask is not None
    look = Shown(shown.static, shown.hand, shown.ids, shown.mask)
    asked, left = model.read(look, asked=True), model.read(look)
    assert (asked.features - left.features).abs().max() < 1e-5
    apart = (left.features - plain.read(look).features).abs().max(dim=-1).values[0, :, 0]
    # In one sequence later frames do see those of earlier ones, in training as at evaluation.
    assert bool(apart[0] < 1e-5)
    assert bool(apart[-1] > 1e-4) == (history == "pre")


def test_the_weights_are_the_originals(build: Builder) -> None:
    """fwd_loss_ratio counts for both cameras, and only with predict_forward."""
    losses = {"loss_obs_fwd": torch.tensor(2.0), "loss_hand_obs_fwd": torch.tensor(3.0)}
    config = {"fwd_loss_ratio": 0.1, "train_setup": LEARNED}
    assert LossWeights.from_config(config).total(losses).item() == pytest.approx(0.5)
    assert LossWeights.from_config({"fwd_loss_ratio": 0.1}).total(losses).item() == 0


@pytest.mark.parametrize(
    "values",
    [{}, {"use_pixel_loss": False}, {"fwd_head": {**HEAD, "global_frame_num": 2}},
     {"use_mim_obs_loss": True, "use_tube_mask": True}],
)  # fmt: skip
@pytest.mark.slow
def test_images_are_learned(build: Builder, values: dict[str, Any]) -> None:
    model = build(**values)
    with torch.no_grad():
        for parameter in (model.fwd_head or model).parameters():
            parameter.mul_(0.3)
    trainee = Trainee(model, LossWeights(forward=1.0))
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-2)

    def loss() -> Tensor:
        torch.manual_seed(3)  # the same patches are hidden
        return trainee(given())["loss_obs_fwd"]

    before = loss()
    for _ in range(12):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss() < 0.95 * before
    assert model.fwd_head is not None
    assert all(p.grad is not None for n, p in model.fwd_head.named_parameters() if "hand" not in n)
    assert model.fwd_head.static_image_tokens.grad.any()  # type: ignore[union-attr]
    assert any(p.grad is not None and p.grad.any() for p in model.parts.text.parameters())


@torch.no_grad()
def test_only_hidden_patches_of_the_present_image_are_learned(build: Builder) -> None:
    """The loss of a masked pass, put together again; actions see the whole image."""
    model, shown = build(use_mim_obs_loss=True, vision_masked_ratio=0.5), read()
    head = model.fwd_head
    assert isinstance(head, ForwardHead)
    assert shown.ids is not None
    assert shown.mask is not None
    torch.manual_seed(5)
    losses = training_losses(model, shown)
    torch.manual_seed(5)
    masks = [hidden_patches((2, 3), 4, 0.5, tube=False) for _ in range(2)]
    static, hand = (
        without(images, mask, 14)
        for images, mask in zip((shown.static, given()["hand_rgb"]), masks, strict=True)
    )
    asked = model.read(Shown(static, hand, shown.ids, shown.mask), asked=True).asked
    assert asked is not None
    said = head(asked, 4)[0]
    wanted = evened(patches(shown.static, 14))
    square = ((said[:, :, 0] - wanted) ** 2).mean(-1)
    assert losses["loss_obs_fwd"].item() == pytest.approx(square[masks[0]].mean().item(), abs=1e-5)
    plain = training_losses(build(fwd_head=None), shown)
    assert losses["loss_arm_act"].item() == pytest.approx(plain["loss_arm_act"].item(), abs=1e-5)


def original_mask(count: int, ratio: float, draw: np.random.RandomState) -> Any:
    """RoboVLMs' own rule, written down again: so many places, drawn without repetition."""
    seen = np.ones(count, bool)
    seen[draw.choice(np.arange(count), int(ratio * count), replace=False)] = False
    return seen


@pytest.mark.parametrize(("count", "ratio"), [(256, 0.9), (64, 0.8), (10, 0.99), (10, 0.0)])
def test_as_many_patches_are_hidden_as_in_the_original(count: int, ratio: float) -> None:
    expected = (~original_mask(count, ratio, np.random.RandomState(0))).sum()
    torch.manual_seed(0)
    free = hidden_patches((5, 3), count, ratio, tube=False)
    assert free.sum(-1).unique().tolist() == [expected]
    tube = hidden_patches((5, 3), count, ratio, tube=True)
    assert torch.equal(tube[:, 0], tube[:, 2])
    if 0 < expected < count - 1:
        assert not torch.equal(free[:, 0], free[:, 2])
        assert not torch.equal(tube[0], tube[1])


def test_hidden_patches_are_blank() -> None:
    images, hidden = torch.ones(1, 1, 3, 28, 28), torch.zeros(1, 1, 4).bool()
    hidden[0, 0, 1] = True
    seen = without(images, hidden, 14)
    assert not seen[0, 0, :, :14, 14:].any()
    assert seen.sum() == 3 * 28 * 28 * 3 / 4


def test_what_does_not_fit_is_an_error(build: Builder) -> None:
    with pytest.raises(UsageError, match="needs fwd_rgb_chunk and fwd_mask"):
        training_losses(build(), TrainingBatch.read(batch(), window=3))
    short = {**given(), "fwd_hand_rgb_chunk": None}
    with pytest.raises(UsageError, match="needs fwd_hand_rgb_chunk"):
        training_losses(build(), TrainingBatch.read(short, window=3))
    with pytest.raises(UsageError, match=r"fwd_mask of shape \(2, 3, 2\)"):
        read(fwd_mask=torch.ones(2, 3, 5))
    with pytest.raises(UsageError, match="n, 3, S, S"):
        read(fwd_rgb_chunck=torch.zeros(2, 3, 3, 28, 28))
    with pytest.raises(UsageError, match="global_frame_num: expected -1 or 2 to 3"):
        build(fwd_head={**HEAD, "global_frame_num": 9})
    with pytest.raises(UsageError, match=r"divisor of the image's 28 pixels, found 9"):
        build(fwd_head={**HEAD, "patch_size": 9})
    with pytest.raises(UsageError, match="sizes from 1 up"):
        build(vision_masked_ratio=1.5)


def test_a_head_that_nobody_ships_is_no_part_of_an_evaluation(build: Builder) -> None:
    """RoboVLMs never puts its tokens into a sequence, so that actions are what they are."""
    assert build(fwd_head={"type": "TheirOwn"}).fwd_head is None
    words = {"type": "DiscreteDecoder", "action_space": "discrete", **BINS}
    assert build(act_head=words).fwd_head is None
