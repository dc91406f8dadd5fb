from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch
from torch import Tensor

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.decoding import greedy
from calvin_eval.vla.extra_tokens import Shown
from calvin_eval.vla.model import RoboVLM

Builder = Callable[..., RoboVLM]
FRAMES = 3
TEXTS = ["push the red block", "lift it", "open the drawer now"]
DISCRETE = {
    "type": "DiscreteDecoder", "action_space": "discrete", "n_bin": 256, "min_action": -1,
    "max_action": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    root = tmp_path_factory.mktemp("vlms")
    for family in tiny_vlm.FAMILIES:
        tiny_vlm.save_vlm(root / family, family)

    def make(family: str = "kosmos", compat: Compat | None = None, **values: Any) -> RoboVLM:
        torch.manual_seed(0)
        config = tiny_vlm.project(family, **values)
        model = RoboVLM.build(config, root / family, compat or Compat())
        sharpen(model)
        return model

    return make


@torch.no_grad()
def sharpen(model: RoboVLM) -> None:
    """Let everything depend on everything: fresh models hardly look at an image."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if name == "action_token":
            parameter.normal_()
        elif parameter.dim() > 1 and name.startswith("backbone."):
            parameter.normal_(std=parameter[0].numel() ** -0.5)


def cameras(model: RoboVLM, rows: int = 3, frames: int = FRAMES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    size = model.preprocess.size
    shape = (rows, frames, 3, size, size)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def close(left: Tensor, right: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(left, right, atol=atol, rtol=0)


def language_model(model: RoboVLM, embeds: Tensor) -> Tensor:
    """The text model of each family, called by its own name: (L, D) to hidden states (L, D)."""
    family, vlm = model.parts.model.config.model_type, model.parts.model
    if family == "kosmos-2":
        text = vlm.text_model.model
    elif family in ("idefics3", "smolvlm"):
        text = vlm.model.text_model
    elif family == "mpt":
        text = vlm.transformer
    else:
        text = vlm.model.language_model
    scale = tiny_vlm.HIDDEN**0.5 if family == "paligemma" else 1.0
    hidden: Tensor = text(inputs_embeds=embeds[None] * scale).last_hidden_state[0]
    return hidden


def tokens(model: RoboVLM, image: Tensor) -> Tensor:
    """One image (3, S, S) as tokens (N, D)."""
    return model.parts.wrap_images(model.parts.encode_images(image[None]))[0]


def laid_out(model: RoboVLM, static: Tensor, hand: Tensor, ids: Tensor) -> tuple[Tensor, int]:
    """Start, gripper, static, text, K action tokens, end; and where the action tokens begin."""
    tokenizer = model.preprocess.tokenizer
    bos, eos = int(tokenizer.bos_token is not None), int(tokenizer.eos_token is not None)
    words, end = model.parts.words.weight[ids], len(ids) - eos
    action = torch.stack([model.action_token] * model.latent)
    parts = [words[:bos], tokens(model, hand), tokens(model, static), words[bos:end], action]
    sequence = torch.cat([*parts, words[end:]])
    return sequence, len(sequence) - eos - model.latent


@pytest.mark.parametrize("family", tiny_vlm.FAMILIES)
@torch.no_grad()
def test_features_are_the_hidden_states_of_the_action_tokens(build: Builder, family: str) -> None:
    model = build(family, act_head={"latent": 2})
    static, hand = cameras(model, 1)
    ids, mask = model.preprocess.text(TEXTS[:1])
    got = model.features(static, hand, ids, mask)
    assert got.shape == (1, FRAMES, 2, tiny_vlm.HIDDEN)
    for t in range(FRAMES):
        sequence, start = laid_out(model, static[0, t], hand[0, t], ids[0])
        close(got[0, t], language_model(model, sequence)[start : start + 2])


RECORDED = Path(__file__).resolve().parent.parent / "golden" / "robovlms_features.json"


@pytest.mark.parametrize("history", ["post", "pre"])
@pytest.mark.parametrize("family", ["kosmos", "paligemma", "llava", "llava_mpt"])
@torch.no_grad()
def test_features_are_those_of_the_original(build: Builder, family: str, history: str) -> None:
    close(recorded_features(build, family, history), recorded(f"{family} {history}"))


@torch.no_grad()
def test_features_behind_the_resampler_are_those_of_the_original(build: Builder) -> None:
    found = recorded_features(build, "llava_mpt", "post", use_vision_resampler=True)
    close(found, recorded("llava_mpt resampler"))
    assert not torch.allclose(found, recorded("llava_mpt post"), atol=0.1)


def recorded_features(build: Builder, family: str, history: str, **values: Any) -> Tensor:
    model = build(family, act_head={"latent": 2, "history_type": history}, **values)
    tiny_vlm.set_weights(model)
    static, hand = (tiny_vlm.wave_like((1, 2, 3, 28, 28), camera) for camera in (1, 2))
    ids = torch.tensor([[3, 20, 30, 40, 50, 2]])
    return model.features(static, hand, ids, torch.ones_like(ids)).flatten()


def recorded(name: str) -> Tensor:
    return torch.tensor(json.loads(RECORDED.read_text(encoding="utf-8"))[name])


@torch.no_grad()
def test_the_layout_is_start_gripper_static_text_action_end(build: Builder) -> None:
    """Kosmos with 5 tokens per image: L + 2 * 5 + K positions, in this order."""
    model = build(act_head={"latent": 2})
    static, hand = cameras(model, 1, 1)
    ids, mask = model.preprocess.text(TEXTS[:1])
    fused = model._sequence(Shown(static, hand, ids, mask), per_row=True)
    words = model.parts.words.weight[ids[0]]
    assert fused.embeds.shape == (1, ids.shape[1] + 10 + 2, tiny_vlm.HIDDEN)
    assert torch.equal(fused.embeds[0, 0], words[0])
    close(fused.embeds[0, 1:6], tokens(model, hand[0, 0]))
    close(fused.embeds[0, 6:11], tokens(model, static[0, 0]))
    assert torch.equal(fused.embeds[0, 11:-3], words[1:-1])
    assert torch.equal(fused.embeds[0, -3], model.action_token)
    assert torch.equal(fused.embeds[0, -1], words[-1])
    assert fused.marked[0].nonzero().flatten().tolist() == [ids.shape[1] + 9, ids.shape[1] + 10]
    assert fused.mask.all()


HEADS: list[dict[str, Any]] = [
    {"latent": 2},
    {"latent": 2, "fill_zero": True},
    *(
        {
            "action_space": "down_sample", "down_sample": "pooling", "latent": 2,
            "token_source": source,
        }
        for source in ("all", "text", "vision")
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("history", ["post", "pre", "video"])
@torch.no_grad()
def test_a_batch_gives_what_its_rows_give_alone(
    build: Builder, history: str, head: dict[str, Any]
) -> None:
    for family in ("kosmos", "paligemma"):
        kind = {"type": "FCDecoder"} if history == "video" else {}
        model = build(family, act_head={**head, **kind, "history_type": history})
        static, hand = cameras(model)
        together = model.features(static, hand, *model.preprocess.text(TEXTS))
        assert together.shape == (3, 1 if history == "video" else FRAMES, 2, tiny_vlm.HIDDEN)
        for row, text in enumerate(TEXTS):
            one = slice(row, row + 1)
            alone = model.features(static[one], hand[one], *model.preprocess.text([text]))
            close(together[one], alone)
        arm, logit = model.act_head(together)
        assert arm.shape == (*together.shape[:2], 3, 6)
        assert logit.shape == (*together.shape[:2], 3, 1)


@torch.no_grad()
def test_a_training_batch_has_action_tokens_in_one_column(build: Builder) -> None:
    """In a shorter row that is behind its end and among its padding."""
    model = build()
    static, hand = cameras(model, 2, 1)
    ids, mask = model.preprocess.text(TEXTS[:2])
    got = model.features(static, hand, ids, mask, per_row=False)
    sequence, start = laid_out(model, static[0, 0], hand[0, 0], ids[0])
    close(got[0, 0, 0], language_model(model, sequence)[start])
    # Row 1 in the same layout: masked positions are kept, and their places count.
    sequence, start = laid_out(model, static[1, 0], hand[1, 0], ids[1])
    visible = torch.cat([torch.ones(10), mask[1, :-1], torch.ones(1), mask[1, -1:]])
    hidden = model.parts.decode(sequence[None], visible[None].bool())
    assert visible[-4:].tolist() == [0, 0, 1, 0]
    close(got[1, 0, 0], hidden[0, start])
    alone = model.features(static[1:], hand[1:], *model.preprocess.text(TEXTS[1:2]))
    assert (got[1] - alone[0]).abs().max() > 1e-4
    close(model.features(static, hand, ids, mask)[1], alone[0])


@torch.no_grad()
def test_fill_zero_hides_the_action_tokens_from_attention(build: Builder) -> None:
    model = build(act_head={"latent": 2, "fill_zero": True})
    static, hand = cameras(model, 1, 1)
    ids, mask = model.preprocess.text(TEXTS[:1])
    sequence, start = laid_out(model, static[0, 0], hand[0, 0], ids[0])
    visible = torch.ones(1, len(sequence))
    visible[0, start : start + 2] = 0
    text = model.parts.model.text_model.model
    hidden = text(inputs_embeds=sequence[None], attention_mask=visible).last_hidden_state[0]
    got = model.features(static, hand, ids, mask)[0, 0]
    close(got, hidden[start : start + 2])
    assert (got - language_model(model, sequence)[start : start + 2]).abs().max() > 1e-3


@pytest.mark.parametrize("history", ["post", "pre"])
@torch.no_grad()
def test_frames_know_of_earlier_frames_only_with_history_pre(build: Builder, history: str) -> None:
    model = build(act_head={"history_type": history})
    static, hand = cameras(model)
    text = model.preprocess.text(TEXTS)
    before = model.features(static, hand, *text)
    later, earlier = static.clone(), static.clone()
    later[:, 1] = 1.0
    earlier[:, 0] = 1.0
    after = model.features(later, hand, *text)
    close(after[:, 0], before[:, 0])
    assert (after[:, 1] - before[:, 1]).abs().max() > 1e-6
    depends = (model.features(earlier, hand, *text)[:, 1] - before[:, 1]).abs().max() > 1e-6
    assert depends == (history == "pre")


@torch.no_grad()
def test_pre_lays_whole_frames_one_after_the_other(build: Builder) -> None:
    model = build(act_head={"history_type": "pre"})
    static, hand = cameras(model, 1)
    ids, mask = model.preprocess.text(TEXTS[:1])
    frames = [laid_out(model, static[0, t], hand[0, t], ids[0]) for t in range(FRAMES)]
    hidden = language_model(model, torch.cat([sequence for sequence, _ in frames]))
    length = len(frames[0][0])
    expected = [hidden[t * length + frames[t][1]] for t in range(FRAMES)]
    close(model.features(static, hand, ids, mask)[0, :, 0], torch.stack(expected))


@torch.no_grad()
def test_video_lays_all_frames_of_a_camera_in_one_block(build: Builder) -> None:
    model = build(act_head={"history_type": "video", "type": "FCDecoder"})
    static, hand = cameras(model, 1)
    ids, mask = model.preprocess.text(TEXTS[:1])
    words = model.parts.words.weight[ids[0]]
    blocks = [tokens(model, image) for image in (*hand[0], *static[0])]
    sequence = torch.cat([words[:1], *blocks, words[1:-1], model.action_token[None], words[-1:]])
    close(model.features(static, hand, ids, mask)[0, 0, 0], language_model(model, sequence)[-2])


@torch.no_grad()
def test_down_sampling_reads_the_tokens_of_its_source(build: Builder) -> None:
    spans = {"all": slice(None), "vision": slice(1, 11), "text": slice(11, -1)}
    for source, span in spans.items():
        head = {"action_space": "down_sample", "down_sample": "pooling", "token_source": source}
        model = build(act_head={**head, "latent": 1})
        assert not hasattr(model, "action_token")
        static, hand = cameras(model, 1, 1)
        ids, mask = model.preprocess.text(TEXTS[:1])
        words = model.parts.words.weight[ids[0]]
        images = [tokens(model, hand[0, 0]), tokens(model, static[0, 0])]
        hidden = language_model(model, torch.cat([words[:1], *images, words[1:]]))
        close(model.features(static, hand, ids, mask)[0, 0, 0], hidden[span].amax(0))


def test_the_gripper_camera_is_looked_at_only_if_configured(build: Builder) -> None:
    model = build(use_hand_rgb=False)
    static, hand = cameras(model)
    text = model.preprocess.text(TEXTS)
    assert torch.equal(model.features(static, hand, *text), model.features(static, None, *text))
    with pytest.raises(PolicyError, match="images of the gripper camera, found none"):
        build().features(static, None, *text)


def test_images_of_the_wrong_shape_are_an_error(build: Builder) -> None:
    model = build()
    static, hand = cameras(model)
    text = model.preprocess.text(TEXTS)
    for bad in ((static[:, 0], hand[:, 0]), (static, hand[:, :1])):
        with pytest.raises(PolicyError, match=r"expected \(B, T, 3, S, S\)"):
            model.features(*bad, *text)


def uncached(
    model: RoboVLM, static: Tensor, hand: Tensor, ids: Tensor, allowed: range | None = None
) -> list[int]:
    """21 words of one prompt, greedily, the whole sequence anew for every word."""
    count = 21
    words = model.parts.words.weight[ids]
    images = [tokens(model, image) for image in (*hand, *static)]
    sequence, found = torch.cat([words[:1], *images, words[1:]]), []
    for _ in range(count):
        logits = model.parts.head(language_model(model, sequence)[-1])
        found.append(max(allowed or range(len(logits)), key=logits.tolist().__getitem__))
        sequence = torch.cat([sequence, model.parts.words.weight[found[-1:]]])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("family", ["kosmos", "paligemma", "llava", "qwen2_vl", "smolvlm"])
@torch.no_grad()
def test_decoding_with_a_cache_in_a_batch_equals_decoding_anew_alone(
    build: Builder, family: str
) -> None:
    model = build(family, Compat(discrete_steps="n"), act_head=DISCRETE)
    tokenizer = model.action_tokenizer
    assert tokenizer is not None
    static, hand = cameras(model)
    ids, mask = model.preprocess.prompt(TEXTS)
    assert mask.sum(1).unique().numel() == 3
    found = []
    for row in range(3):
        prompt = ids[row][mask[row]]
        found.append(uncached(model, static[row], hand[row], prompt))
    assert len({tuple(row) for row in found}) > 1
    expected = tokenizer.decode(found).reshape(3, 3, 7)
    expected[..., -1] = np.where(expected[..., -1] > 0, 1, -1)
    got = model.generate(static, hand, ids, mask)
    assert got.shape == (3, 3, 7)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got, expected)
    assert model.steps == 3


@torch.no_grad()
def test_one_step_is_the_first_of_n(build: Builder) -> None:
    one = build(act_head=DISCRETE)
    many = build(act_head=DISCRETE, compat=Compat(discrete_steps="n"))
    static, hand = cameras(one)
    prompt = one.preprocess.prompt(TEXTS)
    first = one.generate(static, hand, *prompt)
    assert first.shape == (3, 1, 7)
    np.testing.assert_array_equal(first, many.generate(static, hand, *prompt)[:, :1])


@pytest.mark.slow
@torch.no_grad()
def test_constrained_decoding_stays_among_action_ids(build: Builder) -> None:
    for on in (False, True):
        model = build(act_head=DISCRETE, compat=Compat(constrained_decode=on, discrete_steps="n"))
        static, hand = cameras(model)
        ids, mask = model.preprocess.prompt(TEXTS)
        assert model.action_tokenizer is not None
        allowed = model.action_tokenizer.ids
        prompt = model.prompt(static, hand, ids, mask).pad_left()
        found = greedy(model.parts, prompt, 21, allowed if on else None)
        assert all(int(i) in allowed for i in found.flatten()) == on
        expected = uncached(model, static[0], hand[0], ids[0][mask[0]], allowed if on else None)
        assert found[0].tolist() == expected


@pytest.mark.slow
def test_generated_actions_follow_the_option_for_constrained_decoding(build: Builder) -> None:
    """A network that prefers another word says an extreme action unless it may not."""
    found = {}
    for on in (False, True):
        model = build(act_head=DISCRETE, compat=Compat(constrained_decode=on))
        static, hand = cameras(model)
        ids, mask = model.preprocess.prompt(TEXTS)
        tokenizer = model.action_tokenizer
        assert tokenizer is not None
        prompt = model.prompt(static, hand, ids, mask).pad_left()
        said = greedy(model.parts, prompt, 7, tokenizer.ids if on else None)
        expected = tokenizer.decode(said.numpy())
        found[on] = model.generate(static, hand, ids, mask)
        np.testing.assert_array_equal(found[on][:, 0, :6], expected[:, :6])
    assert (found[True] != found[False]).any()


def test_a_model_does_what_its_action_space_says(build: Builder) -> None:
    discrete, continuous = build(act_head=DISCRETE), build()
    static, hand = cameras(continuous)
    text = continuous.preprocess.text(TEXTS)
    with pytest.raises(PolicyError, match="expected a continuous model"):
        discrete.features(static, hand, *text)
    with pytest.raises(PolicyError, match="expected a discrete model"):
        continuous.generate(static, hand, *text)


def test_parameters_have_the_names_of_checkpoints(build: Builder) -> None:
    model = build()
    names = set(model.state_dict())
    assert {
        "action_token", "act_head.rnn.weight_ih_l0", "act_head.actions.mlp.0.weight",
        "backbone.text_model.model.embed_tokens.weight",
        "backbone.vision_model.model.post_layernorm.weight",
        "backbone.image_to_text_projection.latent_query",
    } <= names  # fmt: skip
    assert {name.split(".")[0] for name in names} == {"action_token", "act_head", "backbone"}
    required = model.required_keys()
    assert required == {name for name in names if not name.startswith("backbone.")}
    assert build(act_head=DISCRETE).required_keys() == frozenset()
    assert set(build().state_dict()) == names


def test_old_names_are_renamed_in_the_backbone_only(build: Builder) -> None:
    model = build("paligemma")
    renamed = model.rename_old_key("backbone.language_model.model.norm.weight")
    assert renamed == "backbone.model.language_model.norm.weight"
    assert renamed in model.state_dict()
    for name in ("action_token", "act_head.rnn.weight_ih_l0", "language_model.lm_head.weight"):
        assert model.rename_old_key(name) == name


def test_one_loss_reaches_the_language_model_the_vision_tower_and_the_head(build: Builder) -> None:
    for family in ("kosmos", "paligemma"):
        model = build(family).train()
        static, hand = cameras(model)
        text = model.preprocess.text(TEXTS)
        arm, logit = model.act_head(model.features(static, hand, *text, per_row=False))
        (arm.square().sum() + logit.sum()).backward()
        heads = dict(model.named_parameters())
        reached = {name for name, p in heads.items() if p.grad is not None and p.grad.any()}
        assert {"action_token", "act_head.rnn.weight_ih_l0"} <= reached
        assert any(id(p) == id(model.parts.words.weight) and name in reached
                   for name, p in heads.items())  # fmt: skip
        for part in (model.parts.text, model.parts.vision):
            layers = {id(p) for p in part.parameters() if p.dim() > 1}
            assert any(id(heads[name]) in layers for name in reached)


def test_half_precision_stays_close(build: Builder) -> None:
    model = build()
    static, hand = cameras(model)
    text = model.preprocess.text(TEXTS)
    with torch.no_grad():
        exact = model.act_head(model.features(static, hand, *text))[0]
        half = model.to(torch.bfloat16)
        features = half.features(static, hand, *text)
        assert features.dtype == torch.bfloat16
        close(half.act_head(features)[0].float(), exact, atol=0.05)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"train_setup": {"predict_action": False}}, CheckpointError, "cannot control a robot"),
        ({"window_size": None}, CheckpointError, "window_size"),
        ({"act_head": {"action_space": "continous"}}, UnknownNameError, "'continuous'"),
        ({"act_head": {"history_type": "psot"}}, UnknownNameError, "'post'"),
        ({"act_head": {"token_source": "image"}}, UnknownNameError, "all, text, vision"),
        ({"act_head": {"action_space": "discrete"}}, CheckpointError, "DiscreteDecoder"),
        ({"act_head": {"type": "DiscreteDecoder"}}, CheckpointError, "DiscreteDecoder"),
        ({"act_head": {"history_type": "video"}}, CheckpointError, "expected FCDecoder"),
    ],
)
def test_what_is_not_built_is_refused(
    build: Builder, values: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(**values)


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        RoboVLM.build(tiny_vlm.project("kosmos"), tmp_path, Compat())
