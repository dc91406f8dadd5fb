"""`--ckpt ws://HOST:PORT`: from a server's address and its handshake to a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.wrappers.custom import read_requirements
from calvin_eval.wrappers.loaders.base import LoadedPolicy, PolicyLoader, Source, jsonable
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.servers import dialect, gr00t, xvla
from calvin_eval.wrappers.servers.keys import read_keys
from calvin_eval.wrappers.servers.openpi import CalvinPolicy, OpenpiPolicy
from calvin_eval.wrappers.servers.options import LINK_OPTIONS, check_address, read_link
from calvin_eval.wrappers.servers.recognise import PROTOCOLS, Greeting, recognise
from calvin_eval.wrappers.servers.starvla import ARGUMENTS, StarVlaPolicy
from calvin_eval.wrappers.servers.vla_eval import VlaEvalPolicy
from calvin_eval.wrappers.stages import Settings

CAMERAS = ("static", "gripper")

_OPTIONS = {
    "openpi": ("keys",),
    "starvla": ("cameras", "arguments"),
    "calvin_eval": (),
    "vla_eval": ("cameras", "state", "actions", "reset", "ignore"),
}
"""Options of each protocol beside those of every link."""

_ONE = {"execute": {"steps": 1}}  # vla-eval's benchmark observes after every action

_VLA_EVAL_ACTIONS: Mapping[str, Settings] = {
    "delta": {**_ONE, "gripper": {"input": "signed"}, "accumulate": {}, "absolute": {}},
    "absolute": {
        **_ONE,
        "gripper": {"input": "signed", "high": "close"},
        "orientation": {"source": "axis_angle"},
        "absolute": {},
    },
    "calvin": {**_ONE, "gripper": {"input": "signed"}},
}
"""What a vla-eval server's actions mean: metres and radians to be added up, or poses with
axis-angle (vla_eval, benchmarks/calvin); or CALVIN's own relative actions (starVLA)."""

_RESETS = ("subtask", "chain")

_VISIBLE = {
    "send_wrist_image": ("cameras", "policy.options.cameras=[static,gripper]"),
    "send_state": ("state", "policy.options.state=true"),
    "absolute_action": ("actions", "policy.options.actions=absolute"),
}
"""What a vla-eval server may ask for that is the policy's own affair, and how to grant it."""


def load(source: Source) -> LoadedPolicy:
    """Connect to a policy server.

    Raises:
        CheckpointError: nobody is there, somebody who speaks no known protocol, or a server that
            asks for another benchmark protocol.
        UsageError: an option that does not exist or cannot be meant.
    """
    if (other := _other(source.ckpt)) is not None:
        return other.load(source)
    address = check_address(source.ckpt)
    options = source.options
    protocol = options.get("protocol", "auto")
    if protocol not in (*PROTOCOLS, "auto"):
        raise UnknownNameError("policy.options.protocol", protocol, (*PROTOCOLS, "auto"))
    _check_options(source, protocol)
    link = read_link(options)
    greeting = recognise(address, link, protocol)
    _check_options(source, greeting.protocol)
    if greeting.protocol == "openpi":
        keys = read_keys(options.get("keys", {}))
        return _loaded(source, greeting, OpenpiPolicy(address, link, greeting.metadata, keys=keys),
                       keys=keys.named())  # fmt: skip
    if greeting.protocol == "starvla":
        arguments = _arguments(options)
        served = StarVlaPolicy(
            address, link, greeting.metadata, cameras=_cameras(options, CAMERAS),
            arguments=arguments,
        )  # fmt: skip
        return _loaded(source, greeting, served, arguments=arguments)
    if greeting.protocol == "vla_eval":
        cameras = _cameras(options)
        _check_wishes(address, greeting.metadata, options)
        reset = options.get("reset", "subtask")
        if reset not in _RESETS:
            raise UnknownNameError("policy.options.reset", reset, _RESETS)
        policy = VlaEvalPolicy(address, link, greeting.metadata, cameras=cameras, reset=reset)
        return _loaded(source, greeting, policy)
    requirements = read_own(greeting.metadata[dialect.MARK], address)
    own = CalvinPolicy(address, link, greeting.metadata, requirements=requirements)
    return _loaded(source, greeting, own)


def declare(source: Source) -> tuple[Settings, Settings] | None:
    """The stages that `load` would declare; None where only the server's handshake can tell."""
    if (other := _other(source.ckpt)) is not None:
        return other.declare(source)
    protocol = source.options.get("protocol")
    return _stages(protocol, source.options) if protocol in PROTOCOLS else None


def _other(address: str) -> PolicyLoader | None:
    """Who speaks to an address that is no WebSocket's; None for all others."""
    scheme = address.partition("://")[0]
    if scheme in ("http", "https"):
        return xvla
    return gr00t if scheme == "tcp" else None


def _check_options(source: Source, protocol: str) -> None:
    if protocol == "auto":
        known = tuple(name for names in _OPTIONS.values() for name in names)
    else:
        known = _OPTIONS[protocol]
    source.check_options(("protocol", *LINK_OPTIONS, *known))


