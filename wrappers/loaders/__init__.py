"""From the text of `--ckpt` to a policy: one module per kind of checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source
from calvin_eval.wrappers.loaders.builtin import PREFIX, load_builtin, load_recording
from calvin_eval.wrappers.loaders.detect import RECOGNISED, detect
from calvin_eval.wrappers.loaders.python_class import is_class_spec, load_class
from calvin_eval.wrappers.loaders.torch_file import load_export, load_torchscript
from calvin_eval.wrappers.loaders.weights import load_pickle, load_safetensors

__all__ = ["LoadedPolicy", "is_light", "resolve"]

FILES: Mapping[str, Callable[[Source], LoadedPolicy]] = {
    "recording": load_recording,
    "torchscript": load_torchscript,
    "export": load_export,
    "pickle": load_pickle,
    "safetensors": load_safetensors,
}
"""The loader of every kind that `detect` tells apart."""


def resolve(
    ckpt: str,
    *,
    trust: bool = False,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> LoadedPolicy:
    """Recognise a checkpoint and load it.

    In this order: `builtin:NAME`; a server's address (not supported yet); an existing path, by
    its content; `module:Class` or `file.py:Class`.

    Args:
        ckpt: the text as the user gave it.
        trust: whether a file may run code of its own while it is loaded (pickled models and
            torch.export archives need it).
        seed: of the run, an integer >= 0; `builtin:random` draws from it.
        options: of the policy: `hold` (random), `file` and `chunk` (replay), `device`,
            `inputs`, `gripper` and `max_batch` (torch files), or a class's own keyword arguments.

    Raises:
        CheckpointError: it cannot be recognised, loaded or trusted.
        UsageError: a name or an option that does not exist.
    """
    source = Source(ckpt=ckpt, options=dict(options or {}), trust=trust, seed=seed)
    if ckpt.startswith(PREFIX):
        return load_builtin(source)
    if re.match(r"\w+://", ckpt):
        scheme = ckpt.partition(":")[0]
        raise CheckpointError(
            f"{ckpt}: policies behind {scheme}:// are not supported in this version: expected "
            f"{RECOGNISED}."
        )
    if ckpt and source.path.exists():
        return FILES[detect(source.path)](source)
    if is_class_spec(ckpt):
        return load_class(source)
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
