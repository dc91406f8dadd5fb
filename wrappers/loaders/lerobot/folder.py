"""LeRobot's `pretrained_model` folders: its own policy and processors, CALVIN's observations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.extras import require
from calvin_eval.wrappers.loaders.base import FileFacts, LoadedPolicy, Source, file_facts
from calvin_eval.wrappers.loaders.lerobot.features import WEIGHTS, Declared, read_declared
from calvin_eval.wrappers.loaders.needs import LEROBOT_ELSEWHERE
from calvin_eval.wrappers.loaders.torch_file import DEVICE_VARIABLE
from calvin_eval.wrappers.policy import BasePolicy, Request
from calvin_eval.wrappers.stages import Settings
from calvin_eval.wrappers.tensor_contract import last_line

if TYPE_CHECKING:
    from calvin_eval.wrappers.loaders.lerobot.policy import Network


def load(source: Source) -> LoadedPolicy:
    """Load a folder that `save_pretrained` wrote, with its processors.

    Raises:
        CheckpointError: LeRobot does not fit its libraries; the folder is damaged, incomplete, or
            declares what CALVIN does not have.
        MissingExtraError: LeRobot is not installed.
        UsageError: a wrong option.
    """
    declared = read_declared(source)
    files = {path.name: file_facts(path) for path in declared.files}
    network = _open(source, declared)
    policy, facts = _probed(network, declared, source)
    observe, actions = declared.observe(), declared.actions()
    return LoadedPolicy(
        policy=policy,
        kind="lerobot",
        description=_description(declared, files, facts),
        metadata=source.metadata(
            "lerobot",
            type=declared.config["type"],
            files={name: file.metadata() for name, file in files.items()},
            cameras=dict(declared.cameras),
            sizes={name: list(size) for name, size in declared.sizes.items()},
            state=declared.state and {"feature": declared.state[0], "width": declared.state[1]},
            action_width=declared.action_width,
            **facts,
            versions={name: version(name) for name in ("lerobot", "torch", "transformers")},
        ),
        observe=observe,
        actions=actions,
    )


def declare(source: Source) -> tuple[Settings, Settings]:
    """Observation and action stages that a folder declares, from its JSON files alone.

    Raises:
        CheckpointError: as `load`, as far as the files tell.
        UsageError: a wrong option.
    """
    declared = read_declared(source)
    return declared.observe(), declared.actions()


def _open(source: Source, declared: Declared) -> Network:
    """The policy and its processors, on the device."""
    configs, factory = _import()
    device = str(source.options.get("device") or os.environ.get(DEVICE_VARIABLE, "cpu"))
    folder = str(declared.folder)
    strict = source.options.get("strict", True)
    if not isinstance(strict, bool):
        raise UsageError(f"policy.options.strict: expected true or false, found {strict!r}")
    try:
        config = configs.PreTrainedConfig.from_pretrained(folder)
        _configure(config, declared, device)
        policy = factory.get_policy_class(config.type).from_pretrained(
            folder, config=config, strict=strict
        )
        pre, post = factory.make_pre_post_processors(
            config, folder, preprocessor_overrides=_overrides(declared, device)
        )
    except UsageError:
        raise
    except Exception as error:  # LeRobot, draccus, safetensors and torch raise anything
        incomplete = strict and "state_dict" in str(error)
        hint = " If that may be, allow it by policy.options.strict=false." if incomplete else ""
        raise CheckpointError(
            f"{folder} cannot be loaded by LeRobot {version('lerobot')} "
            f"({type(error).__name__}: {last_line(error)}).{hint}"
        ) from error
    from calvin_eval.wrappers.loaders.lerobot.policy import Network

    return Network(policy, pre, post, declared, source.seed)


def _import() -> tuple[Any, Any]:
    """LeRobot's modules of configurations and of the policies' factory."""
    require("lerobot", "a LeRobot policy", LEROBOT_ELSEWHERE)
    try:
        return import_module("lerobot.configs.policies"), import_module("lerobot.policies.factory")
    except Exception as error:  # libraries that do not fit each other raise anything
        raise CheckpointError(
            f"lerobot {version('lerobot')} cannot be imported here ({type(error).__name__}: "
            f"{last_line(error)}). {LEROBOT_ELSEWHERE}"
        ) from error


def _configure(config: Any, declared: Declared, device: str) -> None:
    """Set what differs from training."""
    config.device = device
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None  # else they are downloaded and overwritten
    steps = declared.n_action_steps
    if steps is None:
        return
    most = getattr(config, "chunk_size", None)
    if most is None and hasattr(config, "horizon"):
        most = config.horizon - config.n_obs_steps + 1
    if type(steps) is not int or most is None or not 1 <= steps <= most:
        raise UsageError(
            f"policy.options.n_action_steps: expected 1 to {most}, the actions that this policy "
            f"predicts, found {steps!r}"
        )
    config.n_action_steps = steps


def _overrides(declared: Declared, device: str) -> dict[str, Any]:
    """LeRobot refuses to override a step that the folder does not have."""
    names = [step.get("registry_name") for step in declared.preprocessor["steps"]]
    return {"device_processor": {"device": device}} if "device_processor" in names else {}


def _probed(
    network: Network, declared: Declared, source: Source
) -> tuple[BasePolicy, dict[str, Any]]:
    """Try the policy on a made-up request; decide how it is asked.

    Returns:
        The policy, and `mode`, `actions` per decision, `draws` and `max_batch` for the header.
    """
    from calvin_eval.wrappers.loaders.lerobot.policy import ChunkPolicy, StepPolicy

    limit = source.options.get("max_batch")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UsageError(f"policy.options.max_batch: expected an integer >= 1, found {limit!r}")
    request = _example(declared)
    try:
        network.reset()
        if not network.stateless:
            network.action(request)
            network.reset()
            return StepPolicy(network), {"mode": "select_action", "actions": 1, "max_sessions": 1}
        actions = network.chunks([request]).shape[1]
        draws = network.draws(request)
    except Exception as error:  # anything that a network may raise
        raise CheckpointError(
            f"{declared.folder}: LeRobot's policy {declared.config['type']} fails on a made-up "
            f"observation ({type(error).__name__}: {last_line(error)})."
        ) from error
    # Rows of a batch share one stream of random numbers, so what draws is asked row by row.
    limit = 1 if draws else limit
    facts = {"mode": "predict_action_chunk", "actions": actions, "draws": draws}
    return ChunkPolicy(network, limit), {**facts, "max_batch": limit}


def _example(declared: Declared) -> Request:
    """What the declared observation stages would make of some observation."""
    generator = np.random.default_rng(0)
    images = {
        f"rgb_{camera}": generator.integers(256, size=(*declared.sizes[name], 3), dtype=np.uint8)
        for name, camera in declared.cameras.items()
    }
    obs: dict[str, Any] = {"rgb_obs": images}
    if declared.state is not None:
        obs["state"] = np.zeros(declared.state[1], dtype=np.float32)
    return Request(session=0, instruction="push the button", position=0, step=0, obs=obs)


def _description(
    declared: Declared, files: Mapping[str, FileFacts], facts: Mapping[str, Any]
) -> str:
    seen = [
        f"{name} <- rgb_{camera} {declared.sizes[name][1]}x{declared.sizes[name][0]}"
        for name, camera in declared.cameras.items()
    ]
    if declared.state is not None:
        seen.append(f"{declared.state[0]} <- {declared.state[1]} numbers of robot_obs")
    actions = "1 action" if facts["actions"] == 1 else f"{facts['actions']} actions"
    single = "" if facts.get("max_batch", 1) != 1 else ", one chain per forward"
    return (
        f"LeRobot policy {declared.config['type']} in {declared.folder} ({files[WEIGHTS]}): "
        f"{', '.join(seen)} -> {actions}{single}"
    )
