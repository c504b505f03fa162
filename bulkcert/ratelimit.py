"""When may the next request leave?

Everything that is sent (attempts, look-ups, token calls) calls `Pacer.depart` last, with its
connection in hand, so that between the permission and the first byte nothing waits any more.

The ceiling holds for *any* rolling second, so the bucket must be small: a bucket of capacity c that
leaks at r per second lets at most c + r pass in a second. The pacer aims at `AIM` of the ceiling;
what is left is for the jitter of the network, which crowds evenly sent requests together.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

from aiolimiter import AsyncLimiter

AIM = 0.978
"""Share of the ceiling that the steady rate uses."""

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
LONGEST_OBEYED_S = 3600.0
"""A provider's own wish to wait is obeyed up to this many seconds, then it is asked again."""

CUT = 0.5
STEP = 0.1
STEP_EVERY_S = 1.0
"""After a throttled answer the rate is cut by half and climbs back by a tenth each second."""


class Pacer:
    """Spaces departures evenly below a ceiling, and slows all of them when the provider asks.

    Args:
        ceiling: most departures in any rolling second.
        rng: source of jitter.
    """

    def __init__(self, ceiling: float, rng: random.Random | None = None) -> None:
        self.ceiling = ceiling
        self.departures = 0
        self.throttled_answers = 0
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._turn = asyncio.Lock()
        self._share = 1.0
        self._limiter = _limiter(ceiling)
        self._resume_at = 0.0
        self._cut_at = float("-inf")
        self._next_step_at = 0.0
        self._pauses_in_a_row = 0
        self._recent = _RollingSecond()

    async def depart(self) -> float:
        """Wait for permission to send one request, and return the loop's time of departure."""
        loop = asyncio.get_running_loop()
        # one at a time, in order of arrival: behind a pause nobody overtakes
        async with self._turn:
            while (pause := self._resume_at - loop.time()) > 0:
                await asyncio.sleep(pause)
            if self._share < 1.0:
                self._climb(loop.time())
            await self._limiter.acquire()
        now = loop.time()
        self.departures += 1
        self._recent.add(now)
        return now

    def throttled(self, departed_at: float, retry_after_s: float | None = None) -> float:
        """Pause everybody because the provider turned a request away; return the pause in seconds.

        Args:
            departed_at: when that request left. Requests that left before the last cut say nothing
                about the rate since, so they lengthen the pause at most.
            retry_after_s: what the provider asked for.
        """
        self.throttled_answers += 1
        now = asyncio.get_running_loop().time()
        news = departed_at >= self._cut_at
        if news:
            self._cut_at = now
            self._set_share(max(self._share * CUT, 0.02))
            self._pauses_in_a_row += 1
        if retry_after_s is not None:
            # jitter on top: many clients of one account were told the same moment
            pause_s = min(retry_after_s, LONGEST_OBEYED_S) + self._rng.uniform(0, 0.1)
        elif news:
            longest = min(FIRST_PAUSE_S * 2 ** (self._pauses_in_a_row - 1), LONGEST_PAUSE_S)
            pause_s = self._rng.uniform(longest / 2, longest)
        else:
            pause_s = 0.0
        self._resume_at = max(self._resume_at, now + pause_s)
        self._next_step_at = self._resume_at + STEP_EVERY_S
        return self._resume_at - now

    @property
    def pause_left_s(self) -> float:
        """Seconds until the current pause ends, 0 when there is none."""
        return max(0.0, self._resume_at - asyncio.get_running_loop().time())

    @property
    def busiest_second(self) -> int:
        """Most departures in any rolling second so far."""
        return self._recent.most

    @property
    def rate(self) -> float:
        """Departures per second that are aimed at now."""
        return self._limiter.max_rate / self._limiter.time_period

    def _climb(self, now: float) -> None:
        if now >= self._next_step_at:
            self._set_share(min(1.0, self._share + STEP))
            self._next_step_at = now + STEP_EVERY_S
            if self._share == 1.0:
                self._pauses_in_a_row = 0

    def _set_share(self, share: float) -> None:
        if share != self._share:
            self._share = share
            self._limiter = _limiter(self.ceiling, share)


def _limiter(ceiling: float, share: float = 1.0) -> AsyncLimiter:
    rate = ceiling * AIM * share
    # Timers have a grain of 1 ms, so a bucket of one would lose time at each departure; a bucket
    # that takes up 10 ms makes up for that. It must fit into what AIM leaves below the ceiling.
    capacity = max(1.0, min(ceiling * (1 - AIM), max(5.0, ceiling / 100)) // 1)
    return AsyncLimiter(capacity, capacity / rate)


class _RollingSecond:
    """Counts events in the last second, and remembers the most."""

    def __init__(self) -> None:
        self.most = 0
        self._times: deque[float] = deque()

    def add(self, now: float) -> None:
        times = self._times
        times.append(now)
        while times[0] <= now - 1.0:
            times.popleft()
        self.most = max(self.most, len(times))
