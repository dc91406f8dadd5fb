"""Adapter for models written to CALVIN's own interface: `reset()` and `step(obs, goal)`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError
from calvin_eval.wrappers.base_model import CalvinBaseModel
from calvin_eval.wrappers.interface import SECTION, Interface, ModelCalls
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Executed, Request, Requirements
from calvin_eval.wrappers.returned import to_chunk
from calvin_eval.wrappers.stages.past_actions import KEYS, executed_row, stacked

UPSTREAM = Requirements(rgb=("static", "gripper"), depth=("static", "gripper"), max_sessions=1)
"""What CALVIN's own evaluation gives to a model whenever it calls `step`."""


_TEXT_AS_DICT = re.compile("string indices must be integers|'str' object has no attribute")
"""What Python says of code that takes text for a dict."""


class CustomModelPolicy(BasePolicy):
    """Runs one model with CALVIN's custom-model interface as a policy.

    The model's `reset()` is called before every subtask, and `step(obs, goal)` with CALVIN's
    observation and the instruction whenever an action is due; `ModelCalls` says what else they may
    take, and `to_chunk` what `step` may return. The interface knows of no
    sessions, so one model serves one chain at a time (`Requirements.max_sessions`); nor of their
    end, so the model keeps what it remembers of its last chain until its next `reset()`.

    The model may narrow what is rendered by an attribute `requirements`: a `Requirements` or a
    mapping of its fields. With `actions` in it, `obs` also holds `actions` (k, d), what the world
    executed since the reset, oldest first, and `raw_actions`, what the model itself returned;
    `actions_mask` and `raw_actions_mask` (k,) say which rows there are.

    Args:
        factory: makes the model; called once.
        name: how messages call the model, for example `my_policy.py:Reach`.
        interface: how it is called, as far as its methods do not say.

    Attributes:
        model: the model.
        calls: calls it.
    """

    def __init__(
        self, factory: Callable[[], Any], name: str, interface: Interface | None = None
    ) -> None:
        self.name = name
        self.model = factory()
        missing = [m for m in ("reset", "step") if not _has(self.model, m)]
        if missing:
            raise CheckpointError(
                f"{name}: expected an object with reset() and step(obs, goal), found "
                f"{type(self.model).__name__} without {' and '.join(missing)}."
            )
        self.interface = interface or Interface()
        self.calls = ModelCalls(self.model, name, self.interface)
        wanted = getattr(self.model, "requirements", None)
        needs = UPSTREAM if wanted is None else read_requirements(wanted, name)
        self.requirements = replace(needs, max_sessions=1)
        for asked in ("privileged", "every_step"):
            if getattr(self.requirements, asked):
                raise CheckpointError(
                    f"{name}: requirements.{asked} needs act(requests): step(obs, goal) has no "
                    "place for the simulator's info or for earlier frames. See docs/policies.md."
                )
        self._session: int | None = None

    def reset(self, session: int, instruction: str) -> None:
        """Start a subtask: the model forgets whatever it served before."""
        self._session = session
        self.calls.reset(instruction)

    def end(self, session: int) -> None:
        """Refuse further requests of the session until it is reset."""
        if session == self._session:
            self._session = None

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        """Step the model once, for exactly one request.

        Raises:
            PolicyError: several requests came at once, or a session that was not the last one
                to be reset, or the model returned something that is not an action.
        """
        if len(requests) != 1:
            raise PolicyError(
                f"{self.name}: step(obs, goal) serves one chain at a time, but {len(requests)} "
                "asked at once: give every worker its own model, batch size one."
            )
        request = requests[0]
        if request.session != self._session:
            raise PolicyError(self._interleaved(request.session))
        obs = {k: dict(v) if isinstance(v, Mapping) else v for k, v in request.obs.items()}
        if self.requirements.actions:
            obs = {**_past(request.executed), **obs}  # a stage `history` may have made windows
        output = self._step(obs, request)
        return [to_chunk(output, self.name, self.interface.action)]

    def _step(self, obs: Mapping[str, Any], request: Request) -> object:
        try:
            return self.calls.step(obs, request.instruction, request.step)
        except (TypeError, AttributeError) as error:
            if self.interface.goal != "text" or not _TEXT_AS_DICT.search(str(error)):
                raise
            raise PolicyError(
                f"{self.name}: {type(error).__name__}: {error}. The goal is the instruction as "
                f"text; if the model reads goal['lang'], set {SECTION}.goal=dict."
            ) from error

    def _interleaved(self, session: int) -> str:
        if self._session is None:
            return f"{self.name}: chain {session} asked for an action before its reset."
        return (
            f"{self.name}: chain {session} asked for an action, but the model was last reset for "
            f"chain {self._session} and keeps the history of one chain only: finish a chain "
            "before the next one starts, or give every worker its own model."
        )


def _has(model: object, method: str) -> bool:
    """Whether a model has a method of its own, not that which CALVIN's base class declares."""
    found = getattr(model, method, None)
    inherited = getattr(CalvinBaseModel, method)
    return callable(found) and getattr(found, "__func__", None) is not inherited


def read_requirements(value: object, name: str) -> Requirements:
    """Requirements from a `Requirements`, or from a mapping of its fields but `max_sessions`.

    Raises:
        CheckpointError: a value has the wrong type.
        UnknownNameError: a key is not a field of `Requirements`.
    """
    if isinstance(value, Requirements):
        return value
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{name}: expected requirements to be a Requirements or a mapping such as "
            f"{{'rgb': ['static']}}, found {type(value).__name__}."
        )
    known = [field.name for field in fields(Requirements) if field.name != "max_sessions"]
    for key, entry in value.items():
        if key not in known:
            raise UnknownNameError(f"requirement of {name}", key, known)
        if key in ("rgb", "depth"):
            listed = isinstance(entry, (list, tuple)) and all(isinstance(c, str) for c in entry)
            if not listed:
                raise CheckpointError(
                    f"{name}: expected requirements[{key!r}] to list cameras such as "
                    f"['static', 'gripper'], found {entry!r}."
                )
        elif key == "sizes":
            _check_sizes(entry, name)
        elif key != "actions" and not isinstance(entry, bool):
            raise CheckpointError(
                f"{name}: expected requirements[{key!r}] to be true or false, found {entry!r}."
            )
    read = {key: tuple(value[key]) for key in ("rgb", "depth") if key in value}
    sizes = {camera: tuple(size) for camera, size in value.get("sizes", {}).items()}
    return Requirements(**{**value, **read, "sizes": sizes})


def _check_sizes(sizes: object, name: str) -> None:
    fine = isinstance(sizes, Mapping) and all(
        isinstance(size, (list, tuple))
        and len(size) == 2
        and all(isinstance(side, int) and side > 0 for side in size)
        for size in sizes.values()
    )
    if not fine:
        raise CheckpointError(
            f"{name}: expected requirements['sizes'] to give cameras a width and a height such as "
            f"{{'static': [224, 224]}}, found {sizes!r}."
        )


def _past(executed: Sequence[Executed]) -> dict[str, Any]:
    """Executed actions, oldest first, as `step(obs, goal)` finds them in `obs`."""
    found: dict[str, Any] = {}
    for key in KEYS:
        rows = [executed_row(done, key) for done in executed]
        found[key], found[f"{key}_mask"] = stacked(rows, 7, key)
    return found
