"""From a project configuration to the model that is trained, and the file that tells of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla.checkpoint import Weights, load_into, read_weights
from calvin_eval.vla.clip_norm import ClipNormHead
from calvin_eval.vla.data.annotations import read_language
from calvin_eval.vla.mixture import ACTIONS, OXE
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.cotrain import section_conversations
from calvin_eval.vla.training.data import training_compat
from calvin_eval.vla.training.oxe import oxe_episodes
from calvin_eval.vla.training.saving import (
    PROJECT_END,
    VLM,
    read_position,
    start_folder,
    write_json,
)

TINY = "tiny"
"""`vlm.name` of the model that needs no folder."""

MOST_BYTES = 64 << 20
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx")
"""Files of a model's folder that hold weights: these stay where they are."""


def vlm_source(config: Mapping[str, Any]) -> Path | None:
    """The folder of the vision-language model to start from; None for the tiny one.

    Args:
        config: names it under `vlm.pretrained_model_name_or_path`.

    Raises:
        UsageError: no folder is named.
        CheckpointError: it is not there; nothing is ever downloaded.
    """
    section = config.get("vlm") or {}
    named = section.get("pretrained_model_name_or_path")
    if not named:
        if section.get("name") == TINY:
            return None
        raise UsageError("expected vlm.pretrained_model_name_or_path=FOLDER, found none")
    place = Path(named)
    if (place / "config.json").is_file():
        return place
    raise CheckpointError(
        f"expected the folder of a vision-language model at {place}, with config.json and the "
        "tokenizer's files; nothing is downloaded. Name it by "
        "vlm.pretrained_model_name_or_path=FOLDER."
    )


def start_run(
    config: Mapping[str, Any], folder: Path, accelerator: Accelerator, *, resume: bool,
    overwrite: bool,
) -> dict[str, Any]:  # fmt: skip
    """Make a run folder with the project file and the model's own folder; every process calls it.

    Args:
        config: the project configuration.
        folder: of the run.
        accelerator: of this process.
        resume: whether the folder is there already and training goes on in it.
        overwrite: whether an older run of that name is moved aside.

    Returns:
        The configuration as the project file has it.

    Raises:
        RunFolderError: a folder that exists, or one without a state to go on from.
        UsageError: no data, or no vision-language model.
        CheckpointError: its folder is not there.
    """
    section = dict(config.get("vlm") or {})
    if not resume:
        source = vlm_source(config)
        section["source"] = str(source.resolve()) if source else None
    section["pretrained_model_name_or_path"] = VLM
    tokenizer = {**(config.get("tokenizer") or {}), "pretrained_model_name_or_path": VLM}
    values = {**config, "vlm": section, "tokenizer": tokenizer}
    if accelerator.is_main_process:
        if resume:
            read_position(folder, accelerator.num_processes)
        else:
            texts = [] if source else _sentences(config)
            start_folder(folder, overwrite=overwrite)
            try:
                write_vlm(source, folder, texts, section.get("sizes") or {})
            except BaseException:
                shutil.rmtree(folder)
                raise
        if not resume or _read(find_project(folder)) != values:
            write_project(values, folder)
    accelerator.wait_for_everyone()
    return values


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def _sentences(config: Mapping[str, Any]) -> list[str]:
    """What a tokenizer is made from: all that the data sets say."""
    texts: list[str] = []
    for section in (config["train_dataset"], *(config.get("cotrain") or [])):
        kind = section.get("type") or ACTIONS
        if kind == OXE:
            texts += [e.text for part, _ in oxe_episodes(section, "train") for e in part]
        elif kind == ACTIONS:
            texts += [s.text for s in read_language(Path(str(section["data_dir"])))]
        else:
            turns = [turn for entry in section_conversations(section) for turn in entry.turns]
            texts += [text for turn in turns for text in (turn.asked, turn.answer)]
    return texts


