"""Count arrivals over time: a vendor's rate limits, and the busiest second of a run.

In: arrival times in microseconds, in order of arrival. Out: yes or no, or a count. Nothing here
reads a clock, waits, or looks at what was requested.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from bulkcert.simulator.clock import SECOND_US


class Window(Protocol):
    """A limit on arrivals per second."""

    def admits(self, at_us: int) -> bool:
        """Whether an arrival at this time is within the limit. Counts it if it is."""


class SlidingWindow:
    """At most `limit` admitted arrivals in any window [t, t + 1 s).

    Args:
        limit: arrivals per second; 0 admits everything.
        counts_refused: refused arrivals also use up the limit.
    """

    def __init__(self, limit: int, *, counts_refused: bool = False) -> None:
        self._limit = limit
        self._counts_refused = counts_refused
        self._recent: deque[int] = deque()

    def admits(self, at_us: int) -> bool:
        if not self._limit:
            return True
        recent = self._recent
        while recent and at_us - recent[0] >= SECOND_US:
            recent.popleft()
        admitted = len(recent) < self._limit
        if admitted or self._counts_refused:
            recent.append(at_us)
        return admitted


class FixedWindow:
    """At most `limit` arrivals in each whole second; up to twice that across a boundary."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._second = 0
        self._count = 0

    def admits(self, at_us: int) -> bool:
        second = at_us // SECOND_US
        if second != self._second:
            self._second, self._count = second, 0
        if self._limit and self._count >= self._limit:
            return False
        self._count += 1
        return True


class TokenBucket:
    """A bucket of `limit` tokens, refilled at `limit` tokens per second."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._full_us = limit * SECOND_US
        self._level_us = self._full_us  # a token counts as SECOND_US, which keeps integers exact
        self._filled_at_us = 0

    def admits(self, at_us: int) -> bool:
        if not self._limit:
            return True
        gained_us = max(0, at_us - self._filled_at_us) * self._limit
        self._level_us = min(self._full_us, self._level_us + gained_us)
        self._filled_at_us = at_us
        if self._level_us < SECOND_US:
            return False
        self._level_us -= SECOND_US
        return True


class BusiestSecond:
    """The largest number of arrivals in any window [t, t + 1 s), exactly.

    Remembers the arrivals of one second only.
    """

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self.count = 0

    def add(self, at_us: int) -> None:
        """Count an arrival. It must not be earlier than the previous one."""
        recent = self._recent
        recent.append(at_us)
        while at_us - recent[0] >= SECOND_US:
            recent.popleft()
        self.count = max(self.count, len(recent))
