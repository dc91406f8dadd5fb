"""Checks of what stages are configured with and of what they are given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError, UnknownNameError, UsageError
from calvin_eval.wrappers.arrays import to_numpy

Numbers: TypeAlias = "float | Sequence[float]"
"""One number for all columns, or one for each."""


def choice(option: str, value: object, known: Iterable[str]) -> None:
    """Raise an UnknownNameError unless the value is one of the known ones.

    Args:
        option: how messages call it, for example `method of ensemble`.
        value: what was configured.
        known: what it may be.
    """
    names = tuple(known)
    if value not in names:
        raise UnknownNameError(option, value, names)


def flag(option: str, value: object) -> None:
    """Raise a UsageError unless the value is true or false."""
    if not isinstance(value, bool):
        raise UsageError(f"{option}: expected true or false, found {value!r}.")


def whole(option: str, value: object, *, least: int) -> None:
    """Raise a UsageError unless the value is a whole number from `least` up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{option}: expected a whole number from {least} up, found {value!r}.")


def number(option: str, value: object, *, above: float | None = None) -> None:
    """Raise a UsageError unless the value is a finite number, above a bound if there is one."""
    if not _is_number(value) or (above is not None and value <= above):  # type: ignore[operator]
        bound = "" if above is None else f" above {above:g}"
        raise UsageError(f"{option}: expected a number{bound}, found {value!r}.")


def numbers(option: str, value: Any) -> float | tuple[float, ...]:
    """The value if it is a finite number, or a sequence of such as a tuple.

    Raises:
        UsageError: it is neither.
    """
    if _is_number(value):
        return float(value)
    if isinstance(value, np.ndarray):
        value = value.tolist()
    sequence = isinstance(value, Sequence) and not isinstance(value, str)
    if not sequence or not value or not all(map(_is_number, value)):
        raise UsageError(f"{option}: expected a number or a list of numbers, found {value!r}.")
    return tuple(map(float, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def chunk_array(stage: str, actions: Any, *, columns: Sequence[int] = ()) -> NDArray[Any]:
    """The chunk as an array (k, d) of its own floating type; integers become float64.

    Args:
        stage: how messages call the stage.
        actions: what the stage was given.
        columns: widths d that the stage can work on; any width if empty.

    Raises:
        PolicyError: it is no such array.
    """
    wanted = f"(k, {' or '.join(map(str, columns))})" if columns else "(k, d)"
    try:
        array = to_numpy(actions)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(_not_a_chunk(stage, wanted, f"{type(actions).__name__}")) from error
    if array.dtype.kind in "iub":
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        raise PolicyError(_not_a_chunk(stage, wanted, f"{type(actions).__name__}"))
    if array.ndim != 2 or not array.size or (columns and array.shape[1] not in columns):
        raise PolicyError(_not_a_chunk(stage, wanted, f"shape {array.shape}"))
    return array


def _not_a_chunk(stage: str, wanted: str, found: str) -> str:
    return (
        f"{stage}: expected a chunk of actions as an array {wanted}, found {found}. Check the "
        "stages before it, and what the policy returns."
    )
