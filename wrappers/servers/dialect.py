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
from calvin_eval.wrappers.policy import Chunk, Executed, Request, Requirements

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
EXECUTED = "calvin_eval/executed"
"""The actions that were executed since the reset, for a policy that requires some, oldest first: a
list of maps of `sent`, `raw` (or nil) and `at`, which is [position, step, row] (or nil)."""
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
    if request.executed:
        message[EXECUTED] = [_packed_executed(done) for done in request.executed]
    return message


def _packed_executed(done: Executed) -> dict[str, Any]:
    at = None if done.decision is None else [*map(int, done.decision), int(done.row)]
    return {"sent": _packed(done.sent), "raw": _packed(done.raw), "at": at}


def read_executed(
    flat: Mapping[str, Any], requirements: Requirements, step: int
) -> tuple[Executed, ...]:
    """The executed actions of a message about a step of a subtask.

    Raises:
        PolicyError: more than the policy requires, none where there must be some, or not of that
            form.
    """
    if requirements.actions and step and EXECUTED not in flat:
        raise PolicyError(
            "this policy reads the actions that were executed, which openpi's protocol has no "
            f"place for: ask it with calvin-eval, or send them as {EXECUTED!r}"
        )
    found = flat.get(EXECUTED, [])
    if not isinstance(found, list) or len(found) > requirements.actions:
        raise PolicyError(
            f"expected at most {requirements.actions} actions in a list under {EXECUTED!r}, found "
            f"{str(found)[:200]}"
        )
    return tuple(map(_unpacked_executed, found))


def _unpacked_executed(found: Any) -> Executed:
    at: Any = found.get("at") if isinstance(found, dict) else ()
    numbers = at is None or (
        isinstance(at, list) and len(at) == 3 and all(type(n) is int and n >= 0 for n in at)
    )
    if not numbers or found.get("sent") is None:
        raise PolicyError(f"expected an executed action in {EXECUTED!r}, found {str(found)[:200]}")
    sent, raw = _pose_or_numbers(found["sent"]), _pose_or_numbers(found.get("raw"))
    if at is None:
        return Executed(sent=sent, raw=raw)
    return Executed(sent=sent, raw=raw, decision=(at[0], at[1]), row=at[2])


def _pose_or_numbers(action: Any) -> Any:
    # msgpack knows no tuples.
    return tuple(action) if isinstance(action, list) and len(action) == 3 else action


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
    return [_pose_or_numbers(action) for action in actions]  # the simulator checks what is inside


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
