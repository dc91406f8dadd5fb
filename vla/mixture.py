"""Lists of data sets in a project file: one of actions, and others that are trained on beside it.

RoboVLMs (gr_datamodule) has `train_dataset: [...]` with `weights`, `batch_size` and `num_workers`
of as many entries. Here the first one of actions stays `train_dataset`, and the others are
`cotrain`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calvin_eval.errors import UnknownNameError, UsageError

ACTIONS, SENTENCES, CAPTIONS = "DiskCalvinDataset", "VideoLLaVADataset", "ImageTextDataset"
OXE = "OpenVLADataset"
TYPES = (ACTIONS, OXE, SENTENCES, CAPTIONS)
"""RoboVLMs' names: CALVIN's data set; Open X-Embodiment; questions and answers about images; images
with sentences."""

KEYS = {
    "type", "data_dir", "data_paths", "image_folder", "batch_size", "num_workers",
    "rgb_pad", "gripper_pad", "traj_cons", "shift_mode", "skip_frames", "tasks", "exclude_tasks",
    "scenes", "pairs", "acted", "cache", "predict_stop_token",
    "data_root_dir", "data_mix", "organize_type",
}  # fmt: skip
"""Keys of a section of `cotrain`."""


def one_and_others(values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose `train_dataset` is one section, and `cotrain` the others.

    Args:
        values: of a project file; returned as they are if `train_dataset` is no list.

    Raises:
        UsageError: no section of actions, or lists of different lengths.
    """
    made, sections = dict(values), values.get("train_dataset")
    if not isinstance(sections, list):
        return made
    found = [dict(section) for section in sections if isinstance(section, Mapping)]
    acts = [(section.get("type") or ACTIONS) in (ACTIONS, OXE) for section in found]
    if len(found) != len(sections) or True not in acts:
        raise UsageError(
            f"train_dataset: expected sections with one of type {ACTIONS} or {OXE} among them"
        )
    first = acts.index(True)
    for key in ("batch_size", "num_workers"):
        given = values.get(key)
        if isinstance(given, list):
            _check_length(key, given, len(found))
            made[key] = given[first]
            for section, value in zip(found, given, strict=True):
                section[key] = value
    weights = values.get("weights")
    if weights is not None:
        _check_length("weights", weights, len(found))
        made["weights"] = [weights[first], *weights[:first], *weights[first + 1 :]]
    chosen = found.pop(first)
    made["train_dataset"] = {
        key: value for key, value in chosen.items() if key not in ("batch_size", "num_workers")
    }
    made["cotrain"] = found
    return made


def _check_length(key: str, given: Any, count: int) -> None:
    if not isinstance(given, list) or len(given) != count:
        raise UsageError(f"{key}: expected a list of {count}, one for each train_dataset")


def check_mixture(project: Mapping[str, Any]) -> None:
    """Refuse sections of `cotrain` that cannot be trained on.

    Raises:
        UsageError: a section of another form.
        UnknownNameError: a key or a type that does not exist.
    """
    sections, weights = project.get("cotrain") or [], project.get("weights")
    if not isinstance(sections, list):
        raise UsageError(f"cotrain: expected a list of sections, found {sections!r}")
    for section in sections:
        if not isinstance(section, Mapping):
            raise UsageError(f"cotrain: expected sections {{type: ..., ...}}, found {section!r}")
        for key in section:
            if key not in KEYS:
                raise UnknownNameError("key of cotrain", str(key), sorted(KEYS))
        if section.get("type") not in TYPES:
            raise UnknownNameError("type of cotrain", str(section.get("type")), TYPES)
        if not any(section.get(key) for key in ("data_dir", "data_paths", "data_root_dir")):
            raise UsageError("cotrain: expected data_dir, data_paths or data_root_dir, found none")
    if weights is not None:
        _check_length("weights", weights, len(sections) + 1)
        if not all(_is_share(weight) for weight in weights) or not any(weights):
            raise UsageError(f"weights: expected numbers from 0 up, found {weights}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
