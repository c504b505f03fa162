"""When operations may be claimed: the hours of a change window, by wall clock. Pure.

In: Unix times. Out: whether the window is open, and when that changes. The wall clock of the zone
decides, so an hour that daylight saving time repeats is open twice, and one that it skips is not
missed: a window that begins in it begins when the clocks have gone forward. Must never search
without end: nothing is looked for that is more than `LOOK_AHEAD_S` away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property, lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_DAY = timedelta(days=1)
_MINUTES_OF_A_DAY = 24 * 60
_LOOK_AHEAD_DAYS = 400
LOOK_AHEAD_S = _LOOK_AHEAD_DAYS * 86_400.0
"""A window that does not open within this time is said never to open."""

_FIRST_LOOK_BACK_S = 7 * 86_400.0
"""A search in the past begins with this span, and doubles it."""

_LATEST_S = 253_000_000_000.0
"""A Unix time in the year 9987: Python knows no date after 9999."""

_SPAN = re.compile(r"(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)")


class Opening(NamedTuple):
    """A span of hours that begins on some days of the week.

    Attributes:
        days: the days on which it begins; Monday is 0.
        begin, end: minutes since midnight of the day on which it begins; the end may be on the next
            day.
    """

    days: frozenset[int]
    begin: int
    end: int

    def __str__(self) -> str:
        """As people write it, and as `opening` reads it."""
        spans: list[list[int]] = []
        for day in sorted(self.days):
            if spans and day == spans[-1][-1] + 1:
                spans[-1].append(day)
            else:
                spans.append([day])
        names = ["-".join(DAYS[day] for day in dict.fromkeys((s[0], s[-1]))) for s in spans]
        end = self.end if self.end <= _MINUTES_OF_A_DAY else self.end - _MINUTES_OF_A_DAY
        times = [f"{minutes // 60:02}:{minutes % 60:02}" for minutes in (self.begin, end)]
        return f"{','.join(names)} {'-'.join(times)}"


@dataclass(frozen=True)
class Window:
    """The hours in which operations may be claimed.

    Attributes:
        openings: the hours of a week.
        zone: whose wall clock decides.
        closed: days on which nothing is claimed. Hours that begin on such a day are closed to their
            end, also beyond midnight.
    """

    openings: Sequence[Opening]
    zone: ZoneInfo
    closed: frozenset[date] = frozenset()

    def is_open(self, at_s: float) -> bool:
        """Whether the window is open at this Unix time."""
        local = _local(at_s, self.zone)
        today = local.date()
        if today in self.closed:
            return False
        minute = local.hour * 60 + local.minute
        yesterday = today - _DAY
        return any(
            (_begins_on(opening, today) and opening.begin <= minute < opening.end)
            or (
                _begins_on(opening, yesterday)
                and yesterday not in self.closed
                and minute + _MINUTES_OF_A_DAY < opening.end
            )
            for opening in self.openings
        )

    def next_change(self, at_s: float) -> float | None:
        """The first Unix time after this one at which the window opens or closes.

        None if it stays as it is for more than a year. Fast if it is asked again and again, as
        during a run.
        """
        from_s, until_s, change_s = self._last[0]
        if not from_s <= at_s < until_s:
            change_s = self._search(at_s)
            self._last[0] = at_s, at_s + 86_400 if change_s is None else change_s, change_s
        return change_s

    @cached_property
    def _last(self) -> list[tuple[float, float, float | None]]:
        """The last answer of `next_change`: from when to when it is right, and what it is."""
        return [(0.0, 0.0, None)]

    @cached_property
    def _following(self) -> Callable[[float], float | None]:
        """`next_change` for the times of changes, which are asked for again and again."""
        return lru_cache(maxsize=1000)(self._search)

    def _search(self, at_s: float) -> float | None:
        now = self.is_open(at_s)
        yesterday = _local(at_s, self.zone).date() - _DAY
        found: float | None = None
        for number in range(_LOOK_AHEAD_DAYS):
            changes = (
                moment
                for moment in self._moments(yesterday + number * _DAY)
                if moment > at_s and self.is_open(moment) != now
            )
            first = min(changes, default=None)
            if found is not None:
                # clocks that go back over midnight begin the day before once more
                return found if first is None else min(found, first)
            found = first
        return found

    def spans(self, begin_s: float, end_s: float) -> Iterator[tuple[float, float]]:
        """Yield the times in which the window is open, between two Unix times: from, to."""
        at_s, is_open = begin_s, self.is_open(begin_s)
        change_s = self.next_change(at_s)
        while change_s is not None and change_s < end_s:
            if is_open:
                yield at_s, change_s
            at_s, is_open = change_s, not is_open
            change_s = self._following(at_s)
        if is_open and at_s < end_s:
            yield at_s, end_s

    def open_s(self, begin_s: float, end_s: float) -> float:
        """For how many seconds the window is open between two Unix times."""
        return sum(until_s - from_s for from_s, until_s in self.spans(begin_s, end_s))

    def when_open_for(self, begin_s: float, needed_s: float) -> float | None:
        """The first Unix time by which the window has been open for that many seconds.

        None if that takes more than `LOOK_AHEAD_S`.

        Args:
            begin_s: since when.
            needed_s: how many; above 0.
        """
        left_s = needed_s
        for from_s, until_s in self.spans(begin_s, begin_s + LOOK_AHEAD_S):
            if left_s <= until_s - from_s:
                return from_s + left_s
            left_s -= until_s - from_s
        return None

    def since_open_for(self, end_s: float, needed_s: float) -> float | None:
        """The last Unix time since which the window is open for that many seconds.

        None if that is more than `LOOK_AHEAD_S` before the end.

        Args:
            end_s: until when.
            needed_s: how many; above 0.
        """
        left_s, begin_s, back_s = needed_s, end_s, _FIRST_LOOK_BACK_S
        while begin_s > end_s - LOOK_AHEAD_S:
            before_s = max(end_s - back_s, end_s - LOOK_AHEAD_S)
            for from_s, until_s in reversed([*self.spans(before_s, begin_s)]):
                if left_s <= until_s - from_s:
                    return until_s - left_s
                left_s -= until_s - from_s
            begin_s, back_s = before_s, 2 * back_s
        return None

    def _moments(self, day: date) -> Iterator[float]:
        """Every Unix time at which something may change because of this day."""
        yield from _unix_times(day, 0, self.zone)  # it may be closed
        for opening in self.openings:
            yield from _unix_times(day, opening.begin, self.zone)
            yield from _unix_times(day, opening.end % _MINUTES_OF_A_DAY, self.zone)
        # where daylight saving time begins or ends, the wall clock jumps over the moments above
        yield from _transitions(day, self.zone)


def opening(text: str) -> Opening:
    """Read an opening such as "Mon-Fri 22:00-05:00".

    Raises:
        ValueError: it is not one; the reason completes "window.open ...".
    """
    days_text, _, span = text.strip().partition(" ")
    match = _SPAN.fullmatch(span.strip())
    if match is None:
        raise ValueError(f'must be days and hours, such as "Mon-Fri 22:00-05:00", not "{text}"')
    from_hour, from_minute, to_hour, to_minute = map(int, match.groups())
    begin, end = from_hour * 60 + from_minute, to_hour * 60 + to_minute
    if max(from_minute, to_minute) > 59 or begin >= _MINUTES_OF_A_DAY or end > _MINUTES_OF_A_DAY:
        raise ValueError(f'has a time that does not exist: "{text}"')
    if begin == end:
        raise ValueError(f'has no hours: "{text}"; a whole day is 00:00-24:00')
    return Opening(_days(days_text), begin, end if end > begin else end + _MINUTES_OF_A_DAY)


def _days(text: str) -> frozenset[int]:
    """The days in "Mon", "Mon-Fri", "Fri-Mon" or "Mon,Wed,Fri"."""
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        names = (first, last) if dash else (first, first)
        try:
            begin, end = (DAYS.index(name.strip().capitalize()) for name in names)
        except ValueError:
            raise ValueError(f'names no day: "{text}"; days are {", ".join(DAYS)}') from None
        days.update((begin + number) % 7 for number in range((end - begin) % 7 + 1))
    return frozenset(days)


def _begins_on(each: Opening, day: date) -> bool:
    return day.weekday() in each.days


def _local(at_s: float, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(min(at_s, _LATEST_S), zone)


def _unix_times(day: date, minute: int, zone: ZoneInfo) -> Iterator[float]:
    """The Unix times at which the wall clock shows this; it may do so twice."""
    wall = datetime.combine(day, time()) + timedelta(minutes=minute)
    for fold in (0, 1):
        yield wall.replace(tzinfo=zone, fold=fold).timestamp()


def _transitions(day: date, zone: ZoneInfo) -> Iterator[float]:
    """The Unix time on this day at which the offset of the zone changes, if there is one."""
    low, high = (
        int(datetime.combine(each, time(), zone).timestamp()) for each in (day, day + _DAY)
    )
    before = _offset(low, zone)
    if before == _offset(high, zone):
        return
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle, zone) == before else (low, middle)
    yield float(high)


def _offset(at_s: int, zone: ZoneInfo) -> timedelta | None:
    return datetime.fromtimestamp(at_s, zone).utcoffset()
