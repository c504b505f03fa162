"""Whatever a response contains, reading it yields a value or a short text and never raises."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.providers.call import Response
from bulkcert.providers.decoding import (
    as_received,
    bounded_text,
    integer,
    json_object,
    not_json,
    one_line,
    storable,
    truth,
    utc,
)


def response(body: bytes, status: int = 200, content_type: str = "", flaw: str = "") -> Response:
    headers = {"Content-Type": content_type} if content_type else {}
    return Response(status, headers, body, 0.0, flaw)


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
        (b"[" * 100_000, None),
    ],
)
def test_a_body_is_a_json_object_or_nothing(body: bytes, expected: object) -> None:
    assert json_object(response(body)) == expected


SAYING = '{"code":99400,"msg":"证书不存在"}'
SAID = {"code": 99400, "msg": "证书不存在"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xef\xbb\xbf" + SAYING.encode(), ""),
        (SAYING.encode(), "application/json;charset=ISO-8859-1"),  # the default of many servers
        (SAYING.encode("utf-16"), ""),
        (SAYING.encode("utf-16-le"), ""),
        (SAYING.encode("utf-16-be"), "text/plain"),
        (SAYING.encode("utf-32"), ""),
        (SAYING.encode("gbk"), ""),
        (SAYING.encode("gb18030"), "application/json; charset=GBK"),
        (SAYING.encode("gb18030"), 'text/html; Charset="gb2312"'),
        (SAYING.encode("gbk"), "application/json; charset=unknown"),
        (SAYING.encode("gbk"), "application/json; charset=unicode_escape"),
        (SAYING.encode("gbk"), "application/json; charset=zlib"),
    ],
    ids=repr,
)
def test_a_text_is_read_in_whichever_characters_it_comes(body: bytes, content_type: str) -> None:
    assert json_object(response(body, content_type=content_type)) == SAID


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("繁體".encode("big5"), "text/plain; charset=big5", "繁體"),
        (b"caf\xe9", "application/json; charset=ISO-8859-1", "café"),
        (b"caf\xe9", "", "café"),
        (b"a\nb\r\tc\0d", "", "a\nb\r\tc\0d"),
        (rb"\ud83d", "", "�"),  # half of a character
        (rb"\ud83d\ude00 \\ud83d \" \ud83dx", "", '😀 \\ud83d " �x'),
        ("再\n见\\n".encode("gbk"), "", "再\n见\n"),
    ],
)
def test_a_message_that_breaks_the_rules_is_read_all_the_same(
    body: bytes, content_type: str, text: str
) -> None:
    [read] = (
        json_object(response(b'{"msg": "%s"}' % body, content_type=content_type)) or {}
    ).values()
    assert read == text


def test_line_breaks_between_values_stay_what_they_are() -> None:
    assert json_object(response(b'{"a":\n"x\ny",\r\n"b": [1,\t2]}')) == {"a": "x\ny", "b": [1, 2]}


@given(st.binary(max_size=40), st.text(max_size=20))
def test_reading_never_raises(body: bytes, content_type: str) -> None:
    for content in (body, b'{"a": "' + body + b'"}'):
        found = json_object(response(content, content_type=content_type))
        assert found is None or isinstance(found, dict)
        assert not_json(response(content, content_type=content_type)).isprintable()


@pytest.mark.parametrize(
    ("body", "content_type", "said"),
    [
        (b"hello", "text/plain; charset=utf-8", "HTTP 200 with no JSON object but text/plain"),
        (b"hello", "application/json", "HTTP 200 with no JSON object"),
        (b"hello", "a\nb" + "x" * 100, "HTTP 200 with no JSON object but a b" + "x" * 57),
        (b'{"code": 99400, "msg"', "", "HTTP 200 with broken JSON, code 99400"),
        (
            b'{"msg": "x", "Code":"Throttling.User',
            "",
            "HTTP 200 with broken JSON, code Throttling.User",
        ),
        (b'{"x"', "", "HTTP 200 with broken JSON"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_code_that_it_contains(
    body: bytes, content_type: str, said: str
) -> None:
    assert not_json(response(body, content_type=content_type)) == said


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


# ---- values that can be kept


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *((0, 0), (-7, -7), (2**63 - 1, 2**63 - 1), (-(2**63), -(2**63)), ("007", 7), ("0", 0)),
        *((2**63, None), (-(2**63) - 1, None), ("9" * 19, None), ("9" * 20, None), ("-1", None)),
        *((True, None), (1.0, None), ("1.0", None), ("", None), ("٣", None), (None, None)),
        *(([1], None), ({}, None)),
    ],
)
def test_a_number_may_be_written_as_text(value: object, number: int | None) -> None:
    assert integer(value) == number
    assert type(integer(value)) is not bool


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((True, True), (False, False), ("true", True), ("FALSE", False)),
        *((None, None), (1, None), (0, None), ("yes", None), ([], None)),
    ],
)
def test_a_truth_value_may_be_written_as_text(value: object, said: bool | None) -> None:
    assert truth(value) is said


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *(("a\n b", "a\n b"), (7, "7"), (2**159, str(2**159)), ("x" * 9, "x" * 9)),
        *(("x" * 11, ""), (10**10, ""), (2**2000, ""), ("\ud800", ""), (None, ""), (1.5, "")),
        *((True, ""), (["a"], "")),
    ],
)
def test_a_text_stays_as_it_came_or_is_left_out(value: object, text: str) -> None:
    longest = 10 if isinstance(value, str) or value == 10**10 else 100
    assert bounded_text(value, longest) == text


def test_what_decides_nothing_is_kept_as_far_as_it_can_be() -> None:
    assert storable({"a": [1, {"b": 2}], "c": {"d": [3]}, "e": 1.5, "f": True, "g": None}) == {
        "a": [1, None],
        "c": {"d": None},
        "e": 1.5,
        "f": True,
        "g": None,
    }
    assert storable([2**63, float("inf"), "a\nb", "x" * 1000]) == [
        str(2**63),
        None,
        "a b",
        "x" * 500,
    ]
    assert len(storable(list(range(1000)))) == 50
    assert storable(b"bytes") is None


def test_what_can_not_be_read_is_shown_as_json() -> None:
    assert as_received({"a": [1]}) == '{"a":[1]}'
    assert as_received([2**70, "\ud800"]) == '["1180591620717411303424",""]'
    assert len(as_received("x" * 10_000)) == 2000
    deep: list[object] = []
    for _ in range(500):
        deep = [deep]
    assert as_received(deep) == "[[null]]"


kept = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters()), st.binary()
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(st.characters()), inner)),
    max_leaves=20,
)


@given(kept)
def test_anything_can_be_kept(value: object) -> None:
    for result in (storable(value), as_received(value), bounded_text(value)):
        assert orjson.loads(orjson.dumps(result)) == result
