"""From the text of `--ckpt` to a policy: one module per kind of checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from calvin_eval import plugins
from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.wrappers.custom import CustomModelPolicy
from calvin_eval.wrappers.interface import SECTION, Interface, read_interface
from calvin_eval.wrappers.loaders.base import CheckpointLoader, LoadedPolicy, PolicyLoader, Source
from calvin_eval.wrappers.loaders.builtin import PREFIX, load_builtin, load_recording
from calvin_eval.wrappers.loaders.declared import Stages, arrange, declared, kind_of, server_loader
from calvin_eval.wrappers.loaders.detect import RECOGNISED, detect
from calvin_eval.wrappers.loaders.elsewhere import explain_missing
from calvin_eval.wrappers.loaders.needs import require_packages
from calvin_eval.wrappers.loaders.python_class import (
    PLUGIN,
    is_class_spec,
    load_class,
    load_registered,
)
from calvin_eval.wrappers.loaders.torch_file import load_export, load_torchscript
from calvin_eval.wrappers.loaders.weights import load_pickle, load_safetensors
from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.stages import Overlay

__all__ = [
    "CheckpointLoader",
    "LoadedPolicy",
    "PolicyLoader",
    "Source",
    "Stages",
    "arrange",
    "declared",
    "is_light",
    "kind_of",
    "require_packages",
    "resolve",
    "wrap",
]

Loader: TypeAlias = "Callable[[Source], LoadedPolicy]"

FILES: Mapping[str, Loader] = {
    "recording": load_recording,
    "torchscript": load_torchscript,
    "export": load_export,
    "pickle": load_pickle,
    "safetensors": load_safetensors,
}
"""The loader of every kind of file. Kinds of folders, and what other packages recognise, are entry
points in `calvin_eval.loaders`."""


def resolve(  # noqa: PLR0913 - one keyword for each thing that a run says of its policy
    ckpt: str,
    *,
    trust: bool = False,
    seed: int = 0,
    scene: str = "D",
    interface: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    observe: Overlay | None = None,
    actions: Overlay | None = None,
) -> LoadedPolicy:
    """Recognise a checkpoint, load it, and put the stages of its pipeline around it.

    In this order: `builtin:NAME`; `plugin:NAME`; a server's address; an existing path, by
    its content; `module:Class` or `file.py:Class`.

    Args:
        ckpt: the text as the user gave it.
        trust: whether a file may run code of its own while it is loaded (pickled models and
            torch.export archives need it).
        seed: of the run, an integer >= 0; `builtin:random` draws from it.
        scene: that the run is in: A, B, C or D; `builtin:expert` knows them apart.
        interface: how a class with CALVIN's own interface is called: the fields of `Interface`.
        options: of the policy: `hold` (random), `file` and `chunk` (replay), `device`,
            `inputs`, `gripper` and `max_batch` (torch files), or a class's own keyword arguments.
        observe: observation stages by label, laid over those that the checkpoint declares.
        actions: action stages, likewise.

    Raises:
        CheckpointError: it cannot be recognised, loaded or trusted.
        MissingExtraError: its kind needs packages that are not installed.
        UsageError: a name or an option that does not exist.
    """
    source = Source(
        ckpt=ckpt,
        options=dict(options or {}),
        trust=trust,
        seed=seed,
        scene=scene,
        interface=read_interface(interface or {}),
    )
    require_packages(source)
    own = declared(source)
    if own is not None:  # a misspelt stage must not cost the loading of a large model
        arrange(own, observe or {}, actions or {})
    loaded = _load(source)
    unused = source.interface
    if loaded.kind == "class":
        unused = replace(unused, arguments=Interface.arguments)
    if unused != Interface() and not isinstance(loaded.policy, CustomModelPolicy):
        raise UsageError(
            f"{SECTION} says how a Python class with reset() and step(obs, goal) is called; found "
            f"{loaded.description}. Leave it out."
        )
    return wrap(loaded, observe or {}, actions or {})


def wrap(loaded: LoadedPolicy, observe: Overlay, actions: Overlay) -> LoadedPolicy:
    """The policy between its stages, which the metadata lists in execution order."""
    stages = arrange((loaded.observe, loaded.actions), observe, actions)
    if not stages.names:
        return loaded
    pipeline = Pipeline(loaded.policy, observe=stages.observe, actions=stages.actions)
    metadata = {**loaded.metadata, "stages": stages.as_dict()}
    return replace(loaded, policy=pipeline, metadata=metadata)


def _load(source: Source) -> LoadedPolicy:
    ckpt = source.ckpt
    if ckpt.startswith(PREFIX):
        return load_builtin(source)
    if ckpt.startswith(PLUGIN):
        return load_registered(source)
    if (scheme := re.match(r"(\w+)://", ckpt)) is not None:
        return server_loader(scheme[1]).load(source)
    if ckpt and source.path.exists():
        kind = detect(source.path)
        load = FILES[kind] if kind in FILES else plugins.load("loaders", kind).load
        return load(source)
    if is_class_spec(ckpt):
        return load_class(source)
    if (said := explain_missing(ckpt)) is not None:
        raise CheckpointError(f"no such file or policy: {said}.")
    raise CheckpointError(f"no such file or policy: {ckpt!r}: expected {RECOGNISED}.")


def is_light(ckpt: str) -> bool:
    """Whether a policy costs next to nothing, so that every simulator worker may have its own.

    Built-in policies and recorded actions import nothing heavy. A file that cannot be recognised
    is not light; `resolve` says what is wrong with it.
    """
    if ckpt.startswith(PREFIX):
        return True
    path = Path(ckpt)
    try:
        return path.exists() and detect(path) == "recording"
    except CheckpointError:
        return False
