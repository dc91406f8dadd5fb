"""Policy heads: from the language model's features of a window of frames to action chunks.

Every head runs over a window from its beginning: the features of up to W frames, oldest first,
padded on the right if rows differ in length; a row's present answer is that of its last frame.
Where RoboVLMs carries a hidden state from step to step it starts over from the last W features as
soon as there are more, so that running over the last min(t, W) features from zero state at every
step gives the same actions (RoboVLMs, base_policy).

Parameter names are those of its checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool1d
from transformers import GPT2Config, GPT2Model

from calvin_eval.errors import UnknownNameError, UsageError

POOLING = ("pooling", "none")


class ActionMLP(nn.Module):
    """Four linear layers with ReLU between; the arm's ends in tanh, the gripper's in logits.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        tanh: whether the output is squashed to [-1, 1].
    """

    def __init__(self, inputs: int, outputs: int, *, tanh: bool) -> None:
        super().__init__()
        widths = (inputs, 1024, 512, 256, outputs)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        layers[-1:] = [nn.Tanh()] if tanh else []
        self.mlp = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        out: Tensor = self.mlp(x)
        return out


class PolicyHead(nn.Module):
    """What continuous heads share: pooling in front, an arm and a gripper MLP behind.

    Args:
        head: `act_head` of the configuration: `hidden_size`, `action_dim`, `latent`,
            `down_sample`.
        features: D, width of the language model's features.
        steps: n, actions of a chunk.

    Attributes:
        latent: K, tokens per frame that the head reads.
        down_sample: how a frame's tokens become K: "pooling" (adaptive maximum) or "none".

    Raises:
        UsageError: a way of down-sampling that RoboVLMs names but lacks.
    """

    def __init__(self, head: Mapping[str, Any], features: int, steps: int) -> None:
        super().__init__()
        self.latent = int(head.get("latent", 1))
        self.down_sample = str(head.get("down_sample", "pooling"))
        if self.down_sample not in POOLING:
            raise UsageError(
                f"act_head.down_sample: expected one of {', '.join(POOLING)}, found "
                f"{self.down_sample!r}"
            )
        self.steps = steps
        self.arm_dim = int(head.get("action_dim", 7)) - 1
        self.inputs = features * self.latent
        self.width = int(head.get("hidden_size", 1024)) * self.latent
        self.actions = ActionMLP(self.width, steps * self.arm_dim, tanh=True)
        self.gripper = ActionMLP(self.width, steps, tanh=False)

    def flatten(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, N, D) to vectors (B, T, K * D).

        Raises:
            UsageError: N differs from K and there is no pooling.
        """
        if self.down_sample == "pooling":
            tokens = pool(tokens, self.latent)
        elif tokens.shape[2] != self.latent:
            raise UsageError(
                f"act_head: {tokens.shape[2]} tokens per frame without pooling; expected latent, "
                f"{self.latent}"
            )
        return tokens.flatten(2)

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Actions for every frame of a window.

        Args:
            window: features (B, T, K, D), or (B, T, N, D) if the head pools; oldest frame first.

        Returns:
            Arm (B, T, n, 6) in [-1, 1] and gripper logits (B, T, n, 1).
        """
        x = self.remember(self.flatten(window))
        arm = self.actions(x).unflatten(-1, (self.steps, self.arm_dim))
        return arm, self.gripper(x).unsqueeze(-1)

    def remember(self, x: Tensor) -> Tensor:
        """(B, T, K * D) to (B, T, width), each frame knowing the earlier ones."""
        raise NotImplementedError


class LSTMDecoder(PolicyHead):
    """Four LSTM layers over the window; see `PolicyHead`."""

    def __init__(self, head: Mapping[str, Any], features: int, steps: int) -> None:
        super().__init__(head, features, steps)
        self.rnn = nn.LSTM(
            self.inputs,
            self.width,
            num_layers=int(head.get("num_layers", 4)),
            dropout=float(head.get("policy_rnn_dropout_p", 0.0)),
            batch_first=True,
        )
        self.apply(_xavier)

    def remember(self, x: Tensor) -> Tensor:
        """See `PolicyHead.remember`; starts from zero state."""
        with _supported_lstm(x):
            out: Tensor = self.rnn(x)[0]
        return out


@contextmanager
def _supported_lstm(x: Tensor) -> Iterator[None]:
    """Keep oneDNN out of a CPU's half-precision LSTM where the processor has no AVX-512.

    It has no such LSTM there, and PyTorch calls it under autocast without asking.
    """
    onednn: Any = torch.backends.mkldnn
    half = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    before = onednn.enabled
    if half and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        onednn.enabled = False
    try:
        yield
    finally:
        onednn.enabled = before


class FCDecoder(PolicyHead):
    """Two linear layers, each frame for itself; see `PolicyHead`."""

    def __init__(self, head: Mapping[str, Any], features: int, steps: int) -> None:
        super().__init__(head, features, steps)
        half = self.inputs // 2
        self.mlp = nn.Sequential(
            nn.Linear(self.inputs, half), nn.ReLU(), nn.Linear(half, self.width)
        )
        self.apply(_xavier)

    def remember(self, x: Tensor) -> Tensor:
        """See `PolicyHead.remember`; remembers nothing."""
        out: Tensor = self.mlp(x)
        return out


class GPTDecoder(PolicyHead):
    """GPT-2 blocks over the window, 8 layers and 8 heads, with W learned positions.

    Args:
        head: see `PolicyHead`.
        features: D.
        steps: n.
        window: W.

    Raises:
        UsageError: a width that eight attention heads cannot share, or several tokens per frame
            together with a width that is not D, which RoboVLMs' layer `fc` cannot take.
    """

    def __init__(self, head: Mapping[str, Any], features: int, steps: int, window: int) -> None:
        super().__init__(head, features, steps)
        hidden = self.width // self.latent
        if self.width % 8 or (hidden != features and self.latent > 1):
            raise UsageError(
                "act_head: a GPTDecoder needs hidden_size * latent to be a multiple of 8, and "
                f"with latent above 1 a hidden_size of {features}; found hidden_size {hidden}, "
                f"latent {self.latent}"
            )
        self.window = window
        shape = GPT2Config(n_layer=8, n_head=8, n_embd=self.width, n_positions=window)
        shape.vocab_size, shape.bos_token_id, shape.eos_token_id = 1, 0, 0
        self.gpt = GPT2Model(shape)
        del self.gpt.wte  # features take the place of words
        self.fc = nn.Linear(features, hidden) if hidden != features else nn.Identity()

    def remember(self, x: Tensor) -> Tensor:
        """See `PolicyHead.remember`; a window is at most W frames long."""
        out: Tensor = self.gpt(inputs_embeds=self.fc(x), use_cache=False).last_hidden_state
        return out


class DiscreteDecoder(nn.Module):
    """The language model's own output layer decides: logits pass unchanged. Has no parameters."""

    def forward(self, logits: Tensor) -> Tensor:
        """The identity."""
        return logits


