"""The names under which a served configuration of openpi looks for what CALVIN shows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from calvin_eval.errors import PolicyError, UnknownNameError, UsageError


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Where a served configuration looks for what CALVIN shows; None leaves something out.

    The defaults are those of openpi's LIBERO configurations, which CALVIN fine-tunes follow.

    Attributes:
        static: for the static camera's image.
        gripper: for the gripper camera's image.
        state: for the state; or several keys, each with indices of the state.
        prompt: for the instruction.
        actions: for the actions that were executed; not sent unless a key is given.
    """

    static: str | None = "observation/image"
    gripper: str | None = "observation/wrist_image"
    state: str | Mapping[str, Sequence[int]] | None = "observation/state"
    prompt: str | None = "prompt"
    actions: str | None = None

    @property
    def cameras(self) -> tuple[str, ...]:
        """The cameras that are sent."""
        named = {"static": self.static, "gripper": self.gripper}
        return tuple(camera for camera, key in named.items() if key is not None)

    def named(self) -> dict[str, Any]:
        """The names for the header; `actions`, which came later, only where it is sent."""
        named = asdict(self)
        return {k: v for k, v in named.items() if k != "actions" or v is not None}

    def message(self, instruction: str, obs: Mapping[str, Any]) -> dict[str, Any]:
        """What is sent of an observation.

        Raises:
            PolicyError: no stage has made what a key is for.
        """
        found: dict[str | None, Any] = {
            self.prompt: instruction,
            self.static: obs["rgb_obs"].get("rgb_static"),
            self.gripper: obs["rgb_obs"].get("rgb_gripper"),
            **self._states(obs),
        }
        if self.actions is not None:
            if "actions" not in obs:
                raise PolicyError(
                    f"expected executed actions to send as {self.actions!r}, found none: let the "
                    "stage history stack them (policy.observe.history.keys=[actions])"
                )
            found[self.actions] = obs["actions"]
        return {key: value for key, value in found.items() if key is not None}

    def _states(self, obs: Mapping[str, Any]) -> dict[str | None, Any]:
        """The state, or its parts, by key.

        Raises:
            PolicyError: no stage has made one, or it is too short.
        """
        if self.state is None:
            return {}
        if "state" not in obs:
            raise PolicyError(
                f"expected a state to send as {self.state!r}, found none: let the stage "
                "proprioception make one, or send none (policy.options.keys.state=null)"
            )
        if isinstance(self.state, str):
            return {self.state: obs["state"]}
        state = np.asarray(obs["state"])
        most = max(index for indices in self.state.values() for index in indices)
        if most >= len(state):
            raise PolicyError(
                f"policy.options.keys.state asks for number {most} of the state, which has "
                f"{len(state)}, counted from 0: choose policy.observe.proprioception.fields"
            )
        return {key: state[list(indices)] for key, indices in self.state.items()}


def read_keys(value: object) -> Keys:
    """The option `keys`.

    Raises:
        UsageError: something else was given.
    """
    known = [entry.name for entry in fields(Keys)]
    if not isinstance(value, Mapping):
        raise UsageError(
            f"expected policy.options.keys.NAME=KEY with NAME one of {', '.join(known)}; found "
            f"policy.options.keys={value!r}"
        )
    found: dict[str, Any] = {}
    for name, key in value.items():
        if name not in known:
            raise UnknownNameError("name in policy.options.keys", name, known)
        if name == "state" and isinstance(key, Mapping):
            found[name] = {str(part): _indices(str(part), chosen) for part, chosen in key.items()}
        elif key is not None and (not isinstance(key, str) or not key):
            also = " or a map of keys to indices such as [0,1,2]" if name == "state" else ""
            raise UsageError(
                f"expected policy.options.keys.{name} to be text or null{also}; found {key!r}"
            )
        else:
            found[name] = key
    if found.get("state") == {}:
        raise UsageError("expected keys in policy.options.keys.state, found none; null sends none")
    return Keys(**found)


def _indices(key: str, chosen: object) -> tuple[int, ...]:
    """Indices as a list, as one number, or as `FIRST:BEHIND`."""
    span = re.fullmatch(r"(\d{1,3}):(\d{1,3})", chosen) if isinstance(chosen, str) else None
    indices: Sequence[Any] = ()
    if span is not None:
        indices = range(int(span[1]), int(span[2]))
    elif isinstance(chosen, Sequence) and not isinstance(chosen, str):
        indices = chosen
    elif isinstance(chosen, int):
        indices = (chosen,)
    if not indices or not all(type(index) is int and index >= 0 for index in indices):
        raise UsageError(
            f"expected policy.options.keys.state.{key} to be indices of the state, such as [0,1,2] "
            f"or '0:3'; found {chosen!r}"
        )
    return tuple(indices)
