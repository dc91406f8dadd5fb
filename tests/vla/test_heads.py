from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.heads import build_head, pool

WINDOW, STEPS, WIDTH = 4, 3, 32


def head(kind: str = "LSTMDecoder", **options: object) -> nn.Module:
    torch.manual_seed(0)
    values = {"hidden_size": 16, "action_dim": 7, "down_sample": "none", "latent": 2, **options}
    return build_head({"type": kind, **values}, WIDTH, STEPS, WINDOW).eval()


def features(frames: int, tokens: int = 2, rows: int = 2) -> torch.Tensor:
    return torch.randn(
        rows, frames, tokens, WIDTH, generator=torch.Generator().manual_seed(frames + tokens)
    )


def test_the_published_lstm_head_has_its_41_million_parameters() -> None:
    with torch.device("meta"):
        made = build_head(
            {"type": "LSTMDecoder", "hidden_size": 1024, "down_sample": "none"}, 2048, 10, 8
        )
    assert sum(p.numel() for p in made.parameters()) == 41_210_950


@pytest.mark.parametrize("kind", ["LSTMDecoder", "FCDecoder", "GPTDecoder"])
def test_parameters_have_the_names_of_checkpoints(kind: str) -> None:
    made = head(kind, **({"latent": 1} if kind == "GPTDecoder" else {}))
    names = set(made.state_dict())
    mlps = {
        f"{m}.mlp.{i}.{p}"
        for m in ("actions", "gripper")
        for i in (0, 2, 4, 6)
        for p in ("weight", "bias")
    }
    assert mlps <= names
    own = {
        "LSTMDecoder": {"rnn.weight_ih_l0", "rnn.weight_hh_l3", "rnn.bias_ih_l3", "rnn.bias_hh_l0"},
        "FCDecoder": {"mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias"},
        "GPTDecoder": {
            "fc.weight", "fc.bias", "gpt.wpe.weight", "gpt.ln_f.weight", "gpt.h.0.ln_1.weight",
            "gpt.h.7.attn.c_attn.weight", "gpt.h.7.attn.c_proj.bias", "gpt.h.7.mlp.c_fc.weight",
        },
    }[kind]  # fmt: skip
    assert own <= names
    tops = {name.split(".")[0] for name in names - mlps}
    assert tops == {name.split(".")[0] for name in own}
    assert not any("wte" in name for name in names)


def test_the_layers_are_those_of_the_description() -> None:
    made = head()
    sizes = [layer.weight.shape for layer in made.actions.mlp if isinstance(layer, nn.Linear)]
    assert [(s[1], s[0]) for s in sizes] == [*pairwise((32, 1024, 512, 256, 18))]
    assert made.gripper.mlp[6].out_features == 3
    assert (made.rnn.input_size, made.rnn.hidden_size, made.rnn.num_layers) == (64, 32, 4)
    assert head("GPTDecoder", latent=1).gpt.wpe.weight.shape == (WINDOW, 16)
    assert made.actions.mlp[0].bias.abs().max() == 0
    assert 0 < made.actions.mlp[0].weight.abs().max() <= (6 / (32 + 1024)) ** 0.5


def test_the_arm_is_squashed_and_the_gripper_is_a_logit() -> None:
    made = head()
    with torch.no_grad():
        made.actions.mlp[6].bias.fill_(9.0)
        made.gripper.mlp[6].bias.fill_(9.0)
        arm, logit = made(features(2))
    assert arm.shape == (2, 2, 3, 6)
    assert logit.shape == (2, 2, 3, 1)
    assert arm.max() <= 1
    assert arm.min() > 0.99
    assert logit.min() > 5


def lstm_stream(made: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """What carrying the state does: up to W steps with it, afterwards over the last W from zero."""
    outputs, state = [], None
    for t in range(frames.shape[1]):
        if t < WINDOW:
            out, state = made.rnn(frames[:, t : t + 1], state)
        else:
            out, _ = made.rnn(frames[:, t - WINDOW + 1 : t + 1])
        outputs.append(made.actions(out[:, -1]))
    return torch.stack(outputs, 1)


def test_a_window_from_zero_state_equals_the_streaming_lstm() -> None:
    made, frames = head(), features(3 * WINDOW)
    with torch.no_grad():
        expected = lstm_stream(made, frames.flatten(2)).unflatten(-1, (STEPS, 6))
        for t in range(frames.shape[1]):
            arm, _ = made(frames[:, max(0, t - WINDOW + 1) : t + 1])
            torch.testing.assert_close(arm[:, -1], expected[:, t], atol=1e-6, rtol=0)
    # The state matters: the last frame alone says something else.
    with torch.no_grad():
        assert (made(frames[:, -1:])[0][:, -1] - expected[:, -1]).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["LSTMDecoder", "GPTDecoder", "FCDecoder"])
