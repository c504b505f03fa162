"""How values of a target file are ordered."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bulkcert.rules.ordering import Column, Kind, parsed


def micros(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 10**6)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("7", 7),
        ("-007", -7),
        ("+1.50", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("999999999999999999", 999999999999999999),
        ("12345678901234567890", 12345678901234567890.0),
        ("1e9999", float("inf")),
    ],
)
def test_numbers(value: str, key: float) -> None:
    assert parsed(value) == (Kind.NUMBERS, key)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-11-26", "2026-11-26"),
        ("2026-11-26T10:30", "2026-11-26 10:30"),
        ("2026-11-26 10:30:00", "2026-11-26 10:30"),
        ("2026-11-26T10:30:00.120Z", "2026-11-26 10:30:00.120"),
        ("2026-11-26T10:30:00+08:00", "2026-11-26 02:30"),
        ("0001-01-01T00:00+14:00", "0001-01-01"),
    ],
)
def test_dates(value: str, moment: str) -> None:
    shift = 14 * 3600 * 10**6 if "+14" in value else 0
    assert parsed(value) == (Kind.DATES, micros(moment) - shift)


@pytest.mark.parametrize(
    "value", ["high", "1,000", "1.2.3", "nan", "0x10", "١", "2026-13-01", "2026-11-26 noon", "."]
)
def test_everything_else_is_text(value: str) -> None:
    assert parsed(value) == (Kind.TEXT, None)


def column(*values: str) -> Column:
    found = Column("risk")
    for line, value in enumerate(values, 2):
        found.add(line, value)
    return found


def test_a_column_is_what_all_its_values_are() -> None:
    assert column("1", "", "2.5").kind is Kind.NUMBERS
    assert column("2026-11-26", "").kind is Kind.DATES
    assert column("", "").kind is column().kind is Kind.TEXT
    assert column("1", "2026-11-26").kind is Kind.TEXT
    assert column("1", "2.5").exception is None


def test_the_first_value_that_makes_a_column_text_is_known() -> None:
    assert column("1", "n/a", "2", "?", "3").exception == (Kind.NUMBERS, 3, "n/a")
    assert column("1", "2", "2026-11-26").exception == (Kind.NUMBERS, 4, "2026-11-26")
    assert column("high", "low", "3").exception is None