def write_vlm(
    source: Path | None, folder: Path, texts: Iterable[str], sizes: Mapping[str, int]
) -> Path:
    """Put what evaluation needs of a vision-language model into a run folder: all but weights.

    Args:
        source: the model's folder; None makes the tiny one.
        folder: of the run.
        texts: sentences that the tiny one's tokenizer is made from.
        sizes: of the tiny one, see `write_tiny`.

    Returns:
        The run's own folder of the model.
    """
    place = folder / VLM
    if source is None:
        from calvin_eval.vla.tiny import write_tiny

        return write_tiny(place, texts, **sizes)
    place.mkdir(exist_ok=True)
    for path in (*source.iterdir(), *source.glob("[!.]*/*")):  # a vision tower has its own folder
        small = path.is_file() and path.stat().st_size <= MOST_BYTES
        if small and path.suffix not in WEIGHTS and ".safetensors" not in path.name:
            target = place / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)
    return place


def build_model(config: Mapping[str, Any], vlm: Path, *, fresh: bool = True) -> RoboVLM:
    """The model before its training, in float32; drawn numbers depend on torch's generator.

    Args:
        config: the project configuration; `vlm.source` names the folder with the vision-language
            model's weights, without which they are random, and `model_load_path` a policy to
            start from.
        vlm: the run's own folder of the vision-language model.
        fresh: whether weights are read; where all of them are restored later they need not be.

    Raises:
        CheckpointError: weights that do not fit, or are missing.
    """
    model = RoboVLM.build(config, vlm, training_compat(config))
    _check_crossing(config, model)
    model.clip_norm_head = ClipNormHead.of_config(config, model.parts.hidden_size)
    if not fresh:
        return model.float()
    named, path = config["vlm"].get("source"), config.get("model_load_path")
    source = Path(named) if named else None
    if source is not None and not _has_weights(source) and not config["vlm"].get("from_scratch"):
        raise CheckpointError(
            f"{source} has no weights: expected files *.safetensors or pytorch_model*.bin. "
            "vlm.from_scratch=true trains it from random ones."
        )
    if source is not None and _has_weights(source):
        report = load_into(model, Weights(source, {}, {}), required=(), vlm=source, strict=False)
        lost = [name for name in report.missing if name.startswith("backbone.")]
        if lost:
            raise CheckpointError(
                f"{source} lacks {len(lost)} weights of the vision-language model, such as "
                f"{lost[0]}: they would be random numbers."
            )
    if path:
        weights = read_weights(Path(str(path)))
        load_into(model, weights, required=sorted(model.required_keys()), vlm=source)
    return model.float()


def _check_crossing(config: Mapping[str, Any], model: RoboVLM) -> None:
    """Refuse what a model with cross attention has no place for."""
    asked = {
        "use_state": config.get("use_state"),
        "fwd_head": (config.get("fwd_head") or {}).get("type"),
        "cotrain": any(part["type"] not in (ACTIONS, OXE) for part in config.get("cotrain") or []),
    }
    found = [key for key, value in asked.items() if value]
    if model.parts.crosses and found:
        raise UsageError(
            f"{', '.join(found)}: expected none with Flamingo, whose words are all that its "
            "sequence holds, as in the original"
        )


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def write_project(config: Mapping[str, Any], folder: Path, now: datetime | None = None) -> Path:
    """Write the configuration into a run folder under the name that RoboVLMs gives it."""
    stamp = (now or datetime.now()).strftime("%Y-%m-%d_%H-%M-%S")
    path = folder / f"{stamp}{PROJECT_END}"
    write_json(path, config)
    return path


def find_project(folder: Path) -> Path:
    """The project file of a run, the newest if there are several.

    Raises:
        CheckpointError: there is none.
    """
    found = sorted(folder.glob(f"*{PROJECT_END}"))
    if not found:
        raise CheckpointError(f"{folder}: expected a file *{PROJECT_END}, found none")
    return found[-1]
