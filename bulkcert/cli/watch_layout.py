"""The lines of a screen: below and beside one another, and cut to what fits.

In: texts, and the room that there is. Out: lines. Pure; knows nothing of runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.text import Text

from bulkcert.cli.format import wrapped
from bulkcert.quantities import moment
from bulkcert.values import printable

GUTTER = 10
"""Cells for the names of the sections, to the left of what they contain."""


class Section(NamedTuple):
    """Some lines under one name.

    Attributes:
        name: what they are about; in the gutter.
        lines: the lines, in order.
        wanted: how many of them there should be on a small screen, and on a larger one; a section
            that comes earlier gets its share first.
        focus: the line that matters most; its neighbours stay the longest.
    """

    name: str
    lines: Sequence[Text]
    wanted: tuple[int, int]
    focus: int = 0


# ---- sections


def below(sections: Sequence[Section], columns: int, rows: int) -> list[Text]:
    """The sections below one another, cut to the rows that there are."""
    granted = _allot(sections, rows)
    spaced = sum(granted) + sum(map(bool, granted)) <= rows
    least = sum(min(section.wanted[0], len(section.lines)) for section in sections)
    lines: list[Text] = []
    if not spaced and least < rows:
        granted, lines = _allot(sections, rows - 1), [Text("")]
    for section, many in zip(sections, granted, strict=True):
        if not many:
            continue
        if spaced:
            lines.append(Text(""))
        first = min(max(0, section.focus - many + 1), len(section.lines) - many)
        shown = section.lines[first : first + many]
        for place, line in enumerate(shown):
            name = "" if place else section.name
            row = Text.assemble((f"{name:{GUTTER}}", "bold cyan"), line)
            if place + 1 == many and first + many < len(section.lines):
                row.rstrip()
                row.append(" …")
            row.truncate(columns, overflow="ellipsis")
            lines.append(row)
    return lines


def _allot(sections: Sequence[Section], rows: int) -> list[int]:
    """How many lines of each section are shown: first the least, then what is wanted, then all."""
    granted = [0] * len(sections)
    for level in range(3):
        for place, section in enumerate(sections):
            most = (*section.wanted, len(section.lines))[level]
            more = min(most, len(section.lines)) - granted[place]
            granted[place] += max(0, min(more, rows - sum(granted)))
    return granted


def beside(left: Sequence[Text], right: Sequence[Text], half: int) -> list[Text]:
    """Two columns of lines."""
    lines = []
    for one, other in zip_longest(left, right, fillvalue=Text("")):
        gap = " " * (half - one.cell_len)
        lines.append(Text.assemble(one, gap, other))
    return lines


# ---- lines


def safe_text(content: str, style: str = "") -> Text:
    """A text that can't act on the terminal, whatever the names in it contain."""
    return Text(printable(content), style)


def paragraph(line: str, style: str, columns: int) -> list[Text]:
    """A line that is shown in full, on as many lines as that takes."""
    return [Text(part, style) for part in wrapped(printable(line), columns).split("\n")]


def command_lines(command: str, columns: int) -> list[Text]:
    """A command to copy. Where it takes several lines, a shell still reads it as one."""
    lines, line = [], " " * 4
    for word in printable(command).split(" "):
        if line.strip() and cell_len(f"{line} {word} \\") > columns:
            lines.append(f"{line} \\")
            line = " " * 6
        line += f" {word}" if line.strip() else word
        while cell_len(line) > columns > 2:  # goes on at the very beginning of the next line
            head = chop_cells(line, columns - 1)[0]
            lines.append(f"{head}\\")
            line = line[len(head) :]
    return [Text(part, "bold") for part in (*lines, line)]


def joined(parts: Iterable[Text], columns: int) -> Iterator[Text]:
    """Some phrases beside one another, on as many lines as that takes."""
    line = Text("")
    for part in parts:
        if line and line.cell_len + 3 + part.cell_len > columns:
            yield line
            line = Text("")
        line = Text.assemble(line, " · ", part) if line else part
    if line:
        yield line


def when(at_s: float, now_s: float) -> str:
    """When something was: the time of day, if it was today."""
    at, now = (datetime.fromtimestamp(each, UTC).astimezone() for each in (at_s, now_s))
    return clock(at_s) if at.date() == now.date() else moment(at_s)


def clock(at_s: float) -> str:
    """The time of day, by the clock of this machine."""
    return f"{datetime.fromtimestamp(at_s, UTC).astimezone():%H:%M:%S}"
