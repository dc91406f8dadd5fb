"""Composing a configuration: Hydra's groups, overrides and flags, checked before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from calvin_eval.checks import check_fields
from calvin_eval.config.arguments import with_arguments
from calvin_eval.config.checkpoints import expand, run_names
from calvin_eval.config.hydra_scope import CONFIG_MODULE, hydra_scope
from calvin_eval.config.preset_files import check_stages, store_preset
from calvin_eval.config.schema import (
    SIM_KEYS,
    EngineConfig,
    EvalConfig,
    PolicyConfig,
    SimConfig,
    VideoConfig,
)
from calvin_eval.config.upstream import answer
from calvin_eval.config.values import (
    check_cluster,
    check_number,
    devices_of,
    optional_text,
    selection_text,
    shard_of,
    shift_text,
    split_of,
)
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.protocol import OFFICIAL, Protocol, RealTime
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.wrappers.interface import Interface, read_interface

_RULES = OFFICIAL.to_config()
_KNOWN = {
    "": [f.name for f in fields(EvalConfig)],
    "sim": SIM_KEYS,
    "sim.draw": [f.name for f in fields(DrawOptions)],
    "protocol": list(_RULES["protocol"]),
    "protocol.realtime": [f.name for f in fields(RealTime)],
    "engine": [f.name for f in fields(EngineConfig)],
    "policy": [f.name for f in fields(PolicyConfig)],
    "policy.interface": [f.name for f in fields(Interface)],
    "video": [f.name for f in fields(VideoConfig)],
}
"""The keys of every section that has a fixed set of them."""

_COMPUTED = ("arguments_sha256",)
_FREE_FORM = ("policy.options.", "policy.observe.", "policy.actions.")


def compose_config(
    overrides: Sequence[str], settings: Mapping[str, Any] | None = None
) -> EvalConfig:
    """Compose the packaged groups and overrides into a checked configuration.

    Args:
        overrides: Hydra overrides, `key=value` or `group=name`. Keys below `policy.options` may
            be new; any other unknown key is an error that names the nearest known one.
        settings: values of known keys, taken literally after everything else: no character in
            them has a meaning.

    Raises:
        UsageError: an override that cannot be parsed, an unknown key, or a value out of range.
    """
    from omegaconf import OmegaConf

    with hydra_scope() as compose:
        _store_defaults()
        free = [_prepared(override) for override in overrides]
        try:
            composed = compose("config", overrides=free)
            raw: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except Exception as error:  # Hydra raises anything for values that it did not expect
            raise usage_error(error, compose("config")) from error
    _reject_unknown(raw)
    for key, value in (settings or {}).items():
        section, _, name = key.rpartition(".")
        _get(raw, section)[name] = value
    return _checked(raw)


def _store_defaults() -> None:
    """Make the dataclasses' defaults inputs of `conf/config.yaml`, so that no file repeats them."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="official_rules", node=OFFICIAL.to_config())
    store.store(name="drawing", node={"sim": {"draw": DrawOptions().as_dict()}})


def _prepared(override: str) -> str:
    """An override as Hydra takes it: free keys may be new, and a preset may be a file.

    A path needs no quotes, though Hydra has other uses for `=` and for `~` in front.
    """
    key, _, value = override.partition("=")
    if key == "policy" and value.endswith((".yaml", ".yml")):
        return f"policy={store_preset(Path(value))}"
    if value[:1] not in ("'", '"', "[", "{") and ("=" in value or value.startswith("~")):
        text = os.path.expanduser(value).replace('"', '\\"')
        override = f'{key}="{text}"'
    return f"++{override}" if override.startswith(_FREE_FORM) else override


def compose_configs(
    overrides: Sequence[str],
    settings: Mapping[str, Any],
    ckpts: Sequence[str],
    seeds: Sequence[int] = (),
) -> list[EvalConfig]:
    """One configuration per checkpoint and seed.

    Args:
        overrides: see `compose_config`.
        settings: see `compose_config`.
        ckpts: as given by `--ckpt`, see `checkpoints.expand`. With more than one, `out` is the
            folder of their run folders.
        seeds: of the policy; every checkpoint is run with each of them, in a run folder `seed-N`
            below its own. The configuration's own one if there are none.

    Raises:
        UsageError: see `compose_config`.
    """
    named = expand(ckpts)
    first = {**settings, **({"ckpt": named[0]} if named else {})}
    config = compose_config(overrides, first)
    if len(named) <= 1 and not seeds:
        return [config]
    folder = config.out or f"runs/{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    places = {
        name: f"{folder}/{short}" for name, short in zip(named, run_names(named), strict=True)
    }
    if len(named) <= 1:
        places = {config.ckpt: folder}
    if not seeds:
        return [replace(config, ckpt=ckpt, out=out) for ckpt, out in places.items()]
    return [
        replace(config, ckpt=ckpt, seed=seed, out=f"{out}/seed-{seed}")
        for ckpt, out in places.items()
        for seed in seeds
    ]


def usage_error(error: Exception, defaults: Any, *, evaluation: bool = True) -> UsageError:
    """What to say about an override that Hydra refuses.

    Args:
        error: Hydra's.
        defaults: the configuration without overrides.
        evaluation: whether it is that of an evaluation, see `unknown_key`.
    """
    from omegaconf import OmegaConf

    message = str(error).split("\n", maxsplit=1)[0]
    if group := re.search(r"Could not find '(\w+)/([^']*)'", message):
        return UnknownNameError(group[1], group[2], _group_names(group[1]))
    unknown = re.search(r"Could not override '([^']+)'", message)
    if not unknown:
        return UsageError(
            f"{message.rstrip('.')}. Overrides have the form key=value or group=name."
        )
    known = key_names(OmegaConf.to_container(defaults))
    return unknown_key(unknown[1].lstrip("+"), known, evaluation=evaluation)


