"""Other people's text in reports: it acts neither on a terminal nor in a spreadsheet."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulkcert.json_lines import as_json
from bulkcert.report.cells import cell, identifier_cell

PEM = "-----BEGIN CERTIFICATE-----\nMIIB+/=\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("CN=pump", "CN=pump"),
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+1", "'+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("＝1", "'＝1"),  # some spreadsheets read the full-width forms as well
        ("\t=1", "\\t=1"),
        ("\r=1", "\\r=1"),
        ("\x1b[31mred", "\\x1b[31mred"),
        (PEM, PEM),
        ("-----BEGIN +cmd|' /C calc'!A0", "'-----BEGIN +cmd|' /C calc'!A0"),
        (-5, -5),  # a number is not text
        (None, None),
        (True, "true"),
        (["=1"], '["=1"]'),
        ({"a": "\x9b"}, '{"a":"\\u009b"}'),
    ],
)
def test_cells_for_people(value: Any, written: Any) -> None:
    assert cell(value) == written


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *[(name, name) for name in ("A1", "-1", "+86-21", "@home", "--", "a=b(c)")],
        ("=1+1", "'=1+1"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-A1\x9b", "-A1\\x9b"),
        (1001, 1001),
        (None, None),
    ],
)
def test_names_of_devices_stay_as_they_are_unless_they_would_be_executed(
    value: Any, written: Any
) -> None:
    assert identifier_cell(value) == written


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_json_means_the_same_and_has_no_character_that_acts_on_a_terminal(value: Any) -> None:
    line = as_json(value).decode()
    assert json.loads(line) == value
    assert all(character.isprintable() or character.isspace() for character in line)
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("character", ["\x7f", "\x9b", "\u202e", "\u2028", "\U000e0041", "\x1b"])
def test_what_acts_on_a_terminal_is_escaped_in_json(character: str) -> None:
    assert as_json(character).isascii()
    assert json.loads(as_json(character)) == character


@given(json_values)
def test_json_on_several_lines_means_the_same_too(value: Any) -> None:
    text = as_json(value, indent=True).decode()
    assert json.loads(text) == value


def test_the_rest_of_json_stays_readable() -> None:
    assert as_json({"泵": "é\u3000"}) == '{"泵":"é\u3000"}'.encode()