def test_what_comes_later_changes_nothing_so_windows_may_be_padded(kind: str) -> None:
    made = head(kind, **({"latent": 1} if kind == "GPTDecoder" else {}))
    window = features(4, made.latent)
    changed = window.clone()
    changed[:, 2:] = 0
    with torch.no_grad():
        arm, logit = made(window)
        arm2, logit2 = made(changed)
        torch.testing.assert_close(arm[:, :2], arm2[:, :2], atol=1e-6, rtol=0)
        torch.testing.assert_close(logit[:, :2], logit2[:, :2], atol=1e-6, rtol=0)
        changed[:, 0] = 0
        remembers = (made(changed)[0][:, 1] - arm[:, 1]).abs().max() > 1e-6
    assert remembers == (kind != "FCDecoder")


def test_gpt_reads_positions_and_its_last_answer_is_that_of_the_window() -> None:
    made = head("GPTDecoder", latent=1)
    frame = features(1, 1).expand(-1, 3, -1, -1)
    with torch.no_grad():
        x = made.fc(frame.flatten(2))
        expected = made.gpt.ln_f(_blocks(made, x + made.gpt.wpe.weight[:3]))
        torch.testing.assert_close(made.remember(frame.flatten(2)), expected, atol=1e-5, rtol=0)


def _blocks(made: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """GPT-2 blocks with plain attention, written out."""
    for block in made.gpt.h:
        q, k, v = block.attn.c_attn(block.ln_1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (8, -1)).transpose(1, 2) for part in (q, k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        hidden = torch.ones_like(scores).triu(1).bool()
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        x = x + block.attn.c_proj(mixed.transpose(1, 2).flatten(2))
        x = x + block.mlp.c_proj(block.mlp.act(block.mlp.c_fc(block.ln_2(x))))
    return x


def test_pooling_is_the_maximum_over_even_parts_of_the_tokens() -> None:
    tokens = features(2, 7)
    by_hand = torch.stack([tokens[:, :, :4].amax(2), tokens[:, :, 3:].amax(2)], 2)
    assert torch.equal(pool(tokens, 2), by_hand)
    assert torch.equal(pool(by_hand, 2), by_hand)
    made = head(down_sample="pooling")
    with torch.no_grad():
        assert torch.equal(made(tokens)[0], made(by_hand)[0])


def test_without_pooling_tokens_are_laid_side_by_side() -> None:
    made, tokens = head(), features(2)
    assert torch.equal(made.flatten(tokens), torch.cat([tokens[:, :, 0], tokens[:, :, 1]], -1))
    with pytest.raises(UsageError, match="3 tokens per frame without pooling"):
        made(features(2, 3))


def test_what_does_not_exist_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'LSTMDecoder'"):
        head("LSTMDecodr")
    with pytest.raises(UsageError, match="pooling, none, found 'resampler'"):
        head(down_sample="resampler")
    with pytest.raises(UsageError, match="multiple of 8"):
        head("GPTDecoder", hidden_size=12, latent=1)
    with pytest.raises(UsageError, match="hidden_size of 32"):
        head("GPTDecoder", latent=2)


def test_a_gradient_reaches_every_parameter() -> None:
    for kind, latent in (("LSTMDecoder", 2), ("FCDecoder", 2), ("GPTDecoder", 1)):
        made = head(kind, latent=latent)
        arm, logit = made(features(4, latent))
        (arm.sum() + logit.sum()).backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in made.parameters()), kind


def test_a_discrete_head_passes_logits() -> None:
    logits = torch.randn(2, 5, 11)
    made = build_head({"type": "DiscreteDecoder"}, WIDTH, STEPS, WINDOW)
    assert torch.equal(made(logits), logits)
    assert not made.state_dict()
