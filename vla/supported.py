"""What a configuration may ask for: everything else is an error, never silently left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calvin_eval.errors import CheckpointError, UnknownNameError

ACTION_SPACES = ("continuous", "down_sample", "discrete")
HISTORIES = ("post", "pre", "video")
TOKEN_SOURCES = ("all", "text", "vision")
LACKING = {
    "act_encoder": "an action encoder",
    "fwd_head": "a head that predicts images, which RoboVLMs does not ship",
    "use_vision_resampler": "a Perceiver over the image tokens",
    "use_clip_norm": "a CLIP text loss",
    "use_state": "proprioception as a token, which RoboVLMs never feeds",
    "use_mim_obs_loss": "a masked-image loss",
}
"""Keys of a configuration that must be false or null, and what they would switch on."""


def check_supported(config: Mapping[str, Any]) -> None:
    """Refuse configurations of models that are not built here.

    Args:
        config: the project configuration, parents merged.

    Raises:
        CheckpointError: a key that is missing, or an option that is not built.
        UnknownNameError: a value that no RoboVLMs option has.
    """
    for key in ("model", "window_size", "fwd_pred_next_n", "act_head"):
        if not config.get(key):
            raise CheckpointError(f"project configuration: expected a value of {key!r}, found none")
    for key, meaning in LACKING.items():
        if config.get(key):
            raise CheckpointError(
                f"project configuration: {key} = {config[key]!r} asks for {meaning}, which "
                "calvin-eval does not have; expected false or null"
            )
    if not (config.get("train_setup") or {}).get("predict_action", True):
        raise CheckpointError(
            "project configuration: train_setup.predict_action is false: such a model was trained "
            "without actions and cannot control a robot"
        )
    _check_head(config["act_head"])


def _check_head(head: Mapping[str, Any]) -> None:
    for key, default, known in (
        ("action_space", "continuous", ACTION_SPACES),
        ("history_type", "post", HISTORIES),
        ("token_source", "all", TOKEN_SOURCES),
    ):
        if head.get(key, default) not in known:
            raise UnknownNameError(f"act_head.{key}", head[key], known)
    kind, space = head.get("type"), head.get("action_space", "continuous")
    if (kind == "DiscreteDecoder") != (space == "discrete"):
        raise CheckpointError(
            f"act_head: expected a DiscreteDecoder for the action space 'discrete' and another "
            f"head for the others, found {kind} with {space!r}"
        )
    if head.get("history_type") == "video" and kind in ("LSTMDecoder", "GPTDecoder"):
        raise CheckpointError(
            f"act_head: history_type 'video' gives one feature for all frames, which {kind} "
            "cannot read; expected FCDecoder"
        )
