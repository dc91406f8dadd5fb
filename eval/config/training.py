"""Composing the configuration of a training: conf/train.yaml, a model, overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from calvin_eval.config.compose import compose_config, key_names, unknown_key, usage_error
from calvin_eval.config.hydra_scope import hydra_scope
from calvin_eval.config.values import check_number
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.vla.keys import check_keys, idle_keys
from calvin_eval.vla.mixture import OXE, one_and_others

CONFIG, GROUP = "train", "model"
_FROM_FILE = "_from_file"

_FREE_FORM = ("vlm.sizes.", "compat.")
"""Sections whose names are checked by those who read them."""

_CALL_KEYS = ("data", "out", "resume", "overwrite")
"""What concerns one call, and so is not kept in the project file."""

_PATHS = ("model_load_path", "vlm.pretrained_model_name_or_path", "train_dataset.data_dir",
          "val_dataset.data_dir", "train_dataset.pairs", "val_dataset.pairs", "vlm.adapter",
          "clip_text", "train_dataset.adapter", "val_dataset.adapter")  # fmt: skip
_EVALUATE = "evaluate.overrides"

_WHOLE_NUMBERS = {
    "seed": 0,
    "window_size": 1,
    "fwd_pred_next_n": 1,
    "batch_size": 1,
    "trainer.accumulate_grad_batches": 1,
    "trainer.log_every_n_steps": 1,
}
_OPTIONAL_NUMBERS = {
    "num_workers": 0,
    "trainer.max_epochs": -1,
    "trainer.max_steps": -1,
    "trainer.threads": 1,
    "trainer.val_check_interval": 1,
    "trainer.limit_val_batches": 1,
    "save.every": 1,
    "save.keep": 1,
    "evaluate.every": 1,
}
_SECTIONS = ("act_head", "trainer", "train_setup", "train_dataset", "val_dataset", "vlm",
             "tokenizer", "save", "evaluate", "compat", "wandb")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training that can start.

    Attributes:
        project: what the run's project file says: RoboVLMs' keys, and ours beside them.
        out: the run folder.
        resume: whether the folder's training goes on.
        overwrite: whether an older run of that name is moved aside.
        idle: keys that have no effect, and why.
    """

    project: dict[str, Any]
    out: Path
    resume: bool
    overwrite: bool
    idle: Mapping[str, str] = field(default_factory=dict)


def compose_training(overrides: Sequence[str]) -> TrainConfig:
    """Compose a checked configuration.

    Args:
        overrides: Hydra overrides, `key=value`; `model` is a packaged one or a project file,
            PATH.json. With `resume=true` the run's own project file takes its place.

    Raises:
        UsageError: an override that cannot be parsed, an unknown key, or a value out of range.
        CheckpointError: a project file that cannot be read.
        RunFolderError: no training to go on with.
    """
    call, rest = _split(overrides)
    raw, idle = _composed(rest, Path(call["out"]) if call["resume"] else None)
    raw = {key: value for key, value in raw.items() if key not in _CALL_KEYS}
    _check(raw)
    _check_code(raw, rest)
    check_keys(raw)
    _place_data(raw, call["data"])
    folder = call["out"] or f"runs/train-{raw['model']}-{datetime.now():%Y%m%d-%H%M%S}"
    return TrainConfig(
        project=raw,
        out=Path(folder),
        resume=call["resume"],
        overwrite=call["overwrite"],
        idle=idle,
    )


@lru_cache(maxsize=1)
def packaged_training() -> Mapping[str, Any]:
    """The configuration that every training starts from, whose keys are acted on."""
    from omegaconf import OmegaConf

    with hydra_scope() as compose:
        packaged: Any = OmegaConf.to_container(compose(CONFIG))
    return MappingProxyType(packaged)


