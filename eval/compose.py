"""Composing a configuration: Hydra's groups, overrides and flags, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Any

from calvin_eval.config import (
    SPLITS,
    EngineConfig,
    EvalConfig,
    PolicyConfig,
    ProtocolConfig,
    SimConfig,
    VideoConfig,
    policy_name,
)
from calvin_eval.errors import UnknownNameError, UsageError

_CHOICES = {
    "sim.backend": ("calvin_eval", "calvin_env"),
    "sim.revision": ("pinned", "head"),
    "sim.render": ("auto", "egl", "tiny", "none"),
    "protocol.layout": ("scene", "upstream"),
    "protocol.budget": ("env_steps", "decisions"),
    "protocol.policy_reset": ("subtask", "chain"),
    "protocol.world_reset": ("chain", "subtask"),
    "protocol.leftover": ("drop", "keep"),
    "engine.name": ("local", "ray"),
}
_WHOLE_NUMBERS = {
    "seed": 0,
    "protocol.steps": 1,
    "protocol.num_chains": 1,
    "protocol.execute": 1,
    "engine.max_batch": 1,
    "engine.retries": 0,
    "engine.max_errors": 1,
}
_SECONDS = ("engine.batch_wait", "engine.step_timeout")
_OPTIONAL = ("protocol.num_chains", "protocol.execute", "engine.max_errors")
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
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    free = [f"++{o}" if o.startswith(_FREE_FORM) else o for o in overrides]
    with initialize_config_module("calvin_eval.conf", version_base="1.3"):
        try:
            composed = compose("config", overrides=free)
            raw: Any = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise _usage_error(error, compose("config")) from error
    for key, value in (settings or {}).items():
        section, _, name = key.rpartition(".")
        (raw[section] if section else raw)[name] = value
    _reject_unknown(raw)
    return _checked(raw)


def compose_configs(
    overrides: Sequence[str], settings: Mapping[str, Any], ckpts: Sequence[str]
) -> list[EvalConfig]:
    """One configuration per checkpoint.

    Args:
        overrides: see `compose_config`.
        settings: see `compose_config`.
        ckpts: as given by `--ckpt`; one that is no path but matches files stands for them.
            With more than one, `out` is the folder of their run folders.
    """
    named = [name for ckpt in ckpts for name in _expand(ckpt)]
    if len(named) <= 1:
        return [compose_config(overrides, {**settings, **({"ckpt": named[0]} if named else {})})]
    config = compose_config(overrides, {**settings, "ckpt": named[0]})
    folder = config.out or f"runs/{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    names = _distinct([policy_name(name) for name in named])
    return [
        replace(config, ckpt=ckpt, out=f"{folder}/{name}")
        for ckpt, name in zip(named, names, strict=True)
    ]


def _expand(ckpt: str) -> list[str]:
    if Path(ckpt).exists() or not any(c in ckpt for c in "*?["):
        return [ckpt]
    return sorted(glob(ckpt)) or [ckpt]


def _distinct(names: list[str]) -> list[str]:
    return [n if names.count(n) == 1 else f"{i:02d}-{n}" for i, n in enumerate(names, 1)]


def _usage_error(error: Exception, defaults: Any) -> UsageError:
    from omegaconf import OmegaConf

    message = str(error).split("\n", maxsplit=1)[0]
    if group := re.search(r"Could not find '(\w+)/([^']*)'", message):
        return UnknownNameError(group[1], group[2], _group_names(group[1]))
    unknown = re.search(r"Could not override '([^']+)'", message)
    if not unknown:
        return UsageError(
            f"{message.rstrip('.')}. Overrides have the form key=value or group=name."
        )
    known = _keys(OmegaConf.to_container(defaults))
    return _unknown_key(unknown[1].lstrip("+"), known)


def _group_names(group: str) -> list[str]:
    from importlib.resources import files

    folder = files("calvin_eval.conf") / group
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def _unknown_key(key: str, known: Sequence[str]) -> UsageError:
    leaf = {name.rsplit(".", maxsplit=1)[-1]: name for name in known}
    near = get_close_matches(key, known, n=1) or [
        leaf[name] for name in get_close_matches(key.rsplit(".", maxsplit=1)[-1], leaf, n=1)
    ]
    hint = f" Did you mean {near[0]}?" if near else ""
    return UsageError(f"unknown configuration key {key!r}.{hint} --print-config lists all keys.")


def _keys(tree: Any, prefix: str = "") -> list[str]:
    keys = []
    for key, value in tree.items():
        keys.append(f"{prefix}{key}")
        if isinstance(value, dict):
            keys += _keys(value, f"{prefix}{key}.")
    return keys


def _reject_unknown(raw: Mapping[str, Any]) -> None:
    """A key appended with Hydra's + syntax must be one that we read."""
    for path, kind in (("", EvalConfig), ("sim.", SimConfig), ("protocol.", ProtocolConfig),
                       ("engine.", EngineConfig), ("policy.", PolicyConfig),
                       ("video.", VideoConfig)):  # fmt: skip
        section = raw[path.rstrip(".")] if path else raw
        known = [f"{path}{f.name}" for f in fields(kind)]
        for key in section:
            if f"{path}{key}" not in known:
                raise _unknown_key(f"{path}{key}", known)


