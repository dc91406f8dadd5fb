"""Under which rules a run was made: what two runs must share before they are held side by side."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.protocol import BENCHMARK, Protocol

RENDERER = "renderer.backend"
CHAINS = "chains.sha256"

# Which chains, and which sentences, is told by their hashes; a file's name says nothing, and how
# many of the list were run shows in the number of common chains.
_TOLD_BY_HASHES = ("chains", "num_chains", "select", "instructions")

# Of a policy's facts: its name on this machine, and what has no part in what it computes.
_NOT_THE_POLICY = ("description", "ckpt", "torch", "trusted", "requirements")

_DRIVER = ("backend", "vendor", "renderer", "version")

DRAWING = {
    "depth_bits": 16, "colour_bits": 10, "shadow_detail": 0, "first_frames_unshadowed": False,
}  # fmt: skip
"""The drawing options with which our renderers draw EGL's images."""


@dataclass(frozen=True)
class Difference:
    """One entry in which two runs differ."""

    key: str
    one: Any
    other: Any

    def __str__(self) -> str:
        """For a message: `revision: pinned and head`."""
        return f"{self.key}: {_brief(self.one)} and {_brief(self.other)}"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def recorded_protocol(header: Mapping[str, Any]) -> Protocol:
    """The rules that a run was made by; its revision is the one that it is simulated with again.

    Raises:
        RunFolderError: the header lacks a rule, or has a value that is not possible.
    """
    config = _section(header, "config")
    sim = {**_section(config, "sim"), "revision": header.get("revision")}
    try:
        return Protocol.from_config({**config, "sim": sim})
    except UsageError as error:
        raise RunFolderError(
            f"header.json: {error}. Was the run written by another version of calvin-eval? Read "
            "it with that one."
        ) from error


def protocol_facts(header: Mapping[str, Any]) -> dict[str, Any]:
    """Assets, revision, scene, renderer and rules of a run, flat, as JSON values.

    Raises:
        RunFolderError: the header lacks one of these sections.
    """
    config = _section(header, "config")
    sim, protocol = _section(config, "sim"), _section(config, "protocol")
    facts = {
        "assets.fingerprint": _section(header, "assets").get("fingerprint"),
        "scene": header.get("scene"),
        "revision": header.get("revision"),
        CHAINS: _section(header, "chains").get("sha256"),
        "instructions.sha256": _section(header, "instructions").get("sha256"),
        RENDERER: drawn_by(header),
        "sim.backend": sim.get("backend"),
        "sim.deterministic": sim.get("deterministic"),
    }
    rules = {key: protocol[key] for key in sorted(protocol) if key not in _TOLD_BY_HASHES}
    if isinstance(realtime := rules.pop("realtime", None), Mapping):
        rules |= {f"realtime.{key}": realtime[key] for key in sorted(realtime)}
    return {**facts, **{f"protocol.{key}": value for key, value in rules.items()}}


def drawn_by(header: Mapping[str, Any]) -> str:
    """Who drew, and with which options if they change the image: `fast, depth_bits=24`.

    Raises:
        RunFolderError: the header does not say who drew.
    """
    renderer = _section(header, "renderer")
    if "backend" not in renderer:
        raise RunFolderError("expected the header to have renderer.backend; it has not")
    options = renderer.get("options") or {}
    changed = [f"{key}={options[key]}" for key in options if options[key] != DRAWING.get(key)]
    return ", ".join([str(renderer["backend"]), *changed])


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Difference, ...]:
    """All entries in which the facts of two runs differ.

    A policy that needs no images has no renderer, and none can change its result: that is no
    difference to a run with one. Nor is it one who drew EGL's images.
    """
    found = []
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        blind = key == RENDERER and ("none" in (a, b) or {a, b} <= {*BENCHMARK.renderers})
        if a != b and not blind:
            found.append(Difference(key, a, b))
    return tuple(found)


def driver_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Difference, ...]:
    """In what the GL drivers of two headers differ, for a remark.

    Another driver moves single pixels at edges, and so does `fast` instead of `egl`; any other
    backend of another name draws another image.
    """
    a, b = _section(one, "renderer"), _section(other, "renderer")
    if "none" in (a.get("backend"), b.get("backend")):
        return ()
    return tuple(
        Difference(f"renderer.{key}", a.get(key), b.get(key))
        for key in _DRIVER
        if a.get(key) != b.get(key)
    )


def policy_sha256(header: Mapping[str, Any]) -> str:
    """A hash of what identifies the policy: file hash, options, seed, but no paths or versions."""
    policy = _section(header, "policy")
    identity = {key: value for key, value in policy.items() if key not in _NOT_THE_POLICY}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def policy_line(header: Mapping[str, Any]) -> str:
    """One line about the policy, without the folder that it lay in."""
    policy = _section(header, "policy")
    ckpt = str(policy.get("ckpt", ""))
    line = str(policy.get("description", ""))
    return line.replace(ckpt, ckpt.rsplit("/", 1)[-1]) if "/" in ckpt else line


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name)
    if not isinstance(section, Mapping):
        raise RunFolderError(
            f"expected a section {name!r} in the run's header.json, found {section!r}. Was the run "
            "written by another version of calvin-eval? Read it with that one."
        )
    return section


def _brief(value: Any) -> str:
    """A hash by its first digits, anything else as JSON."""
    if isinstance(value, str):
        return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value
    return "nothing" if value is None else json.dumps(value)
