"""RoboVLMs' configuration: a JSON file that may have a parent, and the folder of its VLM.

Keys and their meaning: RoboVLMs, config_utils and its training configurations. Nothing heavy is
imported here: whoever prints a configuration need not load a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.foreign.text import printable
from calvin_eval.vla.compat import Compat
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.loaders.folders import (
    ADAPTER_CONFIG,
    ROBOVLMS_KEY,
    is_adapter,
    robovlms_configs,
)

OVERRIDE = "__override__"
REQUIRED: Mapping[str, type | tuple[type, ...]] = {
    "vlm": dict,
    "act_head": dict,
    "window_size": int,
    "fwd_pred_next_n": int,
}
HALF: Mapping[str, Mapping[str, str]] = {
    "compat": {"bf16": "bfloat16", "fp16": "float16"},
    "strict": {
        **{name: "bfloat16" for name in ("bf16", "bf16-mixed", "bf16-true")},
        **{name: "float16" for name in ("fp16", "16", "16-mixed", "16-true")},
    },
}
"""`trainer.precision` -> the type that the whole module is cast to, by `dtype_rule`."""


@dataclass(frozen=True)
class Config:
    """A configuration with its parents merged in.

    Attributes:
        path: the file.
        values: all keys.
        files: the file and its parents, the youngest first.
    """

    path: Path
    values: Mapping[str, Any]
    files: tuple[Path, ...]

    @property
    def head(self) -> Mapping[str, Any]:
        """The section of the policy head."""
        head: Mapping[str, Any] = self.values["act_head"]
        return head

    @property
    def window(self) -> int:
        """Frames that the model remembers."""
        return int(self.values["window_size"])

    @property
    def chunk(self) -> int:
        """Actions that one decision predicts."""
        return int(self.values["fwd_pred_next_n"])

    @property
    def discrete(self) -> bool:
        """Whether actions are generated as tokens."""
        return bool(self.head.get("action_space", "continuous") == "discrete")

    @property
    def history(self) -> str:
        """Where the memory is: "post" (in the head), "pre" (a window of frames), "video"."""
        return str(self.head.get("history_type", "post"))

    @property
    def hand(self) -> bool:
        """Whether the gripper camera is used."""
        return bool(self.values.get("use_hand_rgb", False))

    def dtype(self, rule: str) -> str:
        """Name of the floating type to compute in, by `dtype_rule`."""
        trainer = self.values.get("trainer") or {}
        return HALF[rule].get(str(trainer.get("precision")), "float32")


def read_config(path: Path) -> Config:
    """Read a configuration and its parents; the child's values win.

    Raises:
        CheckpointError: a file is missing, no JSON, its own ancestor, or lacks what a model needs.
    """
    values, files = _read(path, ())
    for key, kind in REQUIRED.items():
        if not isinstance(values.get(key), kind) or isinstance(values.get(key), bool):
            found = repr(values[key]) if key in values else "nothing"
            raise CheckpointError(
                f"{path}: expected {key} to be {_spelled(kind)}, found {found}: is this the "
                "configuration of a RoboVLMs training?"
            )
    return Config(path=path, values=values, files=files)


def _spelled(kind: type | tuple[type, ...]) -> str:
    return "a section" if kind is dict else "a whole number"


def _read(path: Path, children: tuple[Path, ...]) -> tuple[dict[str, Any], tuple[Path, ...]]:
    if path.resolve() in {child.resolve() for child in children}:
        circle = " -> ".join(map(str, (*children, path)))
        raise CheckpointError(f"a configuration cannot be its own parent: {circle}")
    values = _read_json(path)
    parent = values.pop("parent", None)
    if not parent:
        return _settled(values), (path,)
    if not isinstance(parent, str):
        raise CheckpointError(f"{path}: expected parent to be a path, found {parent!r}")
    above, files = _read(_parent(path, parent), (*children, path))
    return merge(above, values), (path, *files)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(path.read_bytes(), strict=False)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from error
    except DocumentError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}.")
    return values


def _parent(path: Path, parent: str) -> Path:
    """RoboVLMs reads parents from the current folder; a copied configuration has them beside it."""
    places = [path.parent / parent, Path(parent)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise CheckpointError(
            f"{path}: its parent {parent} is missing: expected it at "
            f"{' or '.join(map(str, dict.fromkeys(places)))}. Copy it there, or set parent to null "
            "if nothing of it is needed."
        )
    return found


def merge(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """`below` over `above`, section by section.

    A section with `__override__: true` replaces the one above instead of being merged with it.
    """
    merged = dict(above)
    for key, value in below.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not value.get(OVERRIDE):
            merged[key] = merge(old, value)
        else:
            merged[key] = _settled(value)
    return merged


def _settled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _settled(entry) for key, entry in value.items() if key != OVERRIDE}


def find_config(source: Source) -> Path:
    """The configuration of a checkpoint: as given, or in its folder, or in the one above.

    Raises:
        CheckpointError: there is none, or several that are equally good.
    """
    given = source.options.get("config")
    if given is not None:
        return Path(str(given))
    path = source.path.absolute()
    places = ([path] if path.is_dir() else []) + [path.parent]
    for place in places:
        found = robovlms_configs(place)
        # Training writes <time>-project.json: the last one by name is the newest.
        written = [file for file in found if file.name.endswith("-project.json")]
        if written or len(found) == 1:
            return (written or found)[-1]
        if found:
            names = ", ".join(file.name for file in found)
            raise CheckpointError(
                f"{place} holds several RoboVLMs configurations ({names}): choose with "
                "policy.options.config=PATH."
            )
    if path.is_dir() and is_adapter(path):
        raise CheckpointError(_another_adapter(path))
    raise CheckpointError(
        f"{source.ckpt}: no RoboVLMs configuration beside it: expected a JSON file with the key "
        f"{ROBOVLMS_KEY} in {' or '.join(map(str, places))}, or policy.options.config=PATH."
    )


def _another_adapter(path: Path) -> str:
    """What to say of an adapter of peft without a RoboVLMs configuration."""
    try:
        settings = parse_json((path / ADAPTER_CONFIG).read_bytes(), strict=False)
    except (OSError, DocumentError):
        settings = {}
    values = settings if isinstance(settings, dict) else {}
    base = printable(str(values.get("base_model_name_or_path") or "a model that it does not name"))
    return (
        f"{path} is an adapter of peft for {base[:200]}, with no RoboVLMs configuration "
        f"({ROBOVLMS_KEY}) in it or beside it. If it is RoboVLMs', give "
        "policy.options.config=PATH. If not, merge it into its model (peft's merge_and_unload) and "
        "run that by its own server, or load both in a class of yours (docs/policies.md)."
    )


def find_vlm(config: Config, given: Any = None) -> Path:
    """The folder of the vision-language model: its configuration and tokenizer files.

    Args:
        config: names it under `vlm.pretrained_model_name_or_path`.
        given: the user's path, which wins.

    Raises:
        CheckpointError: it is nowhere; nothing is ever downloaded.
    """
    named = str(config.values["vlm"].get("pretrained_model_name_or_path") or "")
    places = _vlm_places(config, given)
    for place in places:
        if (place / "config.json").is_file():
            return place
    where = " or ".join(map(str, dict.fromkeys(places))) or "vlm.pretrained_model_name_or_path"
    url = config.values.get("model_url")
    raise CheckpointError(
        f"{config.path} builds on the vision-language model {named or '(unnamed)'}: expected its "
        f"folder, with config.json and the tokenizer's files, at {where}. Nothing is downloaded: "
        f"get it{f' from {url}' if url else ''} and give policy.options.vlm=PATH."
    )


def vlm_type(config: Config, given: Any = None) -> object:
    """The `model_type` of the vision-language model, as far as its folder is here; else None.

    Args:
        config: names the folder.
        given: the user's path, which wins.
    """
    for place in _vlm_places(config, given):
        try:
            found = parse_json((place / "config.json").read_bytes(), strict=False)
        except (OSError, DocumentError):
            continue
        return found.get("model_type") if isinstance(found, dict) else None
    return None


def _vlm_places(config: Config, given: Any) -> list[Path]:
    """Where the folder of the vision-language model may lie, the likeliest first."""
    if given is not None:
        return [Path(str(given))]
    named = str(config.values["vlm"].get("pretrained_model_name_or_path") or "")
    return [config.path.parent / named, Path(named)] if named else []


def read_compat(source: Source, config: Config | None = None) -> Compat:
    """The compatibility options of a source.

    `compat=fixed` starts from what the original was meant to do and `compat=original` from what it
    does, whatever the configuration says; single options go on top.

    Args:
        source: with its options.
        config: the source's, in whose section `compat` our own training writes options.

    Raises:
        UsageError: an option or a value that does not exist.
    """
    bases = {"original": Compat(), "fixed": Compat.fixed()}
    base = source.options.get("compat")
    if base is None:
        start = Compat.from_options((config.values.get("compat") or {}) if config else {})
    elif base in bases:
        start = bases[base]
    else:
        raise UsageError(f"policy.options.compat: expected original or fixed, found {base!r}")
    names = Compat.__dataclass_fields__
    given = {name: value for name, value in source.options.items() if name in names}
    return Compat.from_options(given, start)


def audit_lora(folder: Path) -> Counter[str]:
    """How many RoboVLMs configurations under a folder say `lora_enable` true, false, or nothing.

    Returns:
        Counts of "true", "false" and "absent".
    """
    counts = Counter({"true": 0, "false": 0, "absent": 0})
    for path in sorted(folder.rglob("*.json")):
        if path in robovlms_configs(path.parent):
            setup = _read(path, ())[0].get("train_setup") or {}
            counts[str(setup.get("lora_enable", "absent")).lower()] += 1
    return counts
