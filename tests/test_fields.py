"""The parsers of field values: what they return, and what they refuse and why."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.enos.actions import REVOKE_REASONS, revoke_reason
from bulkcert.values import INT64_MAX, kind_of, shown, text, whole_number


@pytest.mark.parametrize(
    ("value", "parsed"),
    [("A1", "A1"), ("  A1 ", "A1"), ("007aB", "007aB"), ("a b", "a b"), ("Gerät-7", "Gerät-7")],
)
def test_text_is_kept_except_for_surrounding_spaces(value: str, parsed: str) -> None:
    assert text(value) == parsed


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        ("   ", "is empty"),
        (5, "must be text, not the number 5"),
        (True, "must be text, not true or false"),
        (None, "must be text, not null"),
        (["a"], "must be text, not a list"),
        ({"a": 1}, "must be text, not an object"),
        ("a\nb", r"contains the unprintable character '\n'"),
        ("a\0b", r"contains the unprintable character '\x00'"),
        ("a\x1b[2Jb", r"contains the unprintable character '\x1b'"),
        ("a\u00a0b", r"contains the unprintable character '\xa0', NO-BREAK SPACE"),
        ("a\ud800", r"contains the unprintable character '\ud800'"),
    ],
)
def test_text_refuses_what_is_empty_unprintable_or_not_text(value: object, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        text(value)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (0, 0),
        (52739, 52739),
        ("52739", 52739),
        (" 52739 ", 52739),
        ("0052739", 52739),
        ("-0", 0),
        (INT64_MAX, INT64_MAX),
        (str(INT64_MAX), INT64_MAX),
    ],
)
def test_whole_numbers_are_given_as_numbers_or_digits(value: object, parsed: int) -> None:
    assert whole_number(value) == parsed


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("-1", "must not be negative"),
        (-1, "must not be negative"),
        (
            "1.0",
            "must be a whole number, not '1.0': it has become a decimal number; "
            "export the column as text",
        ),
        (1.0, "must be a whole number, not the number 1.0"),
        ("1e3", "must be a whole number, not '1e3'"),
        ("+5", "must be a whole number, not '+5'"),
        ("--5", "must be a whole number, not '--5'"),
        ("-", "must be a whole number, not '-': it stands for a missing value"),
        ("1_000", "must be a whole number, not '1_000'"),
        ("0x10", "must be a whole number, not '0x10'"),
        ("５", "must be a whole number, not '５'"),
        ("²", "must be a whole number, not '²'"),
        ("5\0", r"must be a whole number, not '5\x00'"),
        (True, "must be a whole number, not true or false"),
        (None, "must be a whole number, not null"),
        (INT64_MAX + 1, "is beyond 64 bits"),
        (str(INT64_MAX + 1), "is beyond 64 bits"),
        ("9" * 5000, "is beyond 64 bits"),
        (1.8446744073709552e19, "is beyond 64 bits"),
        (float("inf"), "is beyond 64 bits"),
        (float("nan"), "must be a whole number, not the number nan"),
    ],
)
def test_whole_number_refuses_everything_else(value: object, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        whole_number(value)
    assert str(caught.value) == reason


@given(st.integers(min_value=0, max_value=INT64_MAX))
def test_every_number_up_to_the_limit_is_parsed_from_text_and_from_a_number(number: int) -> None:
    assert whole_number(number) == whole_number(str(number)) == number


@pytest.mark.parametrize(("name", "number"), REVOKE_REASONS.items())
def test_a_revoke_reason_is_given_by_name_or_number(name: str, number: int) -> None:
    spellings = [name, name.lower(), name.replace("_", "-"), name.replace("_", " "), f" {name} "]
    for value in [*spellings, number, str(number)]:
        assert revoke_reason(value) == number


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("STOLEN", "is not a revocation reason: 'STOLEN'; known are UNSPECIFIED (0), "),
        (2, "is not a revocation reason: 2; known are "),
        ("7", "is not a revocation reason: 7; known are "),
        (10, "is not a revocation reason: 10; known are "),
        ("1.0", "is not a revocation reason: '1.0'; known are "),
        (True, "must be a whole number, not true or false"),
        (-1, "must not be negative"),
        ([], "must be a whole number, not a list"),
    ],
)
def test_revoke_reason_refuses_other_names_and_numbers(value: object, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        revoke_reason(value)
    assert str(caught.value).startswith(reason)


def test_long_values_are_cut_in_messages() -> None:
    assert shown("x" * 10_000) == "'" + "x" * 39 + "…"
    assert shown(1 << 100_000) == "about 2**100000"
    assert kind_of(1 << 100_000) == "the number about 2**100000"


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=5,
)


@pytest.mark.parametrize("parse", [text, whole_number, revoke_reason])
@given(value=_anything)
def test_parsers_raise_only_value_errors(parse: object, value: object) -> None:
    assert callable(parse)
    with contextlib.suppress(ValueError):
        assert type(parse(value)) in {str, int}
