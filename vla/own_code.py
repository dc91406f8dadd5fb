"""A vision-language model or a data set of the user's own: code that runs where the user names it.

A configuration lies in a folder that may come from anywhere, so that what it names is never run
by itself: an evaluation needs `policy.options.backbone`, a training the key on its command line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla.config import Config, find_config, read_config
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.loaders.python_class import load_part

ADAPTER = "adapter"
"""Key of `vlm`, `train_dataset` and `val_dataset`."""


def configured(source: Source) -> Config:
    """The configuration of a checkpoint, with the backbone's code that the user named.

    Raises:
        CheckpointError: no configuration, one that cannot be used, or one that names code which
            the user does not.
    """
    config = read_config(find_config(source))
    given, named = source.options.get("backbone"), config.values["vlm"].get(ADAPTER)
    if named and not given:
        raise CheckpointError(
            f"{config.path}: its vision-language model is code ({named}), which is not run unless "
            "you name it: policy.options.backbone=FILE.py:CLASS"
        )
    if not given:
        return config
    return replace(
        config, values={**config.values, "vlm": {**config.values["vlm"], ADAPTER: given}}
    )


def adapter_of(config: Mapping[str, Any]) -> str | None:
    """`module:Class` or `file.py:Class` of the backbone, if it is the user's own."""
    named = (config.get("vlm") or {}).get(ADAPTER)
    return None if named is None else str(named)


def own_part(spec: str, key: str, methods: tuple[str, ...]) -> Callable[..., Any]:
    """A class of the user's.

    Args:
        spec: `module:Class` or `file.py:Class`.
        key: that names it, for errors.
        methods: that it must have.

    Raises:
        CheckpointError: it cannot be imported.
        UnknownNameError: the module has no such class.
        UsageError: no class with these methods.
    """
    part = load_part(spec)
    missing = [name for name in methods if not callable(getattr(part, name, None))]
    if not inspect.isclass(part) or missing:
        raise UsageError(
            f"{key}={spec}: expected a class with {', '.join(methods)}, found "
            f"{type(part).__name__} without {', '.join(missing) or 'any'}"
        )
    return part
