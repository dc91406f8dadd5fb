"""What is known about a checkpoint before its weights are loaded: its kind and its stages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from calvin_eval import plugins
from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.loaders import weights
from calvin_eval.wrappers.loaders.base import PolicyLoader, Source
from calvin_eval.wrappers.loaders.builtin import PREFIX
from calvin_eval.wrappers.loaders.detect import detect
from calvin_eval.wrappers.loaders.elsewhere import explain_elsewhere
from calvin_eval.wrappers.loaders.python_class import is_class_spec
from calvin_eval.wrappers.stages import (
    ACTION_STAGES,
    OBSERVATION_STAGES,
    Overlay,
    Settings,
    build_stages,
    overlay,
)
from calvin_eval.wrappers.stages.base import ActionStage, ObservationStage

SILENT = ("builtin", "class", "export", "recording", "torchscript")
"""Kinds that never declare stages of their own."""


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Both sides of a pipeline, by label, in execution order.

    Attributes:
        observe: between the simulator and the network.
        actions: between the network and the simulator.
        names: of every stage, by side and label.
    """

    observe: Mapping[str, ObservationStage]
    actions: Mapping[str, ActionStage]
    names: Mapping[tuple[str, str], str]

    def as_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """All options of all stages, equal to what is read back from JSON."""
        sides: Mapping[str, Mapping[str, Any]] = {"observe": self.observe, "actions": self.actions}
        tree = {
            side: {
                label: {"use": self.names[side, label], **asdict(stage)}
                for label, stage in stages.items()
            }
            for side, stages in sides.items()
        }
        values: dict[str, dict[str, dict[str, Any]]] = json.loads(json.dumps(tree))
        return values


def arrange(own: tuple[Settings, Settings], observe: Overlay, actions: Overlay) -> Stages:
    """Build a checkpoint's own stages with the user's settings on top.

    Args:
        own: observation and action stages that the checkpoint declares.
        observe: laid over the former, see `overlay`.
        actions: laid over the latter.

    Raises:
        UnknownNameError: a stage or an option that does not exist.
        UsageError: a value that a stage refuses.
    """
    seen, done = overlay(own[0], observe), overlay(own[1], actions)
    return Stages(
        observe=build_stages(seen, OBSERVATION_STAGES, "policy.observe"),
        actions=build_stages(done, ACTION_STAGES, "policy.actions"),
        names={
            (side, label): str(options.get("use", label))
            for side, settings in (("observe", seen), ("actions", done))
            for label, options in settings.items()
        },
    )


def kind_of(ckpt: str) -> str | None:
    """What a checkpoint is, by its name and the content of its files; None if it is not there.

    Returns:
        "builtin", "remote" (a server's address), "class" (of a plugin, too), or what `detect`
        returns.

    Raises:
        CheckpointError: there is a file or folder, and it is of no kind that is known; or it is an
            address that would have to be downloaded.
    """
    if ckpt.startswith(PREFIX):
        return "builtin"
    if re.match(r"\w+://", ckpt):
        if (said := explain_elsewhere(ckpt)) is not None:
            raise CheckpointError(f"{said}.")
        return "remote"
    source = Source(ckpt=ckpt, options={})
    if ckpt and source.path.exists():
        return detect(source.path)
    return "class" if is_class_spec(ckpt) else None


def declared(source: Source) -> tuple[Settings, Settings] | None:
    """Observation and action stages that a checkpoint declares, read without its weights.

    Returns:
        The settings; none for kinds that never declare any; None where only a connection, or the
        checkpoint that is not there, could tell.

    Raises:
        CheckpointError: its configuration cannot be read.
        UsageError: an option that its kind does not have.
    """
    kind = kind_of(source.ckpt)
    if kind is None:
        return None
    if kind in SILENT:
        return {}, {}
    if kind in ("pickle", "safetensors"):
        return weights.declare(source)
    loader: PolicyLoader
    if kind == "remote":
        loader = server_loader(source.ckpt.partition("://")[0])
    else:
        loader = plugins.load("loaders", kind)
    return loader.declare(source) if hasattr(loader, "declare") else ({}, {})


def server_loader(scheme: str) -> PolicyLoader:
    """Who connects to addresses of a scheme: an entry point, or else our own clients.

    Ours refuse a scheme that nobody knows.
    """
    if scheme in plugins.available("servers"):
        loader: PolicyLoader = plugins.load("servers", scheme)
        return loader
    from calvin_eval.wrappers.servers import loading  # costs websockets

    return loading