def _checked(raw: dict[str, Any]) -> EvalConfig:
    for path, choices in _CHOICES.items():
        section, key = path.split(".")
        if raw[section][key] not in choices:
            raise UnknownNameError(path, raw[section][key], choices)
    for path, low in _WHOLE_NUMBERS.items():
        _number(path, _get(raw, path), low, whole=True)
    for path in _SECONDS:
        _number(path, _get(raw, path), 0, whole=False)
    if not raw["ckpt"]:
        raise UsageError(
            "expected a policy: --ckpt PATH, builtin:NAME or module:Class. "
            "Try `calvin-eval --ckpt builtin:random --split D --num-chains 5`."
        )
    if not raw["sim"]["deterministic"] and raw["sim"]["backend"] == "calvin_eval":
        raise UsageError(
            "sim.deterministic=false needs sim.backend=calvin_env: our own world has no other way"
        )
    if raw["resume"] and raw["out"] is None:
        raise UsageError("expected --out FOLDER with --resume: the run that is to be completed")
    protocol, engine = raw["protocol"], raw["engine"]
    if protocol["select"] is not None:
        protocol["select"] = _selection_text(protocol["select"])
    if engine["workers"] != "auto":
        _number("engine.workers", engine["workers"], 0, whole=True)
    engine["devices"] = _devices(engine["devices"])
    _check_cluster(engine)
    return EvalConfig(
        ckpt=str(raw["ckpt"]),
        split=_split(str(raw["split"])),
        out=None if raw["out"] is None else str(raw["out"]),
        overwrite=bool(raw["overwrite"]),
        resume=bool(raw["resume"]),
        shard=_shard(raw["shard"]),
        seed=raw["seed"],
        sim=SimConfig(**raw["sim"]),
        protocol=ProtocolConfig(**protocol),
        engine=EngineConfig(**engine),
        policy=PolicyConfig(**raw["policy"]),
        video=VideoConfig(**{**raw["video"], "cameras": tuple(raw["video"]["cameras"])}),
        **{key: _optional_text(raw[key]) for key in ("gate", "baseline", "expect")},
    )


def _optional_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _get(raw: Mapping[str, Any], path: str) -> Any:
    section, _, key = path.rpartition(".")
    return raw[section][key] if section else raw[key]


def _number(name: str, value: Any, low: int, *, whole: bool) -> None:
    if value is None and name in _OPTIONAL:
        return
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value < low:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"expected {name} to be {kind} from {low} up; found {value!r}")


def _devices(value: Any) -> tuple[str, ...] | None:
    """`cpu`, or `cuda:0,cuda:1`; Hydra reads the latter as text, and a list as a list."""
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else [str(name) for name in value]
    for name in names:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise UsageError(f"expected devices such as cpu or cuda:0,cuda:1; found {name!r}")
    return tuple(names)


def _check_cluster(engine: Mapping[str, Any]) -> None:
    if engine["address"] is not None and engine["name"] != "ray":
        raise UsageError(
            f"engine.address={engine['address']} is the address of a Ray cluster; expected "
            "engine=ray beside it"
        )
    if engine["name"] == "ray" and engine["workers"] == 0:
        raise UsageError(
            "expected 1 worker or more with engine=ray, found 0: to run everything in this "
            "process, choose engine=local"
        )


def _shard(value: Any) -> str | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", str(value))
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"expected shard to be i/n with 1 <= i <= n; found {value!r}")
    return str(value)


def _selection_text(value: Any) -> str:
    """`3,17,40-49` as text; Hydra reads a bare 3,17 as a sweep and a bare 3 as a number."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def _split(name: str) -> str:
    """Papers write ABC->D, ABC_D and ABC-D for one thing."""
    plain = re.sub(r"(->|→|-)", "_", name.strip()).upper().removeprefix("TASK_")
    if plain not in SPLITS:
        raise UnknownNameError("split", name, SPLITS)
    return plain
