"""Formats what the commands print for people: numbers, durations, lines and columns. Pure.

One convention everywhere: thousands separators, durations as in "4.2 s" or "12 min 05 s", rates as
in "478/s", whole percent. JSON has plain numbers in base units.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bulkcert.model import Outcome
from bulkcert.values import printable

_LABEL = 15
"""Width of the labels on the left."""

_LEAD = re.compile(r" *(?:\S+(?: \S+)* {2,})?")
"""The label of a line, or its indentation: where the text of the line begins."""

# ---- numbers and words


def duration(seconds: float) -> str:
    """Format a duration, such as "4.2 s", "32 s", "12 min 05 s" or "3 h 07 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, seconds = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def number(value: float) -> str:
    """Format a number with thousands separators, and with decimals only if it has some."""
    return f"{value:,.10g}"


def rate(per_second: float) -> str:
    """Format a measured rate, such as "478/s", or "0.7/s" if it is low."""
    return f"{per_second:,.0f}/s" if per_second >= 9.95 else f"{per_second:.1f}/s"


def percent(part: int, whole: int) -> str:
    """Format a share in whole percent; it is 100% only if nothing is missing."""
    return f"{100 * part // whole if whole else 100}%"


def count(value: int, singular: str, plural: str | None = None) -> str:
    """Format a count with its noun or verb: "1 operation", "2,000 operations".

    Args:
        value: how many.
        singular: the word that goes with 1.
        plural: the word that goes with every other number; by default `singular` with an s.
    """
    return f"{value:,} {singular if value == 1 else plural or singular + 's'}"


# ---- lines


def entry(label: str, text: str) -> str:
    """Format a line with a label on the left."""
    return f"  {label:{_LABEL - 1}} {text}"


def outcome_lines(counts: Mapping[Any, int], outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Format one line for each outcome, the numbers below one another."""
    return (count_line(outcome.replace("_", " "), counts[outcome]) for outcome in outcomes)


def count_line(label: str, value: int) -> str:
    """Format a label and its count as one line of a table."""
    return f"  {label:13} {value:>9,}"


def as_text(lines: Iterable[str], columns: int | None = None) -> str:
    """Join lines to a text in which each is one line, whatever the names in it contain.

    Args:
        lines: the lines.
        columns: the width of the terminal in cells, if it is one. Longer lines go on below, where
            their text begins; a line with a command to copy stays in one piece.
    """
    safe = map(printable, lines)
    return "\n".join(safe if columns is None else (wrapped(line, columns) for line in safe))


def wrapped(line: str, columns: int) -> str:
    """Break a line at blanks so that it fits a terminal, if it can be."""
    lead = _LEAD.match(line)
    assert lead is not None
    labelled = bool(lead[0].strip())
    indent = " " * (width(lead[0]) + (0 if labelled else 2))
    if width(line) <= columns or "bulkcert " in line:
        return line
    pieces = [lead[0]]
    for word in line[lead.end() :].split(" "):
        last = pieces[-1]
        gap = "" if last in (lead[0], indent) else " "
        if gap and width(last) + 1 + width(word) > columns:
            pieces.append(indent + word)
        else:
            pieces[-1] = last + gap + word
    return "\n".join(pieces)


def width(text: str) -> int:
    """Return how many cells a text takes on a terminal, where a Chinese character takes two."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def cut(text: str, cells: int) -> str:
    """Cut a text to a width, with a "…" at the end if something is missing."""
    if width(text) <= cells:
        return text
    kept, used = "", 0
    for character in text:
        used += _cells(character)
        if used > cells - 1:
            break
        kept += character
    return f"{kept}…" if cells > 0 else ""


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
