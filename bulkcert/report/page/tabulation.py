"""How the tables of a page are made: columns, times, and what is left out of a long one. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo

from bulkcert.report.page.figure import Column, Table

_MOST_ROWS, _MOST_CHARACTERS = 60, 500
"""More nobody reads on paper: of a longer table, the first and the last rows are shown."""


class Clock:
    """Writes times by the clock of one zone."""

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone

    def __call__(self, at_s: float | None) -> str:
        """A time with its date and second; empty for None."""
        return (
            "" if at_s is None else f"{datetime.fromtimestamp(at_s, self.zone):%Y-%m-%d %H:%M:%S}"
        )


def numbers(title: str) -> Column:
    """A column of numbers."""
    return Column(title, "num")


def short(title: str) -> Column:
    """A column of times, or of texts that are not wrapped."""
    return Column(title, "short")


def code(title: str) -> Column:
    """A column of what is compared character by character."""
    return Column(title, "mono")


def table(
    caption: str,
    columns: Sequence[str | Column],
    rows: Sequence[Sequence[str]],
    note: str = "",
) -> Table:
    """A table; a column that has only a title is one of texts."""
    return Table(
        caption=caption,
        columns=[Column(each) if isinstance(each, str) else each for each in columns],
        rows=list(_shortened(rows)),
        note=note,
    )


def _shortened(rows: Sequence[Sequence[str]]) -> Iterator[Sequence[str]]:
    half = _MOST_ROWS // 2
    left_out = len(rows) - 2 * half
    for row in rows if left_out <= 0 else rows[:half]:
        yield [_cut(cell) for cell in row]
    if left_out > 0:
        yield [f"{left_out:,} rows are not shown here; events.jsonl has them all"]
        yield from ([_cut(cell) for cell in row] for row in rows[-half:])


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
