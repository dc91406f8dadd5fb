"""Folders of published model families that calvin-eval does not load, and the way to run each.

Only names and small JSON files are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.wrappers.loaders.folders import LARGEST_CONFIG

Config: TypeAlias = Mapping[str, Any]

_CLASS = "load it in a class of yours and run that as file.py:Class (docs/policies.md)"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        name: as its authors write it.
        matches: whether a folder with this configuration is of the family; the configuration is
            empty where there is none.
        way: how it is run, as the end of a sentence.
    """

    name: str
    matches: Callable[[Path, Config], bool]
    way: str


def explain(folder: Path) -> str | None:
    """What a folder of a published family is, and how it is run; None if it is of none."""
    config = _read_config(folder)
    for family in FAMILIES:
        if family.matches(folder, config):
            return (
                f"{folder} is a checkpoint of {family.name}, which calvin-eval does not load "
                f"itself: {family.way}."
            )
    kind = config.get("model_type")
    if isinstance(kind, str) and kind:
        return (
            f"{folder} is a folder of the transformers library (model_type {kind[:60]!r}), of no "
            "kind whose actions calvin-eval knows: run its own policy server and give the address "
            f"to --ckpt (docs/servers.md), or {_CLASS}."
        )
    return None


def _read_config(folder: Path) -> Config:
    path = folder / "config.json"
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            return {}
        found = parse_json(path.read_bytes(), strict=False)
    except (OSError, DocumentError):
        return {}
    return found if isinstance(found, dict) else {}


def _named(*names: str) -> Callable[[Path, Config], bool]:
    """Whether `model_type` or a class in `architectures` begins with one of these, in any case."""

    def matches(folder: Path, config: Config) -> bool:
        classes = config.get("architectures")
        texts = [config.get("model_type"), *(classes if isinstance(classes, list) else [])]
        plain = [str(text).lower().replace("-", "_") for text in texts if text]
        return any(text.startswith(names) for text in plain)

    return matches


def _is_dexbotic(folder: Path, config: Config) -> bool:
    """Its models share names of classes with others; its configurations have `model_type`."""
    return str(config.get("model_type")).startswith("dexbotic")


def _is_gr00t(folder: Path, config: Config) -> bool:
    return (
        _named("gr00t", "groot")(folder, config)
        or (folder / "experiment_cfg" / "metadata.json").is_file()
    )


def _is_openpi(folder: Path, config: Config) -> bool:
    """A step of openpi's training: weights of JAX or PyTorch beside the statistics of its data."""
    weights = (folder / "params" / "_METADATA", folder / "params" / "manifest.ocdbt")
    torch = (folder / "model.safetensors").is_file() and not config.get("model_type")
    statistics = any((folder / "assets").glob("**/norm_stats.json"))
    return any(path.exists() for path in weights) or (torch and statistics)


def _is_openpi_run(folder: Path, config: Config) -> bool:
    """A training run of openpi: folders of steps."""
    steps = [path for path in folder.iterdir() if path.name.isdecimal()]
    return any(_is_openpi(step, {}) for step in steps[:5])


def _is_starvla(folder: Path, config: Config) -> bool:
    """A run, its `checkpoints/` or `final_model/`: the statistics lie in the run's folder."""
    for place in (folder, folder.parent):
        if (place / "dataset_statistics.json").is_file() and (
            (place / "config.yaml").is_file() or (place / "config.full.yaml").is_file()
        ):
            return True
    return False


def _is_flower(folder: Path, config: Config) -> bool:
    """Hydra's record of a training with FLOWER, or what its authors put on the Hub."""
    if _named("flower")(folder, config):
        return True
    for name in ("config.yaml", ".hydra/config.yaml", "model_config.yaml", "config.json"):
        path = folder / name
        try:
            if path.stat().st_size <= LARGEST_CONFIG and b"flower.models" in path.read_bytes():
                return True
        except OSError:
            continue
    return False


FAMILIES = (
    Family(
        name="dexbotic",
        matches=_is_dexbotic,
        way="start its server (its experiment's task `inference`) behind a class that calls it and "
        "run that as file.py:Class (docs/policies.md), or serve it by vla-eval "
        "(vla_eval.model_servers.dexbotic) and run --policy vla_eval --ckpt ws://HOST:PORT",
    ),
    Family(
        name="X-VLA",
        matches=_named("xvla", "x_vla"),
        way="start its own server (its deploy.py) and run --policy xvla --ckpt http://HOST:PORT",
    ),
    Family(
        name="GR00T",
        matches=_is_gr00t,
        way="start its own server (its gr00t/eval/run_gr00t_server.py) and run "
        "--policy gr00t --ckpt tcp://HOST:5555",
    ),
    Family(
        name="OpenVLA or OpenVLA-OFT",
        matches=_named("openvla", "prismatic"),
        way="serve it by vla-eval (vla_eval.model_servers.openvla, or oft) and run "
        f"--policy vla_eval --ckpt ws://HOST:PORT, or {_CLASS}",
    ),
    Family(
        name="starVLA",
        matches=_is_starvla,
        way="start its own server (its deployment/model_server/server_policy.py) and run "
        "--policy starvla --ckpt ws://HOST:PORT",
    ),
    Family(
        name="FLOWER",
        matches=_is_flower,
        way=f"{_CLASS}, with --policy flower for its convention of actions",
    ),
    Family(
        name="openpi",
        matches=_is_openpi,
        way="start its own server (its scripts/serve_policy.py policy:checkpoint) and run "
        "--policy openpi --ckpt ws://HOST:PORT",
    ),
    Family(
        name="openpi (a run with several steps)",
        matches=_is_openpi_run,
        way="choose one of its steps, start its own server (its scripts/serve_policy.py "
        "policy:checkpoint) and run --policy openpi --ckpt ws://HOST:PORT",
    ),
)
"""In the order in which they are tried."""
