"""Formats what the commands print for people: lines and columns. Pure."""

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
