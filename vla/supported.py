"""What a configuration may ask for: everything else is an error, never silently left out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from calvin_eval.errors import CheckpointError, UnknownNameError
from calvin_eval.wrappers.loaders.base import TRUST_FLAG
from calvin_eval.wrappers.loaders.folders import CHECKOUT

ACTION_SPACES = ("continuous", "down_sample", "discrete")
HISTORIES = ("post", "pre", "video")
TOKEN_SOURCES = ("all", "text", "vision")

MODEL_TYPES = (
    "kosmos-2", "paligemma", "llava", "llava_mpt", "mosaic_gpt", "qwen2_vl", "qwen2_5_vl",
    "idefics3", "smolvlm",
)  # fmt: skip
"""`model_type` of the vision-language models that can be built."""
CROSSING = "mosaic_gpt"
"""The one whose words look at images by cross attention: Flamingo's."""
_FOREIGN = {
    "Flamingo": r"mpt_[37]b|llama_7b",
    "Moondream": r"moondream",
    "UForm": r"uform",
    "Qwen-VL": r"^(robo)?qwen$|qwen-vl",
}
"""Vision-language models with code of their own, and how a configuration names them."""


def check_backbone(config: Mapping[str, Any], kind: object = None, ckpt: str = "DIR") -> None:
    """Refuse a vision-language model that is not built here, before anybody fetches its weights.

    Args:
        config: the project configuration, parents merged.
        kind: the `model_type` in the model's own `config.json`, if it is here; it decides.
        ckpt: what the user asked for, for the command in the message.

    Raises:
        CheckpointError: the model needs code of its own, or is of no family that is known.
    """
    if kind in MODEL_TYPES:
        if kind == CROSSING:
            check_crossing(config["act_head"])
        return
    vlm = config.get("vlm") or {}
    folder = str(vlm.get("pretrained_model_name_or_path") or "").rstrip("/").rpartition("/")[2]
    names = [config.get("robovlm_name"), config.get("model"), vlm.get("name"), folder]
    # RoboQwen and qwen are Qwen-VL unless the folder says that it is a later one.
    later = re.search(r"qwen-?[23]", folder.lower()) or "qwen2" in str(config.get("model")).lower()
    for model, pattern in _FOREIGN.items():
        if model == "Qwen-VL" and later:
            continue
        if any(re.search(pattern, str(name or "").lower()) for name in names):
            raise CheckpointError(foreign_backbone(f"found {model} ({folder or names[0]})", ckpt))
    if kind is not None:
        raise CheckpointError(foreign_backbone(f"found the model_type {kind!r}", ckpt))


def way_out(ckpt: str) -> str:
    """The command that runs a checkpoint in the user's own checkout, as the end of a sentence."""
    return (
        f"`calvin-eval --ckpt {shlex.quote(ckpt)} policy.{CHECKOUT}=PATH policy.python=PATH "
        f"{TRUST_FLAG}`, the paths of a checkout of RoboVLMs and of the Python of its environment"
    )


def foreign_backbone(found: str, ckpt: str = "DIR") -> str:
    """What to say of a vision-language model that is not built here."""
    return (
        f"expected a vision-language model that calvin-eval knows (model_type "
        f"{', '.join(MODEL_TYPES)}), {found}. Code that a model brings is not run; RoboVLMs' own "
        f"runs by {way_out(ckpt)} (docs/robovlms.md)."
    )


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
    if not (config.get("train_setup") or {}).get("predict_action", True):
        raise CheckpointError(
            "project configuration: train_setup.predict_action is false: such a model was trained "
            "without actions and cannot control a robot"
        )
    _check_head(config["act_head"])


def check_crossing(head: Mapping[str, Any]) -> None:
    """Refuse heads that RoboFlamingo cannot have, in the original either.

    Its continuous mode looks up `action_token_id`, which nothing sets (roboflamingo.py:316), and
    its discrete one generates from a prompt without `<image>`, so that no word sees an image.

    Raises:
        CheckpointError: another action space or history than its published configuration has.
    """
    found = head.get("action_space", "continuous"), head.get("history_type", "post")
    if found != ("down_sample", "post"):
        raise CheckpointError(
            "act_head: Flamingo has the action space 'down_sample' with history 'post' alone, in "
            f"which the original runs; found {found[0]!r} with {found[1]!r}"
        )


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