def _stages(protocol: str, options: Mapping[str, Any]) -> tuple[Settings, Settings]:
    """What stands between CALVIN and a server, unless the user says otherwise."""
    if protocol == "openpi":
        keys = read_keys(options.get("keys", {}))
        observe: dict[str, Mapping[str, Any]] = {"images": {"size": 224, "fit": "pad"}}
        if keys.state is not None:
            observe["proprioception"] = {"fields": "eight"}
        return observe, {"gripper": {"input": "signed"}}
    if protocol == "starvla":
        return {"images": {"size": 224, "fit": "pad"}}, {"gripper": {"input": "signed"}}
    if protocol == "vla_eval":
        observe = {"images": {}}
        if "gripper" in _cameras(options):
            observe["wrist"] = {"use": "images", "cameras": ["gripper"], "size": 200}
        if options.get("state", True):
            observe["proprioception"] = {"fields": "eight"}
        return observe, _VLA_EVAL_ACTIONS[_action_form(options)]
    return {}, {}


def _loaded(source: Source, greeting: Greeting, policy: Any, **facts: Any) -> LoadedPolicy:
    observe, actions = _stages(greeting.protocol, source.options)
    name = {
        "openpi": "openpi", "vla_eval": "vla-eval", "calvin_eval": "calvin-eval",
        "starvla": "starVLA",
    }  # fmt: skip
    seen = ", ".join(f"rgb_{camera}" for camera in policy.requirements.cameras) or "no camera"
    who = greeting.metadata.get("model_server")
    return LoadedPolicy(
        policy=policy,
        kind="remote",
        description=(
            f"policy server {source.ckpt} ({name[greeting.protocol]} protocol"
            f"{f', {who}' if isinstance(who, str) else ''}): {seen}"
        ),
        metadata=source.metadata(
            "remote",
            protocol=greeting.protocol,
            server=_plain(greeting.metadata),
            **facts,
        ),
        observe=observe,
        actions=actions,
    )


def _arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """The option `arguments`, over those that starVLA's own clients send."""
    given = options.get("arguments", {})
    if not isinstance(given, Mapping) or not {"examples"}.isdisjoint(given):
        raise UsageError(
            "expected policy.options.arguments.NAME=VALUE, arguments of starVLA's model such as "
            f"unnorm_key; found policy.options.arguments={given!r}"
        )
    return {**ARGUMENTS, **given}


def _cameras(options: Mapping[str, Any], default: Sequence[str] = ("static",)) -> tuple[str, ...]:
    named = options.get("cameras", list(default))
    if not isinstance(named, Sequence) or isinstance(named, str) or not named:
        raise UsageError(f"expected policy.options.cameras=[static,gripper]; found {named!r}")
    for camera in named:
        if camera not in CAMERAS:
            raise UnknownNameError("camera in policy.options.cameras", camera, CAMERAS)
    return tuple(named)


def _action_form(options: Mapping[str, Any]) -> str:
    form = options.get("actions", "delta")
    if form not in _VLA_EVAL_ACTIONS:
        raise UnknownNameError("policy.options.actions", form, _VLA_EVAL_ACTIONS)
    return str(form)


def _check_wishes(address: str, server: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Hold what a vla-eval server asks for against what the user asked for.

    Raises:
        CheckpointError: it asks for something that the user neither granted nor ignores.
    """
    wishes = server.get("observation_params") or {}
    ignored = options.get("ignore", [])
    if not isinstance(ignored, Sequence) or isinstance(ignored, str):
        raise UsageError(f"expected policy.options.ignore=[NAME,...]; found {ignored!r}")
    granted = {
        "send_wrist_image": "gripper" in _cameras(options),
        "send_state": bool(options.get("state", True)),
        "absolute_action": _action_form(options) == "absolute",
    }
    for name, value in wishes.items():
        if name in ignored or (name in granted and bool(value) <= granted[name]):
            continue
        remedy = (
            f"set {_VISIBLE[name][1]}"
            if name in _VISIBLE
            else "a server must not change the benchmark: if you mean it, set it yourself "
            "(protocol.steps for ep_len)"
        )
        raise CheckpointError(
            f"{address}: the server asks for {name}={value!r}. {remedy[0].upper()}{remedy[1:]}, "
            f"or go on without it by policy.options.ignore=[{','.join([*ignored, name])}]."
        )


def read_own(said: Mapping[str, Any], address: str) -> Requirements:
    """What the policy that a server of ours serves requires.

    Raises:
        CheckpointError: it is of another version, or asks for what cannot be sent.
    """
    if said.get("version") != dialect.VERSION:
        raise CheckpointError(
            f"{address}: expected version {dialect.VERSION} of calvin-eval's protocol, found "
            f"{said.get('version')!r}: use the same version of calvin-eval on both sides."
        )
    requirements = read_requirements(said.get("requirements"), address)
    if requirements.privileged:
        raise CheckpointError(f"{address}: a server cannot be given the simulator's own state.")
    most = said.get("max_sessions")
    if most is not None and (type(most) is not int or most < 1):
        raise CheckpointError(f"{address}: expected max_sessions from 1 up, found {most!r}.")
    return replace(requirements, max_sessions=most)


def _plain(value: Any) -> Any:
    """What a server said, as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return jsonable(value)
