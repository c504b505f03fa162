"""Whatever a response contains, reading it yields a value or a short text and never raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.call import Response
from bulkcert.providers.decoding import json_object, not_json, one_line, utc


def response(body: bytes, status: int = 200) -> Response:
    return Response(status, {}, body, 0.0)


# ---- bodies


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", {}),
        (b' {"a": [1, null]} \n', {"a": [1, None]}),
        (b"[]", None),
        (b'"{}"', None),
        (b"null", None),
        (b"", None),
        (b"{", None),
        (b"{}{}", None),
        (b'{"a": NaN}', None),
        (b'{"a": "\xff"}', None),
        (b"[" * 100_000, None),
    ],
)
def test_a_body_is_a_json_object_or_nothing(body: bytes, expected: object) -> None:
    assert json_object(response(body)) == expected


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 200, "HTTP 200 with no JSON object"),
        (b"[]", 299, "HTTP 299 with no JSON object"),
        (b"<html>", 300, "HTTP 300, a redirect, which is not followed"),
        (b"", 399, "HTTP 399, a redirect, which is not followed"),
        (b"", 400, "HTTP 400 with no JSON object"),
        (b"<!DOCTYPE html>\n<HTML lang=en>", 502, "HTTP 502 with an HTML page"),
        (b" " * 995 + b"<html>", 502, "HTTP 502 with an HTML page"),
        (b" " * 996 + b"<html>", 502, "HTTP 502 with no JSON object"),
    ],
)
def test_a_body_that_is_not_json_is_described(body: bytes, status: int, said: str) -> None:
    assert not_json(response(body, status)) == said


# ---- texts


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("plain", "plain"),
        ("  two\r\n\tlines  ", "two lines"),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 500),
        ("bell\a and \x1b[31mred", "bell and [31mred"),
        ("证书不存在", "证书不存在"),
        ("", ""),
        (11404, "11404"),
        (1.5, "1.5"),
        (None, ""),
        (["text"], ""),
        ({"a": 1}, ""),
        (b"bytes", ""),
    ],
)
def test_a_text_becomes_one_printable_line(value: object, line: str) -> None:
    assert one_line(value) == line


def test_the_longest_line_can_be_chosen() -> None:
    assert one_line("abcdef", 3) == "abc"
    assert one_line("abc", 3) == "abc"


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none()), st.integers(0, 20))
def test_any_value_becomes_a_printable_line_of_bounded_length(value: object, most: int) -> None:
    line = one_line(value, most)
    assert len(line) <= most
    assert line.isprintable()


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00Z"),
        (1_795_262_400_000, "2026-11-21T12:00:00Z"),
        (1_795_262_400_250, "2026-11-21T12:00:00.250000Z"),
    ],
)
def test_milliseconds_become_a_date_in_utc(milliseconds: int | None, text: str | None) -> None:
    assert utc(milliseconds) == text