def _group_names(group: str) -> list[str]:
    from importlib.resources import files

    folder = files(CONFIG_MODULE) / group
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def unknown_key(key: str, known: Sequence[str], *, evaluation: bool = True) -> UsageError:
    """An error that names what stands for another script's key, or the nearest known key.

    Args:
        key: as it was given.
        known: all that there are.
        evaluation: whether keys of other evaluation scripts are answered; they mean something
            else in a training.
    """
    if evaluation and (said := answer(key)) is not None:
        return UsageError(f"unknown configuration key {key!r}: here it is {said}.")
    leaf = {name.rsplit(".", maxsplit=1)[-1]: name for name in known}
    near = get_close_matches(key, known, n=1) or [
        leaf[name] for name in get_close_matches(key.rsplit(".", maxsplit=1)[-1], leaf, n=1)
    ]
    hint = f" Did you mean {near[0]}?" if near else ""
    return UsageError(f"unknown configuration key {key!r}.{hint} --print-config lists all keys.")


def key_names(tree: Any, prefix: str = "") -> list[str]:
    """All keys of a tree, those of sections with dots."""
    keys = []
    for key, value in tree.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += key_names(value, f"{prefix}{key}.")
    return keys


def _reject_unknown(raw: Mapping[str, Any]) -> None:
    """Every section has the keys that we read, and no others appended with Hydra's + syntax."""
    for path, known in _KNOWN.items():
        section = _get(raw, path)
        prefix = f"{path}." if path else ""
        if not isinstance(section, Mapping):
            raise UsageError(
                f"expected {prefix}KEY=VALUE; found the value {section!r} without a key"
            )
        for key in section:
            if key not in known:
                raise unknown_key(f"{prefix}{key}", [f"{prefix}{name}" for name in known])
        missing = [name for name in known if name not in {*section, *_COMPUTED}]
        if missing:
            raise UsageError(
                f"expected {prefix}{missing[0]}, found none: a preset starts from another one by "
                "`defaults: [NAME]`, or leaves `defaults` out"
            )


def _checked(raw: dict[str, Any]) -> EvalConfig:
    for path, kind in (("", EvalConfig), ("sim", SimConfig), ("engine", EngineConfig)):
        check_fields(kind, _get(raw, path), f"{path}." if path else "")
    if not raw["ckpt"]:
        raise UsageError(
            "expected a policy: --ckpt PATH, builtin:NAME or module:Class. "
            "Try `calvin-eval --ckpt builtin:random --split D --num-chains 5`."
        )
    if not raw["sim"]["deterministic"] and raw["sim"]["backend"] == "calvin_eval":
        raise UsageError(
            "sim.deterministic=false needs sim.backend=calvin_env: our own world has no other way"
        )
    if raw["protocol"]["shift"] and raw["sim"]["backend"] != "calvin_eval":
        raise UsageError(
            "expected sim.backend=calvin_eval with --shift: upstream's own world has no shifts"
        )
    if raw["resume"] and raw["out"] is None:
        raise UsageError("expected --out FOLDER with --resume: the run that is to be completed")
    engine, select = raw["engine"], raw["protocol"]["select"]
    raw["protocol"]["select"] = None if select is None else selection_text(select)
    raw["protocol"]["shift"] = shift_text(raw["protocol"]["shift"])
    protocol = Protocol.from_config(raw)
    if engine["workers"] != "auto":
        check_number("engine.workers", engine["workers"], 0, whole=True)
    engine["devices"] = devices_of(engine["devices"])
    cameras = raw["video"]["cameras"]
    if not isinstance(cameras, list) or not all(isinstance(name, str) for name in cameras):
        raise UsageError(
            f"expected video.cameras to list cameras such as [static,gripper]; found {cameras!r}"
        )
    check_cluster(engine)
    for key in ("options", "observe", "actions"):
        raw["policy"][key] = raw["policy"].get(key) or {}  # null takes away what a preset says
    check_stages(raw["policy"])
    read_interface(raw["policy"]["interface"])
    raw["policy"] = with_arguments(raw["policy"])
    return EvalConfig(
        ckpt=str(raw["ckpt"]),
        split=split_of(str(raw["split"])),
        out=None if raw["out"] is None else str(raw["out"]),
        overwrite=bool(raw["overwrite"]),
        resume=bool(raw["resume"]),
        shard=shard_of(raw["shard"]),
        seed=raw["seed"],
        sim=SimConfig(
            **{f.name: raw["sim"][f.name] for f in fields(SimConfig) if f.name != "draw"},
            draw=DrawOptions(**raw["sim"]["draw"]),
        ),
        protocol=protocol,
        engine=EngineConfig(**engine),
        policy=PolicyConfig(**raw["policy"]),
        video=VideoConfig(**{**raw["video"], "cameras": tuple(raw["video"]["cameras"])}),
        **{key: optional_text(raw[key]) for key in ("gate", "baseline", "expect")},
    )


def _get(raw: Mapping[str, Any], path: str) -> Any:
    value: Any = raw
    for key in path.split(".") if path else ():
        value = value[key]
    return value
