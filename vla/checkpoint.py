"""RoboVLMs' checkpoints: which file, which weights, under which names, and what was missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.torch_files import read_torch_file
from calvin_eval.vla.zero import read_zero
from calvin_eval.wrappers.loaders.base import file_facts
from calvin_eval.wrappers.loaders.folders import is_zero

STEP = re.compile(r"step=(\d+)")
ENDINGS = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")
STATE_KEYS = ("state_dict", "model_state_dict")
LISTED = 50
"""Names of a report that metadata keeps; the counts are of all."""


@dataclass(frozen=True)
class Weights:
    """What a checkpoint held.

    Attributes:
        path: the file, or the ZeRO folder.
        state: weights by the model's own names (without `model.` in front).
        facts: for the run's metadata: hash, size, format.
    """

    path: Path
    state: dict[str, Tensor]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class LoadReport:
    """How the names of a checkpoint and of a model met.

    Attributes:
        loaded: how many entries of the model came from the checkpoint.
        from_vlm: entries that the checkpoint lacked and the VLM's folder had.
        missing: entries that nothing had.
        unexpected: names in the checkpoint that the model does not have.
    """

    loaded: int
    from_vlm: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = field(default=())

    def metadata(self) -> dict[str, Any]:
        """Counts, and the first names of each list."""
        lists = {
            "from_vlm": self.from_vlm,
            "missing": self.missing,
            "unexpected": self.unexpected,
        }
        counted = {
            key: {"count": len(names), "names": list(names[:LISTED])}
            for key, names in lists.items()
        }
        return {"loaded": self.loaded, **counted}


def find_checkpoint(folder: Path, step: Any = None) -> Path:
    """The checkpoint of a run's folder: the newest by the `step=` in its name, or the one asked.

    Files ending in `.ckpt` (or ZeRO folders of that name) come first, others only without them.

    Raises:
        CheckpointError: there is none, or nothing says which.
    """
    found = [path for path in sorted(folder.iterdir()) if _is_checkpoint(path)]
    found = [path for path in found if path.suffix == ".ckpt"] or found
    if not found:
        raise CheckpointError(
            f"{folder} has a configuration but no checkpoint: expected a file ending in "
            f"{', '.join(ENDINGS)}, or a ZeRO folder."
        )
    steps = {int(match[1]): path for path in found if (match := STEP.search(path.name))}
    if step is not None:
        if step not in steps:
            has = ", ".join(map(str, sorted(steps))) or "none with step= in its name"
            raise CheckpointError(f"{folder} has no checkpoint of step {step}: it has {has}.")
        return steps[step]
    if len(found) == 1:
        return found[0]
    if len(steps) == len(found):
        return steps[max(steps)]
    names = ", ".join(path.name for path in found)
    raise CheckpointError(f"{folder} holds several checkpoints ({names}): give one as --ckpt.")


def has_checkpoint(folder: Path) -> bool:
    """Whether `find_checkpoint` has anything to choose from."""
    return any(_is_checkpoint(path) for path in folder.iterdir())


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return is_zero(path)
    return path.suffix in ENDINGS and not path.name.startswith("adapter_model")


def read_weights(path: Path) -> Weights:
    """Read a checkpoint: a file that torch.save wrote, a safetensors file, or a ZeRO folder.

    Raises:
        CheckpointError: damaged, or without a state dict.
    """
    if path.is_dir():
        zero = read_zero(path)
        facts: dict[str, Any] = {
            "format": f"ZeRO stage {zero.stage}" if zero.stage else "ZeRO module states",
            "tag": zero.tag,
            "ranks": zero.ranks,
        }
        files = sorted((path / zero.tag).glob("*_states.pt"))
        facts["files"] = {file.name: file_facts(file).metadata() for file in files}
        state: Mapping[str, Any] = zero.state
    else:
        facts = {"format": "torch", **file_facts(path).metadata()}
        if _is_safetensors(path):
            facts["format"], state = "safetensors", read_safetensors(path)
        else:
            state = _state_dict(path, read_torch_file(path))
    return Weights(path, {plain_name(k): v for k, v in _tensors(path, state)}, facts)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, mapped from disk.

    Raises:
        CheckpointError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy or download it again.") from error


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _state_dict(path: Path, content: Any) -> Mapping[str, Any]:
    """The state dict in what a file holds; a bare one is accepted too."""
    if isinstance(content, Mapping):
        for key in STATE_KEYS:
            if isinstance(content.get(key), Mapping):
                state: Mapping[str, Any] = content[key]
                return state
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return content
    found = list(content)[:8] if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(
        f"{path}: expected a state dict under {' or '.join(STATE_KEYS)}, or a bare one; found "
        f"{found}."
    )


def _tensors(path: Path, state: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: expected {key} to be a tensor, found {type(value).__name__}."
            )
        yield str(key), value


def plain_name(key: str) -> str:
    """A checkpoint's key as the model's own name.

    Training wrappers put `_forward_module.` or `module.` in front. RoboVLMs takes every
    `module.` out of a key that starts with it, and its own names start with one `model.`.
    """
    key = key.removeprefix("_forward_module.")
    if key.startswith("module."):
        key = key.replace("module.", "")
    return key.removeprefix("model.")


def load_into(
    model: nn.Module,
    weights: Weights,
    *,
    required: Sequence[str],
    vlm: Path | None = None,
    strict: bool = True,
) -> LoadReport:
    """Copy a checkpoint's weights into a model.

    Args:
        model: with random weights.
        weights: by the model's names.
        required: names that only the checkpoint can have: the head's and the action token's.
        vlm: folder of the pretrained model, for weights of the backbone that the checkpoint
            left out because training did not change them.
        strict: whether a weight that nothing has is an error.

    Raises:
        CheckpointError: shapes differ, or weights are missing.
    """
    own = model.state_dict(keep_vars=True)
    state = {own_name(model, name): value for name, value in weights.state.items()}
    given = {name: value for name, value in state.items() if name in own}
    unexpected = tuple(name for name in state if name not in own)
    missing = _missing(model, own, given)
    filled: dict[str, Tensor] = {}
    if vlm is not None and any(name.startswith("backbone.") for name in missing):
        pretrained = _pretrained(model, vlm)
        filled = {name: pretrained[name] for name in missing if name in pretrained}
        missing = _missing(model, own, {**given, **filled})
    _check_shapes(weights.path, own, {**given, **filled})
    if strict and missing:
        raise CheckpointError(_missing_text(weights, missing, required, unexpected))
    with torch.no_grad():
        for name, value in {**filled, **given}.items():
            own[name].copy_(value)
    return LoadReport(len(given), tuple(filled), missing, unexpected)


def _missing(
    model: nn.Module, own: Mapping[str, Tensor], given: Mapping[str, Tensor]
) -> tuple[str, ...]:
    """Parameters that were not given, not even under another name that is tied to them."""
    names = dict(model.named_parameters(remove_duplicate=False))
    present = {id(own[name]) for name in given}
    return tuple(name for name in names if name in own and id(own[name]) not in present)


def _check_shapes(path: Path, own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    wrong = [
        f"{name}: the checkpoint has {tuple(value.shape)}, the model {tuple(own[name].shape)}"
        for name, value in given.items()
        if value.shape != own[name].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} was trained with another configuration ({len(wrong)} shapes differ): "
            f"{_some(wrong, 6, '; ')}. Compare its configuration and the VLM's folder."
        )


def _missing_text(
    weights: Weights, missing: Sequence[str], required: Sequence[str], unexpected: Sequence[str]
) -> str:
    heads = [name for name in missing if name in set(required)]
    what = "the action head or token" if heads else "the backbone"
    text = (
        f"{weights.path} lacks {len(heads or missing)} weights of {what}: "
        f"{_some(heads or missing, 8)}. They would be random numbers."
    )
    if unexpected:
        text += f" It has {len(unexpected)} that the model lacks: {_some(unexpected, 4)}."
    return (
        f"{text} Check that configuration and checkpoint belong together; "
        "policy.options.load_strict=report runs it all the same."
    )


def _some(texts: Sequence[str], count: int, between: str = ", ") -> str:
    more = len(texts) - count
    return between.join(texts[:count]) + (f" and {more} more" if more > 0 else "")


def _pretrained(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Weights in a model folder of transformers, by the names they have in our model."""
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        state.update(read_safetensors(path))
    if not state:
        for path in sorted(folder.glob("pytorch_model*.bin")):
            state.update(_tensors(path, _state_dict(path, read_torch_file(path))))
    return {own_name(model, f"backbone.{key}"): value for key, value in state.items()}


def own_name(model: nn.Module, name: str) -> str:
    """A name with the backbone's modules as the installed transformers calls them."""
    rename: Any = model.rename_old_key
    return str(rename(name))
