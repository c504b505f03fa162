"""What the figures of a page have in common: the time axis, and all that is written above it. Pure.

In: the time axis, the chronicle and the aborts of a run. Out: a frame, on which each figure puts
its own plots. No text may cover another one: what has no room is left out, and in the tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from bulkcert.quantities import duration
from bulkcert.report.page.chronicle import Chronicle
from bulkcert.report.page.course import Bucket
from bulkcert.report.page.figure import Area, Figure, Gap, Lane, Mark, Panel, Table
from bulkcert.report.page.spans import SpanKind
from bulkcert.report.page.timescale import TimeScale
from bulkcert.store.base import Abort

_LANE, _GAP, _MARK, _UNIT, _AXIS = 18, 4, 16, 20, 40
"""Heights, in pixels."""

_LETTER, _MARGIN = 6.2, 8
_WIDE, _NARROW = 8.2, 2.8
"""Pixels: the mean width of a letter, what is left free around a text, and one percent of a figure
on a screen or on paper, and on a telephone."""

_FINEST = 0.2
"""Percent: shades are not drawn narrower, and those of one kind that are nearer are joined."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the figures of a page have in common: the time axis, and what is written above it.

    Attributes:
        scale: the time axis.
        zone: whose clock is shown.
        lanes, shades, gaps, marks: see `Figure`.
    """

    scale: TimeScale
    zone: tzinfo
    lanes: Sequence[Lane]
    shades: Sequence[Area]
    gaps: Sequence[Gap]
    marks: Sequence[Mark]

    @property
    def top(self) -> int:
        """Where the plots begin, in pixels."""
        return _lanes_top(self.marks) + len(self.lanes) * (_LANE + _GAP) + _UNIT

    def times(self, bucket: Bucket) -> str:
        """When a bucket begins and ends."""
        begin, end = (
            datetime.fromtimestamp(at_s, self.zone) for at_s in (bucket.begin_s, bucket.end_s)
        )
        return f"{begin.day} {begin:%b %H:%M:%S} – {end:%H:%M:%S}"

    def figure(
        self,
        name: str,
        title: str,
        description: str,
        *,
        panels: Sequence[Panel],
        legend: Sequence[tuple[str, str]],
        table: Table,
    ) -> Figure:
        """A figure on this frame; see `Figure`. The legend of the shades is added."""
        bottom = panels[-1].top + panels[-1].height
        kinds = dict.fromkeys(area.kind for area in self.shades)
        return Figure(
            id=name,
            title=title,
            description=description,
            height=bottom + _AXIS,
            top=self.top,
            bottom=bottom,
            lanes=self.lanes,
            shades=self.shades,
            gaps=self.gaps,
            marks=self.marks,
            ticks=self.scale.ticks(self.zone),
            panels=panels,
            legend=[*legend, *((kind, SpanKind(kind).words) for kind in kinds)],
            table=table,
        )


def frame(scale: TimeScale, chronicle: Chronicle, aborts: Sequence[Abort], zone: tzinfo) -> Frame:
    """Lay out what the figures have in common."""
    marks = list(_marks(scale, aborts))
    waves = [
        (f"wave-{wave.number % 2}", scale.x(wave.begin_s), scale.x(wave.end_s), wave.name)
        for wave in chronicle.waves
    ]
    shades = _shades(scale, chronicle)
    named = [(area.kind, area.x, area.x + area.width, SpanKind(area.kind).label) for area in shades]
    rows = [_labelled(areas) for areas in (waves, named) if areas]
    top = _lanes_top(marks)
    lanes = [Lane(top + at * (_LANE + _GAP), areas) for at, areas in enumerate(rows)]
    return Frame(scale, zone, lanes, shades, _gaps(scale, chronicle), marks)


def _lanes_top(marks: Sequence[Mark]) -> int:
    return _MARK if marks else 0


def _marks(scale: TimeScale, aborts: Sequence[Abort]) -> Iterator[Mark]:
    free_from = 0.0
    for abort in sorted(aborts, key=lambda abort: abort.at):
        x, text = scale.x(abort.at), f"abort {abort.id}"
        width = _pixels(text) / _NARROW
        anchor = "start" if x < width / 2 else "end" if x > 100 - width / 2 else "middle"
        left = {"start": x, "end": x - width, "middle": x - width / 2}[anchor]
        fits = left >= free_from
        yield Mark(x, text if fits else "", anchor)
        free_from = left + width if fits else free_from


def _shades(scale: TimeScale, chronicle: Chronicle) -> list[Area]:
    """What is shaded, the most important on top, which is last."""
    areas: list[Area] = []
    for kind, spans in itertools.groupby(chronicle.spans, lambda span: span.kind):
        begin = end = -1.0
        for span in spans:
            left, right = scale.x(span.begin_s), scale.x(span.end_s)
            right = max(right, left + _FINEST)
            if left > end + _FINEST:
                if end > begin:
                    areas.append(Area(kind, begin, end - begin))
                begin = left
            end = max(end, right)
        areas.append(Area(kind, begin, end - begin))
    return areas[::-1]


def _labelled(areas: Sequence[tuple[str, float, float, str]]) -> list[Area]:
    """Write labels into areas that have room for them, and are not covered there by later ones."""
    labelled = []
    for number, (kind, left, right, text) in enumerate(areas, 1):
        width = max(right - left, _FINEST)
        needed = _pixels(text) + _MARGIN
        begin, end = (left + width / 2 + half / _WIDE for half in (-needed / 2, needed / 2))
        covered = any(other[1] < end and other[2] > begin for other in areas[number:])
        shown = "" if covered or width * _WIDE < needed else text
        labelled.append(Area(kind, left, width, shown, wide=width * _NARROW < needed))
    return labelled


def _gaps(scale: TimeScale, chronicle: Chronicle) -> list[Gap]:
    """How long each break is, and why nothing happened."""
    gaps = []
    for begin_s, end_s, left, right in scale.breaks:
        reason = _reason(chronicle, begin_s, end_s)
        text = duration(end_s - begin_s) + (f", {reason.words}" if reason else "")
        has_room = (right - left) * _WIDE >= 2 * _LETTER
        gaps.append(Gap(left, right, text if has_room else ""))
    return gaps


def _reason(chronicle: Chronicle, begin_s: float, end_s: float) -> SpanKind | None:
    """What kept the run from working for most of a stretch; None if nothing is known to have."""
    lengths = dict.fromkeys(SpanKind, 0.0)
    for span in chronicle.spans:
        lengths[span.kind] += max(0.0, min(span.end_s, end_s) - max(span.begin_s, begin_s))
    return next((kind for kind in SpanKind if lengths[kind] > (end_s - begin_s) / 2), None)


def _pixels(text: str) -> float:
    return len(text) * _LETTER