def _check_code(raw: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """Refuse code that a project file names and the command line does not."""
    for section in ("vlm", "train_dataset", "val_dataset"):
        named, key = (raw[section] or {}).get("adapter"), f"{section}.adapter="
        if named and not any(text.startswith(key) for text in overrides):
            raise UsageError(f"a project file names code that would run: repeat {key}{named} here")


def _split(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What concerns this call, and the other overrides. No character in a path has a meaning."""
    call: dict[str, Any] = dict.fromkeys(_CALL_KEYS)
    rest = []
    for override in overrides:
        key, sign, value = override.partition("=")
        if key in _CALL_KEYS and sign:
            call[key] = value
        else:
            rest.append(override)
    for key in ("resume", "overwrite"):
        word = str(call[key] or False).lower()
        if word not in ("true", "false"):
            raise UsageError(f"expected {key}=true or {key}=false, found {call[key]!r}")
        call[key] = word == "true"
    if call["resume"] and not call["out"]:
        raise UsageError("expected out=FOLDER with resume=true: the run that is to go on")
    if not call["out"] and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("expected out=FOLDER with several processes: each would name another")
    return call, rest


def _composed(
    overrides: Sequence[str], resumed: Path | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration, and its keys without effect."""
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    with hydra_scope() as compose:
        start, rest, written = _start(overrides, resumed)
        try:
            defaults = compose(CONFIG, overrides=start)
            raw: Any = OmegaConf.to_container(
                compose(CONFIG, overrides=[*start, *rest]), resolve=True, throw_on_missing=True
            )
        except (HydraException, OmegaConfBaseException) as error:
            raise usage_error(error, compose(CONFIG), evaluation=False) from error
        packaged: Any = OmegaConf.to_container(compose(CONFIG))
    known = key_names(OmegaConf.to_container(defaults))
    for key in key_names(raw):
        if key not in known and not key.startswith(_FREE_FORM):
            raise unknown_key(key, known, evaluation=False)
    idle = idle_keys(raw, packaged, all_given=False)
    if resumed is None:
        idle = idle_keys(written, packaged, all_given=True, whole=raw) | idle
    return dict(raw), idle


def _start(
    overrides: Sequence[str], resumed: Path | None
) -> tuple[list[str], list[str], dict[str, Any]]:
    """The choice of a model, the other overrides as Hydra takes them, and a project file's keys."""
    start = [override for override in overrides if override.startswith(f"{GROUP}=")]
    rest = [override for override in overrides if override not in start]
    # With the section's own name too: Hydra refuses new keys in a table given as a whole.
    free = tuple(section.rstrip(".") for section in _FREE_FORM)
    rest = [f"++{text}" if text.startswith(free) else _quoted(text) for text in rest]
    if resumed is not None:
        if start:
            raise UsageError("resume=true goes on with the run's own model; expected no model=")
        found = sorted(resumed.glob("*-project.json"))
        if not found:
            raise RunFolderError(f"{resumed}: expected a training to go on with, found none")
        return [f"{GROUP}={_store(found[-1])}"], rest, _file(found[-1])
    names = [override.partition("=")[2] for override in start]
    files = [name for name in names if name.endswith(".json")]
    written = {} if not files else _checked_file(Path(files[-1]))
    paths = {name: f"{GROUP}={_store(Path(name))}" for name in files}
    return [paths.get(name, f"{GROUP}={name}") for name in names], rest, written


def _quoted(override: str) -> str:
    """An override whose value Hydra takes as it is: a path, or overrides of an evaluation."""
    key, _, value = override.partition("=")
    if key in _PATHS and value not in ("", "null") and value[0] not in "'\"":
        return f"{key}={_quote(value)}"
    if key == _EVALUATE and value[:1] == "[" and not set("'\"[") & set(value[1:]):
        inside = value[1:].rstrip("]").split(",")
        return f"{key}=[{','.join(_quote(text) for text in inside if text)}]"
    return override


def _quote(text: str) -> str:
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def _store(path: Path) -> str:
    """Make a project file, with its parents, an option of the group `model`."""
    from hydra.core.config_store import ConfigStore

    node = _file(path)
    ConfigStore.instance().store(group=GROUP, name=_FROM_FILE, package="_global_", node=node)
    return _FROM_FILE


def _file(path: Path) -> dict[str, Any]:
    from calvin_eval.vla.config import read_config

    return one_and_others(read_config(path).values)


def _checked_file(path: Path) -> dict[str, Any]:
    """A project file of RoboVLMs, whose `resume` means a checkpoint.

    Raises:
        UsageError: a key of another form than here.
    """
    values = _file(path)
    if values.get("resume") not in (None, False, ""):
        raise UsageError(
            f"{path}: resume={values['resume']!r}: the state of another trainer cannot be gone on "
            "with. model_load_path=CHECKPOINT starts from its weights; out=RUN resume=true goes "
            "on with a training of calvin-eval. Set resume to null."
        )
    for name in _SECTIONS:
        if name in values and not isinstance(values[name], Mapping):
            raise UsageError(
                f"{path}: expected {name} to be one section, found "
                f"{type(values[name]).__name__}: choose one of them"
            )
    return values


def _check(raw: Mapping[str, Any]) -> None:
    """Refuse what could only fail later, with a traceback."""
    for name in _SECTIONS:
        if not isinstance(raw[name], Mapping):
            raise UsageError(f"expected keys {name}.KEY=VALUE; found the value {raw[name]!r}")
    for numbers, optional in ((_WHOLE_NUMBERS, False), (_OPTIONAL_NUMBERS, True)):
        for key, low in numbers.items():
            section, _, name = key.rpartition(".")
            value = (raw[section] if section else raw)[name]
            check_number(key, value, low, whole=True, optional=optional)
    overrides = raw["evaluate"]["overrides"]
    if not isinstance(overrides, list):
        raise UsageError(f"expected evaluate.overrides=[KEY=VALUE,...], found {overrides!r}")
    compose_config([*map(str, overrides), "ckpt=any"])


def _place_data(raw: dict[str, Any], data: str | None) -> None:
    """Name the folders of both splits."""
    if data is not None:
        root = Path(data).expanduser().absolute()
        raw["train_dataset"]["data_dir"] = str(root / "training")
        validation = root / "validation"
        raw["val_dataset"]["data_dir"] = str(validation) if validation.is_dir() else None
    for name in ("train_dataset", "val_dataset"):
        if raw[name].get("type") == OXE:
            raw[name]["data_dir"] = raw[name].get("data_root_dir")
            if not raw[name]["data_dir"] or not raw[name].get("data_mix"):
                raise UsageError(f"{name}: {OXE} needs data_root_dir=FOLDER and data_mix=NAME")
        elif data is None and raw["train_dataset"].get("type") == OXE:
            raw[name]["data_dir"] = None  # a project file's own, of another machine
    if not raw["train_dataset"]["data_dir"]:
        raise UsageError("expected data=PATH, a data set in CALVIN's format; found none")
