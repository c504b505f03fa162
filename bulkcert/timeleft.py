"""How long a run will still take, pauses included.

In: now and then, how many operations are settled. Out: seconds. On a clock that is passed in, so
that it can be tested without waiting.

Pauses come back: a provider that throttles makes a run pause again and again, so the rate of the
last minute includes them. But a pause of an hour, after which the run goes on as before, says
little about the minutes that follow; only its first half minute counts.
"""

from __future__ import annotations

from collections import deque

SPAN_S = 60.0
"""The estimate follows from how fast operations were settled in this many seconds."""

SHORTEST_S, FEWEST, LONG_S = 3.0, 10, 10.0
"""There is no estimate before this time, nor, for a while, from fewer operations than this: the
first responses say little about those that follow."""

LONGEST_COUNTED_S = 30.0
"""Of a single pause, or of a time in which this machine was suspended, this much counts."""


class TimeLeft:
    """Estimates the time left of a run.

    Args:
        now: the time in seconds, since some moment.
        settled: number of settled operations at that time.
    """

    def __init__(self, now: float, settled: int) -> None:
        self._now = now
        self._counted_s = 0.0  # the time so far, without what does not count
        self._paused_s = 0.0  # how long the current pause has lasted
        self._ticks = deque([(0.0, settled)])

    def observe(self, now: float, settled: int, *, paused: bool, held: bool = False) -> None:
        """Observe the progress.

        Args:
            now: the time.
            settled: number of settled operations.
            paused: nothing has left since the last call, because all requests have to pause.
            held: nothing has left, because of the rules of the run. That time does not count at
                all: it says nothing about how fast the run is.
        """
        elapsed_s, self._now = now - self._now, now
        if held:
            return
        before_s = self._paused_s
        self._paused_s = before_s + elapsed_s if paused else 0.0
        counts_s = max(0.0, LONGEST_COUNTED_S - before_s) if paused else LONGEST_COUNTED_S
        self._counted_s += min(elapsed_s, counts_s)
        self._ticks.append((self._counted_s, settled))
        while len(self._ticks) > 2 and self._ticks[1][0] <= self._counted_s - SPAN_S:
            self._ticks.popleft()

    def seconds(
        self, left: int, pause_left_s: float = 0.0, wait_left_s: float = 0.0
    ) -> float | None:
        """Return the time left; None if there is no estimate yet.

        Args:
            left: number of operations that are not settled.
            pause_left_s: how long the current pause will last.
            wait_left_s: how long the last of the operations waits that are looked up or sent again
                later.
        """
        if not left:
            return 0.0
        (then_s, settled_then), (now_s, settled) = self._ticks[0], self._ticks[-1]
        done = settled - settled_then
        span_s = now_s - then_s
        if done <= 0 or span_s < SHORTEST_S or (done < FEWEST and span_s < LONG_S):
            return None
        return max(pause_left_s + left * span_s / done, wait_left_s)
