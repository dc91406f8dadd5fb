"""What a training leaves behind: checkpoints that evaluate as they are, and a state to go on from.

    RUN/
      20261123-210000-project.json    the configuration, as RoboVLMs names it
      vlm/                            the vision-language model's configuration and tokenizer
      epoch=0-step=500.ckpt           the newest checkpoints, in RoboVLMs' layout
      epoch=0-step=500.safetensors    the same weights
      peft/epoch=0-step=500/          the adapter alone, if one is trained
      resume/                         optimizer, random numbers, position in the data
      metrics.csv, tensorboard/       what was logged

Everything is written under another name and renamed when it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calvin_eval.errors import RunFolderError
from calvin_eval.files import backup_of
from calvin_eval.vla.checkpoint import STEP

RESUME, PEFT, VLM = "resume", "peft", "vlm"
PROJECT_END = "-project.json"
_UNFINISHED = ".tmp"


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Attributes:
        step: optimizer steps done.
        epoch: which passes through the data are done.
        batch: batches of the next one that are done.
        samples: seen by all processes together.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A place to write a file or folder to, which becomes `path` when all went well."""
    place = path.with_name(path.name + _UNFINISHED)
    _remove(place)
    try:
        yield place
        if path.is_dir():  # a folder cannot be replaced in one step
            old = path.with_name(path.name + ".old")
            _remove(old)
            path.rename(old)
            place.rename(path)
            _remove(old)
        else:
            os.replace(place, path)
    finally:
        _remove(place)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def checkpoint_name(position: Position) -> str:
    """The name of a checkpoint without its ending, as Lightning gives it."""
    return f"epoch={_last_epoch(position)}-step={position.step}"


def _last_epoch(position: Position) -> int:
    """The epoch in which the last step was, from 0."""
    return position.epoch if position.batch else max(0, position.epoch - 1)


def save_checkpoint(
    folder: Path, state: Mapping[str, Tensor], position: Position, safetensors: bool = True
) -> Path:
    """Write a checkpoint in RoboVLMs' layout; returns its `.ckpt`.

    Args:
        folder: of the run.
        state: weights by their names there, `model.…`.
        position: what the checkpoint is called by.
        safetensors: whether the same weights are written as `.safetensors` too.
    """
    from safetensors.torch import save_file

    named = {name: value.detach().cpu() for name, value in state.items()}
    content = {"state_dict": named, "epoch": _last_epoch(position), "global_step": position.step}
    path = folder / f"{checkpoint_name(position)}.ckpt"
    if safetensors:
        with written(path.with_suffix(".safetensors")) as place:
            save_file(
                {name: value.contiguous() for name, value in _unshared(named).items()},
                place,
                metadata={"format": "pt", "step": str(position.step)},
            )
    with written(path) as place:
        torch.save(content, place)
    return path


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses tied weights, so that only the first of their names is kept."""
    seen: dict[tuple[int, torch.Size], str] = {}
    for name, value in state.items():
        seen.setdefault((value.data_ptr(), value.shape), name)
    return {name: state[name] for name in seen.values()}


def save_adapter(folder: Path, model: Any, config: Mapping[str, Any], name: str) -> Path | None:
    """Write the adapters of a model alone as a peft folder, with the weights that train too.

    Args:
        folder: of the run.
        model: a `RoboVLM` with adapters in it, or without.
        config: the project configuration, which goes into the folder with the place of the
            weights that the adapters lie on.
        name: of the checkpoint.

    Returns:
        The folder, or None if the model has no adapter.
    """
    from calvin_eval.vla import lora

    if not hasattr(model.backbone, "peft_config"):
        return None
    vlm = dict(config["vlm"])
    if vlm.get("source"):
        vlm["pretrained_model_name_or_path"] = vlm["source"]
    with written(folder / PEFT / name) as place:
        lora.save_adapter(model, place)
        write_json(place / f"adapter{PROJECT_END}", {**config, "vlm": vlm})
    return folder / PEFT / name


def prune(folder: Path, keep: int | None) -> None:
    """Delete all but the newest checkpoints of a run, with what belongs to them."""
    if keep is None:
        return
    found = sorted(folder.glob("*step=*.ckpt"), key=_step)
    for path in found[: max(0, len(found) - max(1, keep))]:
        for old in (path, path.with_suffix(".safetensors"), folder / PEFT / path.stem):
            _remove(old)


def _step(path: Path) -> int:
    match = STEP.search(path.name)
    return int(match[1]) if match else -1


def save_resume(folder: Path, accelerator: Any, position: Position) -> None:
    """Write the state that a training goes on from; every process calls it.

    Args:
        folder: of the run.
        accelerator: accelerate's, which knows model, optimizer and random numbers.
        position: how far it is.
    """
    place, old = folder / f"{RESUME}{_UNFINISHED}", folder / f"{RESUME}.old"
    main = accelerator.is_main_process
    if main:
        _remove(place)
        place.mkdir()
    accelerator.wait_for_everyone()
    accelerator.save_state(str(place))
    accelerator.wait_for_everyone()
    if main:
        processes = {"processes": accelerator.num_processes}
        write_json(place / "position.json", {**asdict(position), **processes})
        _remove(old)
        if (folder / RESUME).exists():
            (folder / RESUME).rename(old)
        place.rename(folder / RESUME)
        _remove(old)


def read_position(folder: Path, processes: int | None = None) -> Position:
    """How far the training in a run folder was when it last wrote its state.

    Args:
        folder: of the run.
        processes: of this call; with another number the rest of an epoch would have other
            samples. Not looked at if None.

    Raises:
        RunFolderError: no state there, a damaged one, or one of another number of processes.
    """
    old, path = folder / f"{RESUME}.old", folder / RESUME / "position.json"
    if not path.exists() and (old / path.name).exists():  # broken off between two renames
        old.rename(folder / RESUME)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        before = values.pop("processes", processes)  # which the first versions did not write
        position = Position(**values)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{folder}: expected the state of a training in {RESUME}/, found none that can be "
            f"read ({error}). Train again with overwrite=true."
        ) from error
    if processes is not None and before != processes:
        raise RunFolderError(
            f"{folder}: expected {before} processes, as when its training began, found "
            f"{processes}: the rest of an epoch would have other samples. Start as many, or train "
            "again with overwrite=true."
        )
    return position


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    with written(path) as place:
        place.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def start_folder(folder: Path, *, overwrite: bool) -> None:
    """Make a run folder.

    Args:
        folder: of the run.
        overwrite: whether an older run of that name is moved to NAME.bak-N.

    Raises:
        RunFolderError: there is one already.
    """
    if folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise RunFolderError(
                f"{folder} exists: go on with it by resume=true, keep it as {folder.name}.bak-N by "
                "overwrite=true, or choose another out="
            )
        folder.rename(backup_of(folder))
    folder.mkdir(parents=True, exist_ok=True)
