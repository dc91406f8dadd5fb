"""How a model with CALVIN's own interface is called: read from its methods, and from settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError

SECTION = "policy.interface"
"""The section of the configuration that an `Interface` is read from."""

GOALS = ("text", "dict")
ARGUMENTS = ("attributes", "dict", "omegaconf")

_STEPS = {
    "step", "steps", "timestep", "time_step", "t", "ts", "i", "step_idx", "step_index", "step_id",
    "step_num", "step_number", "step_count", "current_step", "cur_step", "curr_step", "env_step",
}  # fmt: skip
"""Names of a third parameter of `step` that is the number of the step."""

_TEXTS = (
    "goal", "instruction", "lang", "text", "task", "prompt", "sentence", "description",
    "annotation",
)  # fmt: skip
"""What the name of a parameter of `reset` has in it that is the instruction."""

_GUIDE = "See docs/policies.md."


@dataclass(frozen=True, kw_only=True)
class Interface:
    """How a model with `reset()` and `step(obs, goal)` is used, where that has to be said.

    Attributes:
        action: what of the results of `step` is the action: a key of a dict, an attribute of an
            object, or an index of a tuple, or several with dots between them. If None, the one that
            is named `action`, `action_pred` or `actions`, or the whole if it is no dict of results.
        goal: what `step` is given as its goal: "text", or "dict" for `{"lang": text}`.
        arguments: what tables among the constructor's arguments are: dicts whose entries are
            "attributes" as well, plain ones ("dict"), or those of "omegaconf".
    """

    action: str | int | None = None
    goal: str = "text"
    arguments: str = "attributes"


def read_interface(values: Mapping[str, Any]) -> Interface:
    """The section `policy.interface`.

    Raises:
        UnknownNameError: a key or a value that does not exist.
        UsageError: a value of another type.
    """
    known = [field.name for field in fields(Interface)]
    for key in values:
        if key not in known:
            raise UnknownNameError(f"key of {SECTION}", key, known)
    found = Interface(**values)
    for key, allowed in (("goal", GOALS), ("arguments", ARGUMENTS)):
        if getattr(found, key) not in allowed:
            raise UnknownNameError(f"{SECTION}.{key}", getattr(found, key), allowed)
    if isinstance(found.action, bool) or not isinstance(found.action, str | int | None):
        raise UsageError(
            f"expected {SECTION}.action to be a key, an index or null, found {found.action!r}"
        )
    return found


class ModelCalls:
    """Calls the methods of a model with CALVIN's interface as their signatures want it.

    `reset` may take the instruction, and `step` the number of the step in its subtask, from 0.

    Args:
        model: has `reset` and `step`.
        name: how messages call it.
        interface: what the signatures do not say.

    Attributes:
        description: how the model is called, for people.

    Raises:
        CheckpointError: a method needs what calvin-eval does not have to give.
    """

    def __init__(self, model: Any, name: str, interface: Interface) -> None:
        self._model, self._name = model, name
        self._goal = interface.goal
        self._swapped = False
        self._tells, reset = self._read_reset()
        self._step, step = self._read_step()
        goal = ", the goal being a dict with lang" if self._goal == "dict" else ""
        third = ", the last being the number of the step in its subtask" if self._step else ""
        self.description = f"{reset} and {step}{third}{goal}"

    def reset(self, instruction: str) -> None:
        """Reset the model, with the instruction if it asks for it."""
        self._model.reset(**({self._tells: instruction} if self._tells else {}))

    def step(self, obs: Mapping[str, Any], instruction: str, number: int) -> object:
        """What the model returns for an observation."""
        goal = {"lang": instruction} if self._goal == "dict" else instruction
        both = (goal, obs) if self._swapped else (obs, goal)
        if self._step is None:
            return self._model.step(*both)
        if self._step.kind is inspect.Parameter.KEYWORD_ONLY:
            return self._model.step(*both, **{self._step.name: number})
        return self._model.step(*both, number)

    def _read_reset(self) -> tuple[str | None, str]:
        """The parameter of `reset` that is the instruction, and the call in words."""
        needed = [p for p in _parameters(self._model.reset) or () if _is_needed(p)]
        if not needed:
            return None, "reset()"
        (first, *others) = needed
        by_name = first.kind is not first.POSITIONAL_ONLY
        if others or not by_name or not any(text in first.name.lower() for text in _TEXTS):
            raise self._refused("reset", needed, "nothing, or the instruction")
        return first.name, f"reset({first.name})"

    def _read_step(self) -> tuple[inspect.Parameter | None, str]:
        """The parameter of `step` that is the step's number, and the call in words."""
        parameters = _parameters(self._model.step)
        if parameters is None:
            return None, "step(obs, goal)"
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        names = [p.name for p in places[:2]]
        if len(names) < 2:
            if not any(p.kind is p.VAR_POSITIONAL for p in parameters):
                raise self._refused("step", parameters, "the observation and the goal")
            names = ["obs", "goal"]
        self._swapped = [_is_text(name) for name in names] == [True, False] and "obs" in names[1]
        others = [*places[2:], *(p for p in parameters if p.kind is p.KEYWORD_ONLY)]
        needed = [p for p in others if _is_needed(p)]
        numbers = [p for p in needed if _is_number(p, needed=True)]
        if len(needed) > len(numbers) or len(numbers) > 1:
            raise self._refused(
                "step", [*places[:2], *needed],
                "the observation, the goal and the number of the step in its subtask",
            )  # fmt: skip
        may = [p for p in others[:1] if _is_number(p, needed=False)]
        third = next(iter([*numbers, *may]), None)
        shown = [*names, *([third.name] if third else [])]
        return third, f"step({', '.join(shown)})"

    def _refused(self, method: str, found: list[inspect.Parameter], given: str) -> CheckpointError:
        names = ", ".join(p.name for p in found)
        return CheckpointError(
            f"{self._name}: {method}({names}) cannot be called: calvin-eval gives {given}. Give "
            f"the other parameters defaults, or wrap the model in a class with reset() and "
            f"step(obs, goal). {_GUIDE}"
        )


def _parameters(method: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """The parameters of a method; None if it does not say, as some that are written in C."""
    try:
        return list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return None


def _is_text(name: str) -> bool:
    """Whether a parameter is the instruction, by its name, and not an observation."""
    return "obs" not in name.lower() and any(text in name.lower() for text in _TEXTS)


def _is_needed(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and not variable


def _is_number(parameter: inspect.Parameter, *, needed: bool) -> bool:
    """Whether a further parameter of `step` is the step's number.

    One that has a default may be about anything, such as the number of denoising steps.
    """
    name = parameter.name.lower()
    if not needed and parameter.kind is parameter.KEYWORD_ONLY:
        return name in _STEPS - {"steps", "i"}
    return name in _STEPS - ({"steps"} if not needed else set()) or (needed and "step" in name)
