"""Dataclasses from JSON that others wrote: read strictly, and described by a JSON schema.

A field of a dataclass may be a number, text, true or false, a `Literal`, a tuple, a mapping from
text, another dataclass, `Any`, or one of these or None; `Annotated` with `checks.Bounds` bounds a
number. A field with a default may be absent; an entry that is no field is passed over, so that a
reader knows what it needs to know and no more.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from calvin_eval.checks import NAMES, Bounds

NOT_JSON = {"json": False}
"""Metadata of a field that is no part of the JSON; it must have a default."""

T = TypeVar("T")

_SCHEMAS = {str: "string", int: "integer", float: "number", bool: "boolean"}
_SHOWN = 60


class MismatchError(Exception):
    """A value that is not what a dataclass says.

    Attributes:
        path: where it stands, as `chains.planned[3]`; empty for the whole document.
        expected: what it should be, in words.
        found: what it is, in words.
    """

    def __init__(self, path: str, expected: str, value: object) -> None:
        found = "nothing" if value is MISSING else repr(value)
        self.path, self.expected = path, expected
        self.found = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}…"
        super().__init__(f"expected {path or 'all of it'} to be {expected}; found {self.found}")


def read(kind: type[T], value: object, path: str = "") -> T:
    """The dataclass `kind` from JSON values.

    Args:
        kind: a dataclass.
        value: as `json.loads` gives it.
        path: where the value stands, for messages.

    Raises:
        MismatchError: the first value that does not fit, in the order of the fields.
    """
    return cast(T, _read_object(kind, value, path))


def _read_object(kind: Any, value: object, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise MismatchError(path, "an object", value)
    values = {}
    for name, hint, required in _entries(kind):
        if name in value or required:
            inner = f"{path}.{name}" if path else name
            values[name] = _read(hint, value.get(name, MISSING), inner)
    return kind(**values)


def _read(kind: Any, value: object, path: str) -> Any:
    if kind is Any and value is not MISSING:
        return value
    if is_dataclass(kind):
        return _read_object(kind, value, path)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _read_bounded(kind, value, path)
    if origin in (Union, UnionType):
        return None if value is None else _read(_but_none(arguments), value, path)
    if origin is tuple:
        return _read_tuple(arguments, value, path)
    if origin is Mapping:
        return _read_mapping(arguments[1], value, path)
    if not _fits(kind, value):
        raise MismatchError(path, _words(kind), value)
    return value


def _read_bounded(kind: Any, value: object, path: str) -> Any:
    least, found = _least(kind), _read(kind.__origin__, value, path)
    if found is not None and least is not None and not found >= least:
        raise MismatchError(path, f"{_words(kind.__origin__)} from {least:g} up", value)
    return found


def _least(kind: Any) -> float | None:
    """The bound of an `Annotated` type; None if it has none."""
    return next((one.least for one in kind.__metadata__ if isinstance(one, Bounds)), None)


def _read_tuple(kinds: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise MismatchError(path, "a list", value)
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise MismatchError(path, f"a list of {len(kinds)}", value)
    pairs = zip(kinds, value, strict=True)
    return tuple(_read(kind, v, f"{path}[{i}]") for i, (kind, v) in enumerate(pairs))


def _read_mapping(kind: Any, value: object, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise MismatchError(path, "an object", value)
    return {key: _read(kind, inner, f"{path}.{key}") for key, inner in value.items()}


def _fits(kind: Any, value: object) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is type(known) and value == known for known in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    return type(value) is kind


def _words(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if origin in (Union, UnionType):
        return _words(_but_none(get_args(kind)))
    return NAMES[kind]


def _but_none(kinds: tuple[Any, ...]) -> Any:
    (kind,) = set(kinds) - {NoneType}
    return kind


def _entries(kind: Any) -> Iterator[tuple[str, Any, bool]]:
    """Name, type, and whether it has no default, of every field that is part of the JSON."""
    hints = get_type_hints(kind, include_extras=True)
    for entry in fields(kind):
        if entry.metadata.get("json", True):
            required = entry.default is MISSING and entry.default_factory is MISSING
            yield entry.name, hints[entry.name], required


def json_schema(kind: Any) -> dict[str, Any]:
    """What `read` takes, as a JSON schema (draft 2020-12); descriptions are the docstrings'."""
    if kind is Any:
        return {}
    if is_dataclass(kind):
        return _object_schema(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        least = _least(kind)
        return {**json_schema(kind.__origin__), **({} if least is None else {"minimum": least})}
    if origin in (Union, UnionType):
        return {"anyOf": [json_schema(one) for one in arguments]}
    if kind is NoneType:
        return {"type": "null"}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": json_schema(arguments[0])}
    if origin is tuple:
        size = {"minItems": len(arguments), "maxItems": len(arguments)}
        return {"type": "array", "prefixItems": [json_schema(a) for a in arguments], **size}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": json_schema(arguments[1])}
    return {"type": _SCHEMAS[kind]}


def _object_schema(kind: Any) -> dict[str, Any]:
    docstring = inspect.cleandoc(str(kind.__doc__))  # up to Python 3.12 it keeps its indentation
    descriptions, entries = _descriptions(docstring), list(_entries(kind))
    return {
        "description": docstring.split("\n", 1)[0],
        "type": "object",
        "properties": {
            name: {"description": descriptions[name], **json_schema(hint)}
            for name, hint, _ in entries
        },
        "required": [name for name, _, required in entries if required],
    }


def _descriptions(docstring: str) -> dict[str, str]:
    """The description of each attribute in the section `Attributes:` of a docstring."""
    descriptions: dict[str, str] = {}
    name = ""
    for line in docstring.partition("Attributes:\n")[2].splitlines():
        indent = len(line) - len(line.lstrip())
        if not line.strip() or indent < 4:
            break
        if indent == 4:
            name, _, text = line.strip().partition(": ")
            descriptions[name] = text
        else:
            descriptions[name] += f" {line.strip()}"
    return descriptions
