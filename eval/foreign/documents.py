"""JSON and YAML of strangers: parsed within bounds, into plain values that everything can handle.

What comes out consists of text, whole numbers of 64 bits, finite numbers, true, false, null, lists
and maps with text as keys (in YAML also whole numbers), a hundred levels deep at most. So what
reads it further needs no care for recursion, for numbers that are none, for text that cannot be
written, or for objects.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

MAX_JSON: Final = 256 * 2**20
MAX_YAML: Final = 2**20
"""Bytes; YAML is parsed a thousand times more slowly."""
MAX_DEPTH: Final = 100
MAX_INT: Final = 2**63

_MOST_DIGITS: Final = 20
_SURROGATE: Final = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of pairs, but for those by which Python writes bytes of a path that is no UTF-8."""


class DocumentError(ValueError):
    """A document that is damaged, or that holds more or other things than it may."""


def parse_json(content: str | bytes, *, most: int = MAX_JSON, strict: bool = True) -> Any:
    """The value in a JSON document.

    Args:
        content: the document; bytes are UTF-8.
        most: bytes or characters that it may have.
        strict: refuse NaN and infinity, for which JSON has no word, and a key that is there twice,
            of which Python takes the last; configurations of other programs have both.

    Raises:
        DocumentError: it is damaged, too large or too deep, or has a number, a text or a key that
            it may not have.
    """
    text = _text(content, most)
    try:
        value = json.loads(
            text,
            parse_int=_whole_number,
            parse_constant=_no_number if strict else float,
            object_pairs_hook=_map if strict else dict,
        )
    except RecursionError:
        raise _too_deep() from None
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError(str(error)) from error
    check_plain(value, finite=strict)
    return value


def parse_yaml(content: str | bytes, *, most: int = MAX_YAML) -> Any:
    """The value in a YAML document of plain values, without aliases and tags.

    Args:
        content: the document; bytes are UTF-8.
        most: bytes or characters that it may have.

    Raises:
        DocumentError: as for `parse_json`, or it has an alias, a date, a set or an object.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                name = self.peek_event().anchor  # type: ignore[no-untyped-call]
                raise DocumentError(f"found the alias *{name}: write out what it stands for")
            return super().compose_node(parent, index)

    # A date stays the text that it is written as.
    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    text = _text(content, most)
    try:
        value = yaml.load(text, Loader)
    except RecursionError:
        raise _too_deep() from None
    except DocumentError:
        raise
    except Exception as error:  # the constructors of tags raise anything
        raise DocumentError(" ".join(str(error).split()) or type(error).__name__) from error
    check_plain(value)
    return value


def check_plain(value: Any, *, finite: bool = True) -> None:
    """Make sure that a value is what JSON can hold, within bounds.

    Args:
        value: as a parser gave it; its containers are its own.
        finite: refuse NaN and infinity.

    Raises:
        DocumentError: it is not.
    """
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for found in level:
            if isinstance(found, Mapping):
                for key in found:
                    if not isinstance(key, str | int):  # whole numbers: YAML has them
                        raise DocumentError(f"expected text as key, found {_brief(key)}")
                    _check_leaf(key, finite)
                inner.extend(found.values())
            elif isinstance(found, list):
                inner.extend(found)
            else:
                _check_leaf(found, finite)
        if not inner:
            return
        level = inner
    raise _too_deep()


def _check_leaf(value: Any, finite: bool) -> None:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        if _SURROGATE.search(value):
            raise DocumentError(
                f"expected text, found half a pair of surrogates in {_brief(value)}"
            )
    elif isinstance(value, int):
        if not -MAX_INT <= value < MAX_INT:
            raise DocumentError(f"expected whole numbers of 64 bits, found {_brief(value)}")
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            raise DocumentError(f"expected finite numbers, found {value}")
    else:
        raise DocumentError(f"expected plain values, found a {type(value).__name__}")


def _text(content: str | bytes, most: int) -> str:
    if len(content) > most:
        raise DocumentError(f"expected at most {most} bytes, found {len(content)}")
    if isinstance(content, str):
        return content
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(f"expected UTF-8: {error}") from error


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise DocumentError(f"expected whole numbers of 64 bits, found {digits[:20]}...")
    return int(digits)


def _no_number(name: str) -> NoReturn:
    raise DocumentError(f"expected finite numbers, found {name}")


def _map(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DocumentError(f"expected every key once, found {_brief(twice)} twice")
    return found


def _too_deep() -> DocumentError:
    return DocumentError(f"expected at most {MAX_DEPTH} levels, found more")


def _brief(value: Any) -> str:
    text = ascii(value) if not isinstance(value, int) or abs(value) < MAX_INT else "a longer one"
    return text if len(text) <= 60 else f"{text[:60]}..."
