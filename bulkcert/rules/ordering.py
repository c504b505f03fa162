"""How values of a target file are ordered: numbers as numbers, dates as dates. Pure.

In: the values of one column, as text. Out: what the column consists of, and a key for each value
that SQLite compares in the right order. A column is of numbers, or of dates, only if every value
that is not empty is one; a single other value makes it text. Must never order two columns of one
plan by a guess about single values: "10" would come before "9" in one row and after it in another.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,4})?", re.ASCII | re.IGNORECASE)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)  # fits in 64 bits
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].+)?", re.ASCII)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Key = int | float | None


class Kind(StrEnum):
    """What a column consists of."""

    NUMBERS = "numbers"
    DATES = "dates"
    TEXT = "text"


@lru_cache(maxsize=10_000)
def parsed(value: str) -> tuple[Kind, Key]:
    """Return what a value is, and the key to order it by; None for text, which is its own key.

    A number is digits with or without sign, decimal point and exponent; more than 18 digits count
    roughly. A date is one of ISO 8601, with or without time. A time without offset is taken for
    UTC, and a date for the midnight at which it begins.
    """
    if _WHOLE.fullmatch(value):
        return Kind.NUMBERS, int(value)
    if _NUMBER.fullmatch(value):
        return Kind.NUMBERS, float(value)
    if _DATE.fullmatch(value):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return Kind.TEXT, None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return Kind.DATES, (moment - _EPOCH) // _MICROSECOND
    return Kind.TEXT, None


class Column:
    """What the values of one column have been so far.

    Args:
        name: as it is written in the job.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._counts = dict.fromkeys(Kind, 0)
        self._first: dict[Kind, tuple[int, str]] = {}  # line and value

    def add(self, line: int, value: str) -> Key:
        """Look at one more value; return its key, which counts only if the kind is not text."""
        if not value:
            return None
        kind, key = parsed(value)
        if not self._counts[kind]:
            self._first[kind] = line, value
        self._counts[kind] += 1
        return key

    @property
    def kind(self) -> Kind:
        """What the column consists of; empty values decide nothing."""
        found = [kind for kind, count in self._counts.items() if count]
        return found[0] if len(found) == 1 else Kind.TEXT

    @property
    def exception(self) -> tuple[Kind, int, str] | None:
        """What most values are, and the line and text of the first that keeps it from counting.

        None if the column is what most of its values are.
        """
        usual = max(self._counts, key=lambda kind: self._counts[kind])
        others = [first for kind, first in self._first.items() if kind is not usual]
        return (usual, *min(others)) if others and usual is not Kind.TEXT else None
