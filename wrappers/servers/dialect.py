"""Our own part of openpi's protocol: sessions, resets and CALVIN's observations.

openpi's protocol knows no sessions and no reset. A server of ours says in its metadata, under
`calvin_eval`, that it understands the keys below, and our client then sends them. Clients that
know nothing of them send a flat map of observations and get a map with `actions`, as with openpi.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Chunk, Request, Requirements

MARK = "calvin_eval"
VERSION = 2

PROMPT = "prompt"
CLIENT = "calvin_eval/client"
SERIAL = "calvin_eval/serial"
SESSION = "calvin_eval/session"
RESET = "calvin_eval/reset"
END = "calvin_eval/end"
"""True in a message with `CLIENT` and `SESSION` alone: the session is over. The reply is empty."""
POSITION = "calvin_eval/position"
STEP = "calvin_eval/step"
FRAMES = "calvin_eval/frames"
POSES = "calvin_eval/actions"
"""Actions that are not relative 7-vectors: a list of arrays, [position, orientation, gripper]
lists, or maps of `type` and `action`."""

_STATES = ("robot_obs", "scene_obs")
_IMAGES = {"rgb": "rgb_obs", "depth": "depth_obs"}


def metadata(description: str, requirements: Requirements) -> dict[str, Any]:
    """What a server of ours says first."""
    return {
        MARK: {
            "version": VERSION,
            "policy": description,
            "requirements": requirements.observed(),
            "max_sessions": requirements.max_sessions,
        }
    }


def flatten(obs: Mapping[str, Any]) -> dict[str, Any]:
    """CALVIN's observation as one map: `rgb_static`, `depth_static`, `robot_obs` and so on."""
    flat = {key: obs[key] for key in _STATES if key in obs}
    for group in _IMAGES.values():
        flat.update(obs.get(group, {}))
    return flat


def unflatten(flat: Mapping[str, Any], requirements: Requirements) -> dict[str, Any]:
    """The inverse, for what a policy requires.

    Raises:
        PolicyError: something that it requires is missing, or has another form.
    """
    obs: dict[str, Any] = {"robot_obs": _array(flat, "robot_obs", 1)}
    if "scene_obs" in flat:
        obs["scene_obs"] = _array(flat, "scene_obs", 1)
    obs["rgb_obs"] = {f"rgb_{c}": _array(flat, f"rgb_{c}", 3) for c in requirements.rgb}
    obs["depth_obs"] = {f"depth_{c}": _array(flat, f"depth_{c}", 2) for c in requirements.depth}
    return obs


def request_message(request: Request, *, client: str, serial: int, reset: bool) -> dict[str, Any]:
    """A request as our client sends it."""
    message = {
        PROMPT: request.instruction,
        CLIENT: client,
        SERIAL: serial,
        SESSION: request.session,
        RESET: reset,
        POSITION: request.position,
        STEP: request.step,
        **flatten(request.obs),
    }
    if request.frames:
        message[FRAMES] = [flatten(frame) for frame in request.frames]
    return message


def end_message(session: int, *, client: str) -> dict[str, Any]:
    """The end of a session as our client sends it."""
    return {END: True, CLIENT: client, SESSION: session}


def pack_chunk(chunk: Chunk) -> dict[str, Any]:
    """The part of a reply that holds actions."""
    if isinstance(chunk, np.ndarray):
        return {"actions": chunk}
    if all(isinstance(action, np.ndarray) for action in chunk):
        return {"actions": np.stack(chunk)}  # type: ignore[arg-type]
    return {POSES: [_packed(action) for action in chunk]}


def unpack_chunk(reply: Mapping[str, Any]) -> Sequence[Any]:
    """Actions that are not relative 7-vectors, as `pack_chunk` packed them.

    Raises:
        PolicyError: they are not of that form.
    """
    actions = reply[POSES]
    if not isinstance(actions, list) or not actions:
        raise PolicyError(f"expected a list of actions, found {str(actions)[:200]}")
    # msgpack knows no tuples; the simulator checks what is inside.
    return [tuple(a) if isinstance(a, list) and len(a) == 3 else a for a in actions]


def _packed(action: Any) -> Any:
    if isinstance(action, Mapping):
        value = action["action"]
        return {**action, "action": list(value) if isinstance(value, tuple) else value}
    return list(action) if isinstance(action, tuple) else action


def _array(flat: Mapping[str, Any], key: str, dimensions: int) -> Any:
    value = flat.get(key)
    if not isinstance(value, np.ndarray) or value.ndim != dimensions:
        found = "nothing" if value is None else f"{type(value).__name__} {np.shape(value)}"
        raise PolicyError(
            f"expected {key!r} to be an array of {dimensions} dimensions, found {found}; the keys "
            f"are {', '.join(sorted(map(str, flat)))}"
        )
    return value
