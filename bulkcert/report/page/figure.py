"""What a page is made of: tables and figures, as the templates draw them. Data only.

Across, a figure is measured in percent of its width, so that it fits a telephone and a sheet of
paper with letters of the same size. From the top, it is measured in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bulkcert.report.page.timescale import Tick

WIDTH = 1000
"""The width of what shapes are drawn on, in units; it is stretched to that of the figure."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its header.
        kind: `text`; `short` for what is not wrapped; `num` for numbers, which are aligned on the
            right; `mono` for what is compared character by character.
    """

    title: str
    kind: str = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows.
        columns: its columns.
        rows: the cells of each row, one for each column. A row with one cell is a remark between
            the others.
        note: what is missing or must be known, below it; may be empty.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Area(NamedTuple):
    """A rectangle, by its class, and a label in it.

    Attributes:
        kind: its class.
        x, width: in percent.
        text: the label; empty if there is no room.
        wide: the label only has room where the figure is wide.
    """

    kind: str
    x: float
    width: float
    text: str = ""
    wide: bool = False


class Lane(NamedTuple):
    """A row of areas above the plot, `top` pixels from the top."""

    top: int
    areas: Sequence[Area]


class Shape(NamedTuple):
    """A path in units of a panel, by its class."""

    kind: str
    path: str


class Grid(NamedTuple):
    """A horizontal line, `y` pixels from the top of the figure, and its label."""

    y: float
    label: str


class Gap(NamedTuple):
    """A break of the time axis, from `left` to `right` in percent, and the text that is written
    upwards in it; empty if there is no room."""

    left: float
    right: float
    text: str


class Mark(NamedTuple):
    """A line from the top to the bottom.

    Attributes:
        x: where, in percent.
        text: what is written above it; empty if there is no room.
        anchor: which part of the text is at the line: `start`, `middle` or `end`.
    """

    x: float
    text: str
    anchor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot of a figure.

    Attributes:
        top, height: in pixels.
        unit: what the numbers on its axis are.
        grid: its lines and labels.
        shapes: what is drawn, from back to front.
    """

    top: int
    height: int
    unit: str
    grid: Sequence[Grid]
    shapes: Sequence[Shape]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure: plots one below the other on one time axis.

    Attributes:
        id: its name within the page.
        title: what it shows.
        description: what can be seen in it, in sentences.
        height: in pixels, with the axis.
        bottom: where the axis is, in pixels from the top.
        lanes: what is written above the plots.
        shades: what is shaded behind the plots, over their whole height from `top` on.
        top: where the plots begin.
        gaps: the breaks of the time axis.
        marks: lines with texts above the lanes.
        panels: the plots.
        ticks: the labels of the time axis.
        legend: the class of each thing that is drawn, and what it is.
        table: the same in numbers.
    """

    id: str
    title: str
    description: str
    height: int
    top: int
    bottom: int
    lanes: Sequence[Lane]
    shades: Sequence[Area]
    gaps: Sequence[Gap]
    marks: Sequence[Mark]
    panels: Sequence[Panel]
    ticks: Sequence[Tick]
    legend: Sequence[tuple[str, str]]
    table: Table
