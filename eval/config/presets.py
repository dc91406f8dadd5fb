"""Presets: how published policies were evaluated, as configurations of the group `policy`."""

from __future__ import annotations

from dataclasses import dataclass

from calvin_eval.config.compose import compose_config
from calvin_eval.config.hydra_scope import CONFIG_MODULE
from calvin_eval.config.preset_files import DEFAULT, FOLDER
from calvin_eval.config.schema import EvalConfig, PolicyConfig
from calvin_eval.errors import CheckpointError
from calvin_eval.results.conclude import stated_departures
from calvin_eval.results.header import Header


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a preset says about itself.

    Attributes:
        name: as in `--policy NAME`.
        source: repository and file that its values are from.
        steps: budget per subtask, with its unit.
        execute: actions executed per decision; as many as come if None.
        commands: "relative" or "absolute", or "declared" where the checkpoint or server says.
        observe: labels of its observation stages, in order.
        actions: labels of its action stages, in order.
    """

    name: str
    source: str
    steps: str
    execute: int | None
    commands: str
    observe: tuple[str, ...]
    actions: tuple[str, ...]


def preset_names() -> list[str]:
    """Names of the packaged presets, in alphabetical order."""
    from importlib.resources import files

    entries = (files(CONFIG_MODULE) / FOLDER).iterdir()
    names = {entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml")}
    return sorted(names - {DEFAULT})


def read_presets() -> list[Preset]:
    """All packaged presets, composed over the official protocol."""
    found = []
    for name in preset_names():
        config = compose_config(["ckpt=any", f"{FOLDER}={name}"])
        protocol, policy = config.protocol, config.policy
        found.append(
            Preset(
                name=name,
                source=policy.source or "",
                steps=f"{protocol.steps} {protocol.budget}",
                execute=protocol.execute,
                commands=_commands(policy),
                observe=tuple(policy.observe),
                actions=tuple(policy.actions),
            )
        )
    return found


def _commands(policy: PolicyConfig) -> str:
    if policy.kind is not None:
        return "declared"
    return "absolute" if "absolute" in policy.actions else "relative"


def check_spoken(config: EvalConfig) -> None:
    """Raise a CheckpointError for a server if nothing says what is spoken there."""
    from calvin_eval.wrappers.loaders.elsewhere import SERVERS, explain_elsewhere

    policy = config.policy
    if not config.ckpt.startswith(("http://", "https://", "tcp://")) or explain_elsewhere(
        config.ckpt
    ):
        return
    if policy.preset is None and "protocol" not in policy.options:
        raise CheckpointError(
            f"{config.ckpt}: expected a preset that says what is spoken there: {SERVERS}"
        )


def check_kind(config: EvalConfig) -> None:
    """Raise a CheckpointError if the preset is for checkpoints of another kind, or missing."""
    from calvin_eval.wrappers.loaders import kind_of

    policy = config.policy
    check_spoken(config)
    found = kind_of(config.ckpt) if policy.kind is not None else None
    weights = policy.kind == "robovlms" and found in ("pickle", "safetensors")
    if found is not None and found != policy.kind and not weights:  # else the loader says so
        raise CheckpointError(
            f"the preset {policy.preset} is for checkpoints of the kind {policy.kind!r}, and "
            f"{config.ckpt} is of the kind {found!r}: choose another preset (calvin-eval presets), "
            "or say policy.kind=null if the two fit all the same"
        )


def describe_rules(header: Header) -> str:
    """Where a run's rules differ from the benchmark's; empty if nothing is to be said.

    Args:
        header: of the run.
    """
    name = header.config.policy.preset
    found = stated_departures(header)
    who = f"preset {name}" if name else "protocol"
    if not found:
        return f"{who}: keeps to the official protocol" if name else ""
    return f"{who}: departs from the official protocol. {' '.join(found)}"
