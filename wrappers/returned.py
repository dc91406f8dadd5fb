"""What a model's `step` returned, as a chunk of environment actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.arrays import is_tensor, to_numpy
from calvin_eval.wrappers.interface import SECTION
from calvin_eval.wrappers.policy import Action, Chunk

NAMED = ("action", "action_pred", "actions")
"""Keys under which models return their action beside other things."""

_SETTING = f"{SECTION}.action"


def to_chunk(output: object, name: str, key: str | int | None = None) -> Chunk:
    """What a model returned, as a chunk of environment actions.

    Arrays, tensors and lists of shape (7,), (1, 7), (1, 1, 7) or (k, 7) become an array (k, 7)
    on the CPU. The floating type is kept, because the simulator scales in the caller's type as
    upstream does (bfloat16, which NumPy lacks, becomes float32); integers become float64.
    Absolute `(position, orientation, gripper)` tuples and dicts of type and action are one action
    and pass unchanged but for tensors inside, and so do lists of them.

    Args:
        output: what the model returned.
        name: how messages call the model.
        key: of the action in it, see `Interface.action`. If None, a dict without `type` is taken
            for a dict of results, one of which has a name in `NAMED`.

    Raises:
        PolicyError: the output is none of these.
    """
    output = _action_in(output, name, key)
    if _is_whole_action(output):
        return [_without_tensors(output)]
    if isinstance(output, list) and output and all(_is_whole_action(entry) for entry in output):
        return [_without_tensors(entry) for entry in output]
    try:
        array = to_numpy(output)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(_not_an_action(name, output, f": {error}")) from error
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        raise PolicyError(_not_an_action(name, output, f" of {array.dtype}"))
    rows = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    rows = rows[None] if rows.ndim == 1 else rows
    if rows.ndim != 2 or rows.shape[1] != 7 or not len(rows):
        raise PolicyError(_not_an_action(name, output, f" of shape {array.shape}"))
    # A copy: a model may write its next action into the same buffer.
    return cast("NDArray[np.floating[Any]]", rows.copy())


def _action_in(output: Any, name: str, key: str | int | None) -> object:
    """The action among the results of a model that returns several."""
    if key is not None:
        return _part(output, name, key)
    if not isinstance(output, Mapping) or "type" in output:
        return output
    known = [name for name in NAMED if name in output]
    if len(known) == 1:
        return _action_in(output[known[0]], name, None)
    inside = [f"{key}.{one}" for key, part in output.items() for one in _named_in(part)]
    raise PolicyError(
        f"{name}: step() returned a dict with the keys {_listed(output)}: expected exactly one of "
        f"{', '.join(NAMED)} among them, or type and action. Say which holds the action by "
        f"{_SETTING}={inside[0] if inside else 'KEY'}."
    )


def _named_in(part: object) -> list[str]:
    """The keys of an action in one of several results."""
    return [name for name in NAMED if name in part] if isinstance(part, Mapping) else []


def _part(output: Any, name: str, key: str | int) -> object:
    """What a setting names: a key, an attribute or an index, or several of them with dots."""
    known = isinstance(output, Mapping) and key in output
    if isinstance(key, str) and "." in key and not known:
        for one in key.split("."):
            output = _part(output, name, int(one) if one.isdecimal() else one)
        return output
    try:
        if isinstance(key, str) and not isinstance(output, Mapping) and hasattr(output, key):
            return getattr(output, key)
        return output[key]
    except (LookupError, TypeError) as error:
        held = f" with the keys {_listed(output)}" if isinstance(output, Mapping) else ""
        raise PolicyError(
            f"{name}: expected {key!r} in what step() returns ({_SETTING}={key}), found "
            f"{type(output).__name__}{held}."
        ) from error


def _listed(output: Mapping[Any, Any]) -> str:
    return ", ".join(map(str, output)) or "(none)"


def _not_an_action(name: str, output: object, found: str) -> str:
    hint = ""
    if isinstance(output, tuple):
        hint = f" If one entry of the tuple is the action, name it: {_SETTING}=0 is the first."
    elif attributes := [one for one in NAMED if hasattr(output, one)]:
        hint = f" If its {attributes[0]} is the action, say so: {_SETTING}={attributes[0]}."
    return (
        f"{name}: expected step() to return an action: numbers of shape (7,) or (k, 7), a tuple "
        f"(position, orientation, gripper), a dict with type and action, or a dict of results with "
        f"one of {', '.join(NAMED)}; found {type(output).__name__}{found}.{hint}"
    )


def _is_whole_action(value: object) -> bool:
    """Whether this is an action in a form other than numbers of shape (7,)."""
    if isinstance(value, tuple) and len(value) == 3:
        return not (hasattr(value[0], "shape") and value[0].shape[-1:] == (7,))  # (action, a, b)
    return isinstance(value, Mapping)


def _without_tensors(action: Any) -> Action:
    """The same action with every tensor in it as an array."""
    if isinstance(action, Mapping):
        if not any(map(is_tensor, action.values())):
            return action
        return {k: to_numpy(v) if is_tensor(v) else v for k, v in action.items()}
    if not any(map(is_tensor, action)):
        return cast("Action", action)
    return cast("Action", tuple(to_numpy(v) if is_tensor(v) else v for v in action))
