"""What a sequence may hold beside words, images and action tokens, and what is read of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from calvin_eval.errors import PolicyError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.fusion import Fused

ARM = 6
"""Numbers of the arm's state: position and Euler angles of the TCP."""


class Shown(NamedTuple):
    """What a continuous model looks at; B rows of T frames.

    Attributes:
        static: images of the static camera, (B, T, 3, S, S); oldest frame first.
        hand: those of the gripper camera, or None.
        ids: instruction, (B, L) int64, padded on the right.
        mask: of the instruction, (B, L).
        state: of the robot, (B, T, 7), see `StateToken`; or None.
    """

    static: Tensor
    hand: Tensor | None
    ids: Tensor
    mask: Tensor
    state: Tensor | None = None


class Reading(NamedTuple):
    """What the language model made of it.

    Attributes:
        features: for the policy head, (B, T, K, D).
        asked: at the tokens of a `ForwardHead`, (B, T, M, D); None if they were left out.
    """

    features: Tensor
    asked: Tensor | None


class StateToken(nn.Module):
    """The robot's state as one token in front of the action tokens (RoboVLMs, base_backbone).

    RoboVLMs has these layers and cannot run them: its trainer looks up a misspelt key, no data set
    of its own has a state, neither `forward` nor `forward_action` hands one on, and `encode_state`
    looks up a gripper that is a float. So which state this is, is decided here: where the TCP is
    and how it is turned, in the world, and whether the gripper is open.

    Args:
        width: D, of the language model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed_arm_state = nn.Linear(ARM, width)
        self.embed_gripper_state = nn.Embedding(2, width)
        self.embed_state = nn.Linear(2 * width, width)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], compat: Compat, parts: Any) -> StateToken | None:
        """The token that a configuration asks for.

        None for none, for a discrete model and for one with cross attention: RoboVLMs' code has no
        place for it in either.

        Args:
            config: the project configuration.
            compat: whether the token is fed.
            parts: the `Backbone`.
        """
        discrete = config["act_head"].get("action_space") == "discrete"
        wanted = config.get("use_state") and compat.state_token == "fed"
        return cls(parts.hidden_size) if wanted and not (discrete or parts.crosses) else None

    def forward(self, state: Tensor) -> Tensor:
        """States (..., 7) to embeddings (..., D).

        Args:
            state: position in metres, Euler angles in radians, gripper 1 (open) or 0 (closed).
        """
        state = state.to(self.embed_state.weight)
        gripper = self.embed_gripper_state((state[..., -1] > 0.5).long())
        both = torch.cat([self.embed_arm_state(state[..., :ARM]), gripper], -1)
        found: Tensor = self.embed_state(both)
        return found

    def into(self, fused: Fused, state: Tensor | None, end: int | Tensor, *, hide: bool) -> Fused:
        """Sequences with the token put in front of their end.

        Args:
            fused: N sequences, of T frames each with history "video", else of one.
            state: (B, T, 7), of N = B or B * T sequences.
            end: where it goes, see `Fused.before_end`.
            hide: whether attention may not look at it (`fill_zero`).

        Raises:
            PolicyError: no state.
        """
        if state is None:
            raise PolicyError("features: a model with use_state needs states (B, T, 7), found none")
        tokens = self(state.to(fused.embeds.device))
        return fused.insert(tokens.reshape(len(fused.mask), -1, tokens.shape[-1]), end,
                            fill_zero=hide)  # fmt: skip


OLD_NAMES = ("embed_arm_state", "embed_gripper_state", "embed_state")
"""Layers of `StateToken` as RoboVLMs names them, without a part's name in front."""
