"""What a folder is, by the files in it: nothing in them is executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from calvin_eval.foreign.documents import DocumentError, parse_json

ROBOVLMS_KEY = "robovlm_name"
"""What only RoboVLMs' configurations have."""

ADAPTER_CONFIG = "adapter_config.json"
"""What peft writes beside the weights of an adapter."""

CHECKOUT = "robovlms_checkout"
"""Option of a policy: a checkout of RoboVLMs whose own wrapper runs the checkpoint."""

LARGEST_CONFIG = 1 << 20
"""Bytes; larger JSON files are something else, such as a vocabulary."""


FOLDER_KINDS = ("lerobot", "robovlms")
"""What `folder_kind` tells apart; each is an entry point of ours in `calvin_eval.loaders`."""


_LEROBOT_PLACES = (
    "", "pretrained_model", "checkpoints/last/pretrained_model", "last/pretrained_model",
)  # fmt: skip
"""Where a policy lies in what LeRobot's training writes: itself, its step, its run, its steps."""


def is_lerobot(path: Path) -> bool:
    """Whether LeRobot's `save_pretrained` wrote the folder, or the newest in a training run."""
    return lerobot_folder(path) is not None


def lerobot_folder(path: Path) -> Path | None:
    """The folder with a LeRobot policy's config: itself, its `pretrained_model`, or its last step.

    Of a training run it is the step that the link `checkpoints/last` means, by its number.
    """
    for place in _LEROBOT_PLACES:
        folder = path / place
        try:
            config = parse_json((folder / "config.json").read_bytes(), strict=False)
        except (OSError, DocumentError):
            continue
        if isinstance(config, dict) and {"type", "input_features", "output_features"} <= set(
            config
        ):
            return folder.resolve() if "last" in place else folder
    return None


def is_robovlms(path: Path) -> bool:
    """Whether the folder is a RoboVLMs run: a configuration, a ZeRO checkpoint, or an adapter."""
    return is_zero(path) or is_adapter(path) or bool(robovlms_configs(path))


def robovlms_configs(folder: Path) -> list[Path]:
    """RoboVLMs configurations in a folder itself, by name."""
    return [path for path in sorted(folder.glob("*.json")) if _is_robovlms_config(path, 8)]


def is_zero(path: Path) -> bool:
    """Whether DeepSpeed's ZeRO wrote the folder: a tag, and that tag's model states."""
    try:
        tag = (path / "latest").read_text(encoding="utf-8").strip()
        return bool(tag) and any((path / tag).glob("*_model_states.pt"))
    except (OSError, ValueError):
        return False


def is_adapter(path: Path) -> bool:
    """Whether peft's `save_pretrained` wrote the folder."""
    return (path / ADAPTER_CONFIG).is_file()


def _is_robovlms_config(path: Path, generations: int) -> bool:
    """Whether a file or one of its parents has the key; a missing parent counts as having it."""
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            return False
        values = parse_json(path.read_bytes(), strict=False)
    except (OSError, DocumentError):
        return False
    if not isinstance(values, dict):
        return False
    parent = values.get("parent")
    if ROBOVLMS_KEY in values or not isinstance(parent, str) or not generations:
        return ROBOVLMS_KEY in values
    found = [place for place in (path.parent / parent, Path(parent)) if place.is_file()]
    return not found or any(_is_robovlms_config(place, generations - 1) for place in found)


KINDS: Mapping[str, Callable[[Path], bool]] = {"lerobot": is_lerobot, "robovlms": is_robovlms}


def folder_kind(path: Path) -> str | None:
    """A key of `KINDS`, or None."""
    return next((kind for kind, matches in KINDS.items() if matches(path)), None)