HEADS = ("LSTMDecoder", "FCDecoder", "GPTDecoder", "DiscreteDecoder")


def build_head(head: Mapping[str, Any], features: int, steps: int, window: int) -> nn.Module:
    """Make the head that a configuration names.

    Args:
        head: `act_head` of the configuration. Its own `fwd_pred_next_n` and `window_size` are
            not read: the configuration's top level decides.
        features: D, width of the language model.
        steps: n, actions of a chunk.
        window: W, frames that the head may remember.

    Raises:
        UnknownNameError: a head that does not exist.
        UsageError: options that do not go together.
    """
    kind = head.get("type")
    if kind == "LSTMDecoder":
        return LSTMDecoder(head, features, steps)
    if kind == "FCDecoder":
        return FCDecoder(head, features, steps)
    if kind == "GPTDecoder":
        return GPTDecoder(head, features, steps, window)
    if kind == "DiscreteDecoder":
        return DiscreteDecoder()
    raise UnknownNameError("act_head.type", kind, HEADS)


def pool(tokens: Tensor, latent: int) -> Tensor:
    """Adaptive maximum over tokens: (B, T, N, D) to (B, T, latent, D)."""
    pooled = adaptive_max_pool1d(tokens.flatten(0, 1).transpose(1, 2), latent)
    return pooled.transpose(1, 2).reshape(*tokens.shape[:2], latent, -1)


@torch.no_grad()
def _xavier(module: nn.Module) -> None:
    """RoboVLMs' initialisation of linear layers."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
