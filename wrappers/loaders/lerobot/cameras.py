"""Which of CALVIN's cameras an image feature of a LeRobot policy sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError

CAMERAS = ("static", "gripper")

GRIPPER_WORDS = ("wrist", "gripper", "hand")
STATIC_WORDS = (
    "static", "front", "top", "third", "agent", "exter", "scene", "main", "base", "primary",
    "overhead", "image",
)  # fmt: skip
"""Parts of names that tell a camera; those of the gripper are looked for first."""


def map_cameras(
    features: Mapping[str, Sequence[int]],
    given: Mapping[str, Any],
    aliases: Mapping[str, str],
) -> dict[str, str]:
    """Which camera every image feature sees.

    Args:
        features: image features by name, with their shapes.
        given: feature, or the last part of its name -> "static", "gripper", or None to leave it
            out; nested where the names have dots.
        aliases: policy's feature -> the name it had in the data the policy was trained on.

    Raises:
        CheckpointError: a feature's name does not tell its camera, or two tell the same one.
        UnknownNameError: a feature or a camera that does not exist.
    """
    if not isinstance(given, Mapping):
        raise UsageError(f"policy.options.cameras: expected feature: camera, found {given!r}")
    chosen: dict[str, str | None] = {}
    for name, camera in _flat(given).items():
        matches = [f for f in features if name in (f, _short(f))]
        if not matches:
            raise UnknownNameError("image feature of the policy", name, features or ["(none)"])
        if camera not in (*CAMERAS, None):
            raise UnknownNameError(f"camera for {name}", str(camera), (*CAMERAS, "null"))
        chosen[matches[0]] = camera
    left = [name for name in features if name not in chosen and "empty_camera" not in name]
    guesses = {name: guess_camera(aliases.get(name, name)) for name in left}
    if len(features) == len(left) == 1:
        guesses = {name: guess or "static" for name, guess in guesses.items()}
    taken = [camera for camera in (*chosen.values(), *guesses.values()) if camera]
    for name, guess in guesses.items():
        if guess is None or taken.count(guess) > 1:
            raise CheckpointError(_ambiguous(features, name))
    mapped = {**chosen, **guesses}
    return {name: camera for name in features if (camera := mapped.get(name)) is not None}


def guess_camera(feature: str) -> str | None:
    """The camera that a feature's name tells of, or None."""
    name = _short(feature).lower()
    if any(word in name for word in GRIPPER_WORDS):
        return "gripper"
    return "static" if any(word in name for word in STATIC_WORDS) else None


def _ambiguous(features: Mapping[str, Sequence[int]], name: str) -> str:
    shown = ", ".join(f"{n} {tuple(shape)}" for n, shape in features.items())
    options = " ".join(f"policy.options.cameras.{_short(n)}=static" for n in features)
    return (
        f"the policy declares the images {shown}, and which camera {name} sees is not clear: say "
        f"it for each, as {options}, with static, gripper, or null to leave one out."
    )


def _short(feature: str) -> str:
    return feature.rpartition(".")[2]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, its keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
