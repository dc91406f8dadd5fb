"""What a LeRobot policy folder declares, and how CALVIN's observations are mapped to it.

Everything here is read from the folder's JSON files; LeRobot itself is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.wrappers.loaders.base import TRUST_FLAG, Source
from calvin_eval.wrappers.loaders.folders import lerobot_folder
from calvin_eval.wrappers.loaders.lerobot.cameras import CAMERAS, map_cameras
from calvin_eval.wrappers.stages import Settings

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"

OPTIONS = (
    "cameras", "state", "action_width", "n_action_steps", "max_batch", "strict", "device",
)  # fmt: skip

STATES = {15: "all", 8: "eight", 7: "seven"}
"""Sets of the stage `proprioception` by the width that a folder declares."""


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A folder, and what is fed to its policy.

    Attributes:
        folder: where `config.json` lies.
        config: its content.
        preprocessor: content of the preprocessor's JSON file.
        postprocessor: content of the postprocessor's JSON file.
        cameras: image feature -> camera; features that are left out are not in it.
        sizes: image feature -> (height, width) in pixels.
        state: name and width of the state feature; None if the policy reads no state.
        fields: what the stage `proprioception` selects; None if the user configures it.
        action_width: numbers in an action.
        n_action_steps: actions of a chunk that are executed, if the user overrides the folder's.
    """

    folder: Path
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    postprocessor: Mapping[str, Any]
    cameras: Mapping[str, str]
    sizes: Mapping[str, tuple[int, int]]
    state: tuple[str, int] | None
    fields: str | Sequence[str | int] | None
    action_width: int
    n_action_steps: int | None

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is read: configuration, weights, processors and their tensors."""
        steps = (*self.preprocessor["steps"], *self.postprocessor["steps"])
        states = dict.fromkeys(step["state_file"] for step in steps if step.get("state_file"))
        names = (CONFIG, WEIGHTS, PREPROCESSOR, POSTPROCESSOR, *states)
        return tuple(self.folder / name for name in names)

    def observe(self) -> Settings:
        """Observation stages: every camera in the declared size, the state in its width."""
        stages: dict[str, Mapping[str, Any]] = {}
        for camera in CAMERAS:
            sizes = {self.sizes[f] for f, seen in self.cameras.items() if seen == camera}
            if len(sizes) > 1:
                raise CheckpointError(
                    f"{self.folder}: expected one size for all features that see the {camera} "
                    f"camera, found (height, width) {sorted(sizes)}: map one to another camera, "
                    "or leave it out by policy.options.cameras.NAME=null."
                )
            for height, width in sizes:
                size = [width, height]
                stages[f"images_{camera}"] = {"use": "images", "cameras": [camera], "size": size}
        if self.fields is not None:
            stages["proprioception"] = {"fields": self.fields}
        return stages

    def actions(self) -> Settings:
        """Action stages: CALVIN's relative actions need no more than the gripper's sign."""
        return {"gripper": {"input": "signed"}} if self.action_width == 7 else {}


def read_declared(source: Source) -> Declared:
    """Read and check a folder.

    Raises:
        CheckpointError: a file is missing or damaged, or a feature cannot be mapped.
        UsageError: an option that does not exist or has a wrong value.
    """
    source.check_options(OPTIONS)
    folder = lerobot_folder(source.path)
    if folder is None:
        raise CheckpointError(f"{source.path} is no LeRobot policy folder ({CONFIG} is missing).")
    config = _read(folder / CONFIG)
    _check_files(folder, config)
    pre, post = _read(folder / PREPROCESSOR), _read(folder / POSTPROCESSOR)
    _check_steps(folder, pre, post, trust=source.trust)
    inputs, outputs = _features(folder, config, "input"), _features(folder, config, "output")
    images = {name: shape for name, (kind, shape) in inputs.items() if kind == "VISUAL"}
    given = source.options.get("cameras", {})
    cameras = map_cameras(images, given, aliases=_aliases(pre))
    state = _state(inputs)
    return Declared(
        folder=folder,
        config=config,
        preprocessor=pre,
        postprocessor=post,
        cameras=cameras,
        sizes={name: _size(name, images[name]) for name in cameras},
        state=state,
        fields=_fields(state, source.options),
        action_width=_action_width(outputs, source.options),
        n_action_steps=source.options.get("n_action_steps"),
    )


def _size(name: str, shape: Sequence[int]) -> tuple[int, int]:
    if len(shape) != 3 or shape[0] != 3:
        raise CheckpointError(
            f"{name}: expected a colour image of shape (3, height, width), found {tuple(shape)}."
        )
    return shape[1], shape[2]


def _state(inputs: Mapping[str, tuple[str, Sequence[int]]]) -> tuple[str, int] | None:
    others = [name for name, (kind, _) in inputs.items() if kind not in ("VISUAL", "STATE")]
    states = [(name, shape) for name, (kind, shape) in inputs.items() if kind == "STATE"]
    if others or len(states) > 1 or any(len(shape) != 1 for _, shape in states):
        shown = ", ".join(f"{n} ({kind}, {tuple(s)})" for n, (kind, s) in inputs.items())
        raise CheckpointError(
            "expected images and at most one state vector among the policy's inputs, found "
            f"{shown}: calvin-eval has nothing to feed the others with."
        )
    return (states[0][0], states[0][1][0]) if states else None


def _fields(
    state: tuple[str, int] | None, options: Mapping[str, Any]
) -> str | Sequence[str | int] | None:
    if state is None:
        if options.get("state") is not None:
            raise UsageError("policy.options.state: the policy declares no state")
        return None
    if "state" in options:
        fields = options["state"]
        return fields if fields is None or isinstance(fields, str) else list(fields)
    if state[1] in STATES:
        return STATES[state[1]]
    raise CheckpointError(
        f"the policy declares {state[0]} of {state[1]} numbers; expected 15 (all of robot_obs), "
        "8 (its numbers 0 to 6 and 14) or 7 (0 to 6). Choose by policy.options.state=[...] with "
        "indices of robot_obs or fields of the stage proprioception, or set that stage's options "
        "under policy.observe.proprioception with policy.options.state=null."
    )


def _action_width(
    outputs: Mapping[str, tuple[str, Sequence[int]]], options: Mapping[str, Any]
) -> int:
    actions = [tuple(shape) for kind, shape in outputs.values() if kind == "ACTION"]
    if len(actions) != 1 or len(actions[0]) != 1:
        raise CheckpointError(f"expected one action vector among the outputs, found {actions}.")
    width = int(actions[0][0])
    if options.get("action_width", 7) != width:
        raise CheckpointError(
            f"the policy declares actions of {width} numbers, expected "
            f"{options.get('action_width', 7)}. If the stages under policy.actions make CALVIN's "
            f"7 of them, confirm it by policy.options.action_width={width}."
        )
    return width


def _features(
    folder: Path, config: Mapping[str, Any], side: str
) -> dict[str, tuple[str, Sequence[int]]]:
    """Feature -> (type, shape)."""
    declared = config.get(f"{side}_features")
    try:
        return {
            name: (str(feature["type"]), [int(n) for n in feature["shape"]])
            for name, feature in dict(declared or {}).items()
        }
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / CONFIG}: expected {side}_features as name: {{type, shape}}, found "
            f"{declared!r}."
        ) from error


def _aliases(preprocessor: Mapping[str, Any]) -> dict[str, str]:
    for step in preprocessor["steps"]:
        if step.get("registry_name") == "rename_observations_processor":
            renamed = step.get("config", {}).get("rename_map", {})
            return {new: old for old, new in renamed.items()}
    return {}


def _check_files(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("use_peft") or (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter, not a whole policy: merge it into its base policy with "
            "peft's merge_and_unload, and save that."
        )
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: {WEIGHTS} is missing; pickled weights are not read.")
    for name in (PREPROCESSOR, POSTPROCESSOR):
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: {name} is missing. Folders of LeRobot before 0.4 keep the "
                "normalisation in the weights: convert it with `python -m "
                f"lerobot.processor.migrate_policy_normalization --pretrained-path {folder}`."
            )


def _check_steps(folder: Path, *pipelines: Mapping[str, Any], trust: bool) -> None:
    for pipeline in pipelines:
        steps = pipeline.get("steps")
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise CheckpointError(f"{folder}: expected a list of steps in its processor files.")
        for step in steps:
            if Path(str(step.get("state_file") or "")).name != (step.get("state_file") or ""):
                raise CheckpointError(f"{folder}: {step['state_file']} lies outside the folder.")
            if "registry_name" not in step and not trust:
                raise CheckpointError(
                    f"{folder}: its processors name the Python class {step.get('class')!r}, which "
                    f"can run any code: pass {TRUST_FLAG} if you know where the folder comes from."
                )


def _read(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_bytes(), strict=False)
    except (OSError, DocumentError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy it again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}.")
    return values
