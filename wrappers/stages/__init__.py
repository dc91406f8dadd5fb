"""Stages by name: from a configuration to objects, and back to what `--print-config` lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from calvin_eval import plugins
from calvin_eval.errors import PluginError, UnknownNameError, UsageError
from calvin_eval.wrappers.stages.base import ActionStage, ObservationStage
from calvin_eval.wrappers.stages.chunks import Execute
from calvin_eval.wrappers.stages.companding import MuLaw
from calvin_eval.wrappers.stages.ensemble import Ensemble, Stagger
from calvin_eval.wrappers.stages.frames import StateRelative, TcpToWorld, WorldToTcp
from calvin_eval.wrappers.stages.gripper import Gripper
from calvin_eval.wrappers.stages.history import History
from calvin_eval.wrappers.stages.images import Images
from calvin_eval.wrappers.stages.normalize import Unnormalize
from calvin_eval.wrappers.stages.poses import Absolute, Accumulate, Orientation, Relative
from calvin_eval.wrappers.stages.proprioception import Proprioception
from calvin_eval.wrappers.stages.scale import Cast, Clip, Columns, Scale
from calvin_eval.wrappers.stages.text import Instruction

__all__ = [
    "ACTION_STAGES",
    "OBSERVATION_STAGES",
    "Overlay",
    "Settings",
    "build_stages",
    "overlay",
]

ACTION_STAGES: dict[str, type[ActionStage]] = {
    "absolute": Absolute,
    "accumulate": Accumulate,
    "cast": Cast,
    "clip": Clip,
    "columns": Columns,
    "ensemble": Ensemble,
    "execute": Execute,
    "gripper": Gripper,
    "mu_law": MuLaw,
    "orientation": Orientation,
    "relative": Relative,
    "scale": Scale,
    "stagger": Stagger,
    "state_relative": StateRelative,
    "tcp_to_world": TcpToWorld,
    "unnormalize": Unnormalize,
    "world_to_tcp": WorldToTcp,
}
OBSERVATION_STAGES: dict[str, type[ObservationStage]] = {
    "history": History,
    "images": Images,
    "instruction": Instruction,
    "proprioception": Proprioception,
}

StageT = TypeVar("StageT", ActionStage, ObservationStage)
Settings = Mapping[str, Mapping[str, Any]]
"""Label -> options of one stage; `use` names the stage if the label does not."""


Overlay = Mapping[str, Mapping[str, Any] | None]
"""Settings to lay over others; null takes a stage away."""


def overlay(declared: Settings, given: Overlay) -> dict[str, Mapping[str, Any]]:
    """A checkpoint's own stages with the user's settings on top.

    A label that both have is merged option by option, one that is null is removed, and a new one
    goes to the end.
    """
    merged: dict[str, Mapping[str, Any]] = {label: dict(opts) for label, opts in declared.items()}
    for label, options in given.items():
        if options is None:
            merged.pop(label, None)
        else:
            merged[label] = {**merged.get(label, {}), **options}
    return merged


def build_stages(
    settings: Settings, known: Mapping[str, type[StageT]], where: str
) -> dict[str, StageT]:
    """Make the stages that a configuration names, in its order.

    Args:
        settings: label -> options; a stage's name is its option `use`, or else its label.
        known: `ACTION_STAGES` or `OBSERVATION_STAGES`.
        where: for messages, for example `policy.actions`.

    Raises:
        UnknownNameError: a stage or an option that does not exist.
        UsageError: a value that the stage refuses.
    """
    return {label: _build(label, opts, known, where) for label, opts in settings.items()}


def _build(
    label: str, options: Mapping[str, Any], known: Mapping[str, type[StageT]], where: str
) -> StageT:
    name = options.get("use", label)
    kind = known[name] if name in known else _registered(name, known, where)
    names: list[str] = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    given = {key: value for key, value in options.items() if key != "use"}
    for key in given:
        if key not in names:
            raise UnknownNameError(f"option of {where}.{label}", key, names or ["(none)"])
    try:
        return kind(**given)
    except TypeError as error:
        raise UsageError(f"{where}.{label}: {error}; its options are {', '.join(names)}") from error


def _registered(name: Any, known: Mapping[str, type[StageT]], where: str) -> type[StageT]:
    """The stage that a package registered in `calvin_eval.stages`."""
    theirs: list[str] = list(plugins.available("stages"))
    if name not in theirs:
        raise UnknownNameError(f"stage in {where}", name, [*known, *theirs])
    kind: Any = plugins.load("stages", name)
    side = ActionStage if known is ACTION_STAGES else ObservationStage
    if not (isinstance(kind, type) and issubclass(kind, side) and is_dataclass(kind)):
        raise PluginError(
            f"{where}: expected the stage {name} to be a dataclass derived from {side.__name__}; "
            f"found {kind!r}"
        )
    found: type[StageT] = kind
    return found
