"""What configurations of RoboVLMs train, side by side, before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from calvin_eval.config.training import packaged_training
from calvin_eval.errors import CalvinEvalError, UsageError
from calvin_eval.extras import require
from calvin_eval.vla.config import Config, find_vlm, read_config
from calvin_eval.vla.keys import check_keys, idle_keys
from calvin_eval.vla.mixture import one_and_others
from calvin_eval.wrappers.loaders.folders import robovlms_configs


@dataclass(frozen=True)
class Audit:
    """What one configuration says.

    Attributes:
        path: of the file.
        lora: `lora_enable`: "true", "false", or "absent".
        trains: in words.
        parts: numbers of parameters by part, (all, trained); None if they are unknown.
        reason: why they are unknown, or why the configuration cannot be trained here.
        idle: keys without effect, and why.
    """

    path: Path
    lora: str = "absent"
    trains: str = ""
    parts: Mapping[str, tuple[int, int]] | None = None
    reason: str | None = None
    idle: Mapping[str, str] = field(default_factory=dict)


def find_configs(paths: Sequence[str]) -> list[Path]:
    """Files as given, and all configurations of RoboVLMs in folders and below.

    Raises:
        UsageError: a path that is not there, or nothing at all.
    """
    found: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            folders = sorted({file.parent for file in path.rglob("*.json")})
            found += [config for folder in folders for config in robovlms_configs(folder)]
        else:
            raise UsageError(f"no such file or folder: {path}")
    if not found:
        raise UsageError(
            "expected configurations of RoboVLMs (JSON files with the key robovlm_name), found none"
        )
    return found


def audit(path: Path) -> Audit:
    """Read one configuration; nothing of a model but its shape is built."""
    try:
        config = read_config(path)
        values = one_and_others(config.values)
    except CalvinEvalError as error:
        return Audit(path, reason=str(error))
    setup = values.get("train_setup") or {}
    parts, reason = None, None
    try:
        check_keys(values)
    except UsageError as error:
        reason = f"refused: {error}"
    try:
        parts = _counted(config)
    except CalvinEvalError as error:
        reason = reason or str(error)
    return Audit(
        path,
        lora=str(setup.get("lora_enable", "absent")).lower(),
        trains=trains(setup),
        parts=parts,
        reason=reason,
        idle=idle_keys(values, packaged_training(), all_given=True),
    )


def trains(setup: Mapping[str, Any]) -> str:
    """What a section `train_setup` trains, in words; a flag that is absent is off."""
    extra = [
        name
        for key, name in (("train_vision", "vision"), ("train_text_embedding", "words"))
        if setup.get(key)
    ]
    layers = setup.get("train_decoder_layers", -1)
    if setup.get("lora_enable"):
        return f"LoRA r {setup.get('lora_r', 64)}, alpha {setup.get('lora_alpha', 16)}"
    if setup.get("freeze_backbone"):
        base = "head"
    elif layers != -1:
        base = f"last {layers} layers"
    else:
        base = "full"
        if "train_vision" in setup and not setup["train_vision"]:
            base += ", not vision"
        return base
    return " + ".join([base, *extra])


def _counted(config: Config) -> dict[str, tuple[int, int]]:
    """Parameters of the model, whose shape alone is made.

    Raises:
        CalvinEvalError: the folder of the vision-language model is not here, or is not supported.
    """
    require("vla", "counting parameters")
    folder = find_vlm(config)

    import torch

    from calvin_eval.vla.compat import Compat
    from calvin_eval.vla.model import RoboVLM
    from calvin_eval.vla.training.setup import TrainSetup, parameter_report, prepare

    with torch.device("meta"):
        model = RoboVLM.build(config.values, folder, Compat())
        model.parts.model.tie_weights()
        prepare(model, TrainSetup.from_config(config.values))
    return {row.part: (row.total, row.trained) for row in parameter_report(model)}


def print_audits(audits: Sequence[Audit], console: Console) -> None:
    """A row per configuration, the sum, and the keys without effect."""
    names = list(dict.fromkeys(part for found in audits for part in found.parts or ()))
    table = Table("configuration", "lora_enable", "trains", box=box.SIMPLE_HEAD)
    for name in names or ["all"]:
        table.add_column(f"{name}: trained of", justify="right")
    table.add_column("no effect", justify="right")
    for found in audits:
        known = found.parts
        cells = [
            "unknown" if known is None else _share(known.get(name)) for name in names or ["all"]
        ]
        table.add_row(found.path.name, found.lora, found.trains, *cells, str(len(found.idle)))
    console.print(table)
    counts = Counter(found.lora for found in audits)
    told = ", ".join(f"{counts[word]} {word}" for word in ("false", "absent", "true"))
    _say(console, f"{len(audits)} configurations; lora_enable: {told}")
    for found in audits:
        if found.reason:
            _say(console, f"{found.path.name}: {found.reason}")
    for found in audits:
        if found.idle:
            _say(console, f"{found.path.name}, no effect: {', '.join(found.idle)}")


def _share(numbers: tuple[int, int] | None) -> str:
    return "-" if numbers is None else f"{numbers[1]:,} of {numbers[0]:,}"


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
