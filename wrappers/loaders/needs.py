"""What must be installed for a checkpoint of some kind, said before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping

from calvin_eval.extras import require
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.loaders.declared import kind_of
from calvin_eval.wrappers.loaders.folders import CHECKOUT
from calvin_eval.wrappers.loaders.weights import has_config, inspect_pickle

TITLES: Mapping[str, str] = {
    "torchscript": "a TorchScript file",
    "export": "a torch.export archive",
    "pickle": "a file of torch.save",
    "safetensors": "weights of RoboVLMs",
    "robovlms": "a folder of RoboVLMs",
    "lerobot": "a folder of LeRobot",
    "remote": "a server of GR00T",
}
"""Kinds of checkpoints that need more than the core, in words."""

LEROBOT_ELSEWHERE = (
    "LeRobot needs other versions of PyTorch and transformers than many policies do: give it an "
    "environment of its own, and name that environment's Python as policy.python=PATH or run "
    "`calvin-eval serve` there (docs/lerobot.md)."
)


def require_packages(source: Source) -> None:
    """Make sure that the packages are installed which loading a checkpoint takes.

    Nothing is loaded or imported. A class of the user's shows what it needs only when its module
    is imported.

    Raises:
        MissingExtraError: something is not installed.
        CheckpointError: the file or folder is damaged, or of no kind that is known.
    """
    kind = kind_of(source.ckpt)
    extra = needed_extra(source, kind)
    if kind is not None and extra is not None:
        hint = LEROBOT_ELSEWHERE if extra == "lerobot" else ""
        require(extra, f"{source.ckpt}, {TITLES[kind]},", hint)


def needed_extra(source: Source, kind: str | None) -> str | None:
    """The extra that loading a checkpoint takes; None if the core can do it, or can refuse it.

    Args:
        source: what the user asked for.
        kind: of it, see `kind_of`.

    Raises:
        CheckpointError: a damaged file.
    """
    if CHECKOUT in source.options:  # the checkout's own packages do it
        return None
    if kind == "pickle":
        if inspect_pickle(source.path).root is not None:
            return "torch" if source.trust else None
        return "vla" if has_config(source) else None
    if kind == "safetensors":
        return "vla" if has_config(source) else None
    if kind == "remote":
        return "zmq" if source.ckpt.startswith("tcp://") else None
    if kind == "export":
        return "torch" if source.trust else None
    return {"torchscript": "torch", "robovlms": "vla", "lerobot": "lerobot"}.get(kind or "")
