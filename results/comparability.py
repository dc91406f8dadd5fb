"""Under which rules a run was made: what two runs must share before they are held side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from calvin_eval.protocol import BENCHMARK
from calvin_eval.results.header import Header
from calvin_eval.results.official import shortened

RENDERER = "renderer.backend"
CHAINS = "chains.sha256"
SHIFT = "protocol.shift"

# Which chains, and which sentences, is known by their hashes; a file's name says nothing, and how
# many of the list were run shows in the number of common chains.
_TOLD_BY_HASHES = (
    "chains", "num_chains", "select", "instructions", "instruction_lines", "instruction_draw",
)  # fmt: skip

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


def protocol_facts(header: Header) -> dict[str, Any]:
    """Assets, revision, scene, renderer and rules of a run, flat, as JSON values."""
    keys = header.protocol.to_config()
    rules = {key: value for key, value in keys["protocol"].items() if key not in _TOLD_BY_HASHES}
    real_time, shift = rules.pop("realtime"), rules.pop("shift")
    facts = {
        "assets.fingerprint": header.assets.fingerprint,
        "scene": header.scene,
        "revision": header.revision,
        CHAINS: header.chains.sha256,
        "instructions.sha256": header.instructions.sha256,
        RENDERER: drawn_by(header),
        "sim.backend": header.config.sim.backend,
        "sim.deterministic": header.protocol.deterministic,
        **{f"protocol.{key}": rules[key] for key in sorted(rules)},
    }
    if header.protocol.realtime.latency is not None:
        facts |= {f"protocol.realtime.{key}": real_time[key] for key in sorted(real_time)}
    if shift is not None:
        facts[SHIFT] = shift
    return facts


def drawn_by(header: Header) -> str:
    """Who drew, and with which options if they change the image: `fast, depth_bits=24`."""
    options = header.renderer.options or {}
    changed = [f"{key}={options[key]}" for key in options if options[key] != DRAWING.get(key)]
    return ", ".join([header.renderer.backend, *changed])


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


def driver_differences(one: Header, other: Header) -> tuple[Difference, ...]:
    """In what the GL drivers of two headers differ, for a remark.

    Another driver moves single pixels at edges, and so does `fast` instead of `egl`; any other
    backend of another name draws another image.
    """
    a, b = one.renderer, other.renderer
    if "none" in (a.backend, b.backend):
        return ()
    found = [Difference(f"renderer.{key}", getattr(a, key), getattr(b, key)) for key in _DRIVER]
    return tuple(difference for difference in found if difference.one != difference.other)


def policy_sha256(header: Header) -> str:
    """A hash of what identifies the policy: file hash, options, seed, but no paths or versions."""
    policy = header.document["policy"]
    identity = {key: value for key, value in policy.items() if key not in _NOT_THE_POLICY}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def policy_line(header: Header) -> str:
    """One line about the policy, without the folder that it lay in."""
    ckpt, line = header.policy.ckpt, header.policy.description
    return line.replace(ckpt, ckpt.rsplit("/", 1)[-1]) if "/" in ckpt else line


def _brief(value: Any) -> str:
    """A hash by its first digits, anything else as JSON."""
    if isinstance(value, str):
        return shortened(value)
    return "nothing" if value is None else json.dumps(value)
