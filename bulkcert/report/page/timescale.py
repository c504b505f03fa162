"""The time axis of a page: which times are drawn to scale, and where each of them is. Pure.

In: when anything happened. Out: a scale from time to percent of the width. A campaign may last for
three days and work for twenty minutes of them, so long stretches in which nothing happened are
drawn as narrow breaks. All else is to scale, in buckets of one length.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from functools import cached_property
from typing import NamedTuple

MOST_BUCKETS = 240
"""More would be narrower than a line."""

MOST_BREAKS = 60

_COARSEST_FIRST_S = 60
"""The resolution of the first look at a run; a run of months has some 100,000 minutes."""

_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
LENGTHS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(minutes * _MINUTE_S for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR_S for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY_S for days in (1, 2, 7, 14, 28, 56, 112, 364)),
)
"""The lengths that a bucket may have, and the steps between labels."""

_LONG_BUCKETS, _LONG_SHARE = 10, 0.15
"""An idle stretch is a break if it is longer than this many buckets, and than this share of the
time in which something happened."""

_BREAK_PERCENT, _BREAKS_PERCENT = 3.0, 25.0
"""The width of a break, and of all breaks together."""

_MOST_TICKS = 9
_TICK_PERCENT = 8.0
"""The least distance between two labels."""


class Stretch(NamedTuple):
    """A stretch that is drawn to scale: buckets `first` to `last`, both included."""

    first: int
    last: int


class Tick(NamedTuple):
    """A label on the axis.

    Attributes:
        x: where, in percent.
        time: the time of day.
        day: the date; empty if it is that of the label before.
        minor: it may be left out where the axis is narrow.
    """

    x: float
    time: str
    day: str
    minor: bool


class Break(NamedTuple):
    """A stretch that is not to scale.

    Attributes:
        begin_s, end_s: Unix time in seconds.
        left, right: in percent.
    """

    begin_s: int
    end_s: int
    left: float
    right: float


@dataclass(frozen=True)
class TimeScale:
    """The time axis.

    Attributes:
        bucket_s: the length of a bucket in seconds.
        stretches: what is drawn to scale, in order, at least one; between two of them is a break.
        edges: times in seconds, ascending: the begin and the end of each stretch.
        places: where each of them is, in percent.
    """

    bucket_s: int
    stretches: tuple[Stretch, ...]
    edges: tuple[int, ...]
    places: tuple[float, ...]

    @classmethod
    def of(cls, bucket_s: int, stretches: Sequence[Stretch]) -> TimeScale:
        """Lay out stretches, one beside the other."""
        buckets = sum(each.last + 1 - each.first for each in stretches)
        breaks = len(stretches) - 1
        break_percent = min(_BREAK_PERCENT, _BREAKS_PERCENT / breaks) if breaks else 0.0
        per_bucket = (100.0 - breaks * break_percent) / buckets
        edges: list[int] = []
        places: list[float] = []
        x = 0.0
        for first, last in stretches:
            right = x + (last + 1 - first) * per_bucket
            edges += (first * bucket_s, (last + 1) * bucket_s)
            places += (x, right)
            x = right + break_percent
        return cls(bucket_s, tuple(stretches), tuple(edges), tuple(places))

    def x(self, at_s: float) -> float:
        """Where a time is, in percent; what is outside is at the nearest end."""
        number = bisect_right(self.edges, at_s)
        if number in (0, len(self.edges)):
            return self.places[min(number, len(self.places) - 1)]
        begin, end = self.edges[number - 1 : number + 1]
        left, right = self.places[number - 1 : number + 1]
        return left + (at_s - begin) / (end - begin) * (right - left)

    def buckets(self) -> Iterator[int]:
        """The numbers of all buckets, in order."""
        for first, last in self.stretches:
            yield from range(first, last + 1)

    @cached_property
    def lefts(self) -> list[float]:
        """Where each bucket begins, in percent."""
        return [self.x(number * self.bucket_s) for number in self.buckets()]

    @cached_property
    def rights(self) -> list[float]:
        """Where each bucket ends, in percent."""
        return [self.x((number + 1) * self.bucket_s) for number in self.buckets()]

    @property
    def breaks(self) -> list[Break]:
        """The stretches that are not to scale."""
        ends, begins = slice(1, -1, 2), slice(2, None, 2)
        columns = self.edges[ends], self.edges[begins], self.places[ends], self.places[begins]
        return [Break(*row) for row in zip(*columns, strict=True)]

    def ticks(self, zone: tzinfo) -> list[Tick]:
        """The labels: at round times, and where a stretch without any begins."""
        length_s = sum(last + 1 - first for first, last in self.stretches) * self.bucket_s
        step_s = next((s for s in LENGTHS_S if length_s / s <= _MOST_TICKS), LENGTHS_S[-1])
        return list(self._labelled(step_s, zone))

    def _labelled(self, step_s: int, zone: tzinfo) -> Iterator[Tick]:
        day, free_from, major = "", 0.0, True
        for first, last in self.stretches:
            begin, end = first * self.bucket_s, (last + 1) * self.bucket_s
            for at_s in _round_times(begin, end, step_s, zone) or [begin]:
                x = self.x(at_s)
                if x < free_from or x > 100 - _TICK_PERCENT / 4:
                    continue
                local = datetime.fromtimestamp(at_s, zone)
                text = f"{local:%H:%M:%S}" if step_s < _MINUTE_S else f"{local:%H:%M}"
                today = f"{local:%a} {local.day} {local:%b}"
                yield Tick(x, text, "" if today == day else today, not major)
                day, free_from, major = today, x + _TICK_PERCENT, not major


def _round_times(begin_s: int, end_s: int, step_s: int, zone: tzinfo) -> list[int]:
    """The times within a stretch at which a clock shows a multiple of the step."""
    offset = datetime.fromtimestamp(begin_s, zone).utcoffset()
    shift_s = int(offset.total_seconds()) if offset else 0
    first = -(-(begin_s + shift_s) // step_s) * step_s - shift_s
    return list(range(first, end_s, step_s))


def time_scale(
    busy_buckets: Callable[[int], Iterable[int]], begin_s: float, end_s: float
) -> TimeScale:
    """Choose what is drawn to scale, and how long a bucket is.

    Args:
        busy_buckets: returns the buckets of a length in which anything happened, in order.
        begin_s, end_s: when the run began, and when it was last worked on; the axis contains both.
    """
    length_s = _COARSEST_FIRST_S
    while True:
        stretches = _stretches(busy_buckets(length_s), length_s, begin_s, end_s)
        shorter_s, snapped = _fitting(stretches, length_s)
        if shorter_s >= length_s:
            return TimeScale.of(shorter_s, snapped)
        length_s = shorter_s


def _fitting(stretches: Sequence[Stretch], length_s: int) -> tuple[int, list[Stretch]]:
    """The shortest buckets of which there are few enough, and the stretches in these."""
    for other_s in LENGTHS_S:
        snapped: list[Stretch] = []
        for first, last in stretches:
            begin = first * length_s // other_s
            end = ((last + 1) * length_s - 1) // other_s
            if snapped and begin <= snapped[-1].last + 1:
                begin = snapped.pop().first
            snapped.append(Stretch(begin, end))
        if sum(last + 1 - first for first, last in snapped) <= MOST_BUCKETS:
            break
    return other_s, snapped


def _stretches(busy: Iterable[int], length_s: int, begin_s: float, end_s: float) -> list[Stretch]:
    """Join busy buckets to stretches, and leave out what is idle for long."""
    ends = {int(begin_s // length_s), int(end_s // length_s)}
    buckets = sorted(ends.union(busy))
    longest = max(_LONG_BUCKETS, _LONG_SHARE * len(buckets))
    idle = [
        (after - before, number)
        for number, (before, after) in enumerate(itertools.pairwise(buckets), 1)
        if after - before - 1 > longest
    ]
    cuts = sorted(number for _, number in sorted(idle)[-MOST_BREAKS:])
    begins, ends_ = [0, *cuts], [*cuts, len(buckets)]
    return [
        Stretch(buckets[begin], buckets[end - 1]) for begin, end in zip(begins, ends_, strict=True)
    ]
