"""JSON and YAML that others wrote: plain values within bounds, or one error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calvin_eval.foreign.documents import DocumentError, parse_json, parse_yaml

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)
ALIASES = "\n".join(
    [f"a0: &a0 [{', '.join('x' * 9)}]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
)


@given(PLAIN)
def test_what_json_can_say_comes_back(value: object) -> None:
    text = json.dumps(value)
    assert parse_json(text) == value
    assert parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "100 levels|Expecting"),
        ("[" * 500 + "]" * 500, "100 levels"),
        ('{"a":' * 101 + "1" + "}" * 101, "100 levels"),
        ("1" * 10_000, "64 bits"),
        ("9223372036854775808", "64 bits"),
        ("[NaN]", "finite"),
        ("-Infinity", "finite"),
        ("1e400", "finite"),
        (r'"\ud800"', "half a pair"),
        (r'{"\udfff": 1}', "half a pair"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        (b'"\xff"', "UTF-8"),
        ("{", "Expecting|delimiter|name"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_json(text)


def test_configurations_of_other_programs() -> None:
    assert parse_json('{"a": 1, "a": Infinity}', strict=False) == {"a": float("inf")}
    with pytest.raises(DocumentError, match="100 levels"):
        parse_json("[" * 500 + "]" * 500, strict=False)


def test_the_size_is_looked_at_first() -> None:
    for parse in (parse_json, parse_yaml):
        with pytest.raises(DocumentError, match="at most 10 bytes, found 11"):
            parse("[" * 11, most=10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALIASES, r"the alias \*a0"),
        ("a: &a [*a]", r"the alias \*a"),
        ("a: &a {b: 1}\nc:\n  <<: *a", r"the alias \*a"),
        ("[" * 10_000, "100 levels|100|expected|flow"),
        ("!!timestamp x", "AttributeError|NoneType|timestamp"),
        ("!!int x", "invalid literal|int"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("!!set {a, b}", "plain values, found a set"),
        ("!!binary aGk=", "plain values, found a bytes"),
        ("1.5: y", "text as key, found 1.5"),
        ("null: 1", "text as key, found None"),
        ("? [a, b]\n: 1", "unhashable|key"),
        ("9" * 10_000, "64 bits|digits"),
        (".nan", "finite"),
        (b"\xff\xfe\xfa", "UTF-8"),
        ("a: [\n", "while parsing"),
        ("\x00", "special characters|not allowed"),
    ],
)
def test_yaml_that_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(DocumentError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)


def test_yaml_of_plain_values() -> None:
    text = "a: 1\nb: [0.5, true, null, text]\nc: {d: 2026-11-30}\n'e': '5'\n7: x\n"
    assert parse_yaml(text) == {
        "a": 1, "b": [0.5, True, None, "text"], "c": {"d": "2026-11-30"}, "e": "5", 7: "x",
    }  # fmt: skip
