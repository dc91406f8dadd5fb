"""Checks of values that come from outside against the types of a dataclass's fields.

Every folder may import this module; it imports nothing of ours but `errors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from calvin_eval.errors import UnknownNameError, UsageError

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
"""What values of a type are called in messages."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a field's `Annotated` type says of a number.

    Attributes:
        least: the lowest that is possible; any if None.
    """

    least: float | None = None


Natural: TypeAlias = Annotated[int, Bounds(least=0)]
"""A whole number from 0 up."""


def choices(kind: type, name: str) -> tuple[Any, ...]:
    """The values that a field of type `Literal` may have."""
    return get_args(get_type_hints(kind)[name])


def check_choice(key: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise UnknownNameError, with the nearest name, unless a value is one of these."""
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise UnknownNameError(key, value, allowed)


def check_value(key: str, value: object, kind: Any, least: float | None = None) -> None:
    """Raise UsageError unless a value has a field's type and is no lower than `least`.

    Args:
        key: the configuration's, for the message.
        value: to be checked.
        kind: `Literal` with names, a class, or one of these or None.
        least: the lowest number that is possible.
    """
    if get_origin(kind) is Literal:
        check_choice(key, value, get_args(kind))
        return
    kinds = set(get_args(kind) or (kind,))
    if value is None and NoneType in kinds:
        return
    (plain,) = kinds - {NoneType}
    fitting = (int, float) if plain is float else (plain,)
    if type(value) not in fitting or (least is not None and not value >= least):  # type: ignore[operator]
        from_up = "" if least is None else f" from {least:g} up"
        raise UsageError(
            f"expected {key} to be {NAMES.get(plain, plain.__name__)}{from_up}; found {value!r}"
        )


def check_fields(kind: type, values: Mapping[str, Any], prefix: str) -> None:
    """Check those of a dataclass's values whose type is one that `check_value` knows.

    Args:
        kind: the dataclass; `Annotated[int, Bounds(least=1)]` bounds a number.
        values: by field name.
        prefix: put before a field's name in a message.

    Raises:
        UsageError: a value does not have its field's type, or is too low.
    """
    for name, hint in get_type_hints(kind, include_extras=True).items():
        bounds = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Bounds)), None)
        if bounds is not None:
            check_value(f"{prefix}{name}", values[name], hint.__origin__, bounds.least)
        elif get_origin(hint) is Literal or hint is bool:
            check_value(f"{prefix}{name}", values[name], hint)
