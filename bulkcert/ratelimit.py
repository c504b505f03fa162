"""When may the next request leave?

Everything that is sent (attempts, look-ups, token calls) calls `Pacer.depart` last, with its
connection in hand, so that between the permission and the first byte nothing waits any more.

The ceiling holds for *any* rolling second. Two things see to that: a bucket so small that its
capacity and its rate together stay at the ceiling, which spaces the departures; and a count of the
last second, which keeps the ceiling exact after a pause of the process, when the bucket catches up.
Both aim a little below the ceiling, because the network crowds evenly sent requests together.

Where there are two limits, one for the account and one for each address that it sends from, an
address has a pacer that stands under the account's.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

from aiolimiter import AsyncLimiter

from bulkcert.timings import PacerTimings

AIM = 0.975
"""Share of the ceiling that the steady rate uses."""

CAUTIOUS_AIM = 0.95
"""The same where going beyond means to be blocked, and not just to be turned away: what left evenly
may arrive with 50 ms of jitter, and still be within the ceiling."""

SPARED = 0.02
"""Share of the ceiling that even the busiest second leaves unused."""

CATCH_UP = 0.02
"""Capacity of the bucket as a share of the ceiling."""

LATE_S = 0.002
"""How late each timer may be without lowering the rate."""

CUT = 0.5
"""What a throttled response leaves of the rate, which then climbs back step by step."""


class Pacer:
    """Spaces departures evenly below a ceiling, and slows all of them when the provider asks.

    Args:
        ceiling: most departures in any rolling second.
        rng: source of jitter.
        aim: share of the ceiling that the steady rate uses.
        above: the pacer that this one stands under: what departs here departs there too, at the
            same moment, so that the ceilings of both are exact. Pauses are its business alone.
        timings: how long to pause, and how to climb back.
    """

    def __init__(
        self,
        ceiling: float,
        rng: random.Random | None = None,
        *,
        aim: float = AIM,
        above: Pacer | None = None,
        timings: PacerTimings = PacerTimings(),
    ) -> None:
        self._timings = timings
        self.ceiling = ceiling
        self._aim = aim
        self.departures = 0
        self.throttled_answers = 0
        self._above = above
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._turn = asyncio.Lock()
        self._share = 1.0
        self._limiter: AsyncLimiter
        self._limited_to: float | None = None  # the share that the limiter was made for
        self._resume_at = 0.0
        self._cut_at = float("-inf")
        self._next_step_at = 0.0
        self._pauses_in_a_row = 0
        self._recent = _RollingSecond(max(1, int(ceiling) - int(ceiling * SPARED)))

    async def depart(self) -> float:
        """Wait for permission to send one request, and return the loop's time of departure."""
        loop = asyncio.get_running_loop()
        # one at a time, in order of arrival: behind a pause nobody overtakes
        async with self._turn:
            await self._own_turn(loop)
            while loop.time() < self._resume_at:  # a pause began during the wait
                await self._own_turn(loop)
            # what is allowed here now is allowed later all the more
            now = await self._above.depart() if self._above else loop.time()
            self._recent.add(now)
        self.departures += 1
        return now

    async def _own_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        # the end of the pause may move meanwhile
        while (pause := self._resume_at - loop.time()) > 0:  # noqa: ASYNC110 - a time, not a state
            await asyncio.sleep(pause)
        if self._share < 1.0:
            self._climb(loop.time())
        if self._limited_to != self._share:
            self._limiter, self._limited_to = await self._new_limiter(), self._share
        await self._limiter.acquire()
        while (wait := self._recent.wait_s(loop.time())) > 0:  # noqa: ASYNC110 - likewise
            await asyncio.sleep(wait)

    def throttled(self, departed_at: float, retry_after_s: float | None = None) -> float:
        """Pause everybody because the provider turned a request away; return the pause in seconds.

        Args:
            departed_at: when that request left. Requests that left by the last cut say nothing
                about the rate since, so they lengthen the pause at most.
            retry_after_s: what the provider asked for.
        """
        if self._above:
            return self._above.throttled(departed_at, retry_after_s)
        self.throttled_answers += 1
        now = asyncio.get_running_loop().time()
        news = departed_at > self._cut_at
        if news:
            self._cut_at = now
            self._share = max(self._share * CUT, 0.02)
            self._pauses_in_a_row += 1
        if retry_after_s is not None:
            # jitter on top: many clients of one account were told the same moment
            pause_s = min(retry_after_s, self._timings.longest_obeyed_s) + self._rng.uniform(0, 0.1)
        elif news:
            doublings = min(self._pauses_in_a_row - 1, 20)  # a float has no room for thousands
            longest = min(self._timings.first_pause_s * 2**doublings, self._timings.longest_pause_s)
            pause_s = self._rng.uniform(longest / 2, longest)
        else:
            pause_s = 0.0
        self._resume_at = max(self._resume_at, now + pause_s)
        self._next_step_at = self._resume_at + self._timings.climb_every_s
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
        return self.ceiling * self._aim * self._share

    @property
    def slowed(self) -> bool:
        """The rate has not climbed back to its full height."""
        return self._share < 1.0

    def _climb(self, now: float) -> None:
        # at a low rate nobody may have asked for several seconds
        while self._share < 1.0 and now >= self._next_step_at:
            self._share = min(
                1.0, round(self._share + self._timings.climb_step, 6)
            )  # tenths must add up to 1
            self._next_step_at += self._timings.climb_every_s
        if self._share == 1.0:
            self._pauses_in_a_row = 0

    async def _new_limiter(self) -> AsyncLimiter:
        # Timers have a grain of 1 ms and processes pause now and then; what is missed in 20 ms is
        # caught up out of the bucket, and what the grain makes late at the least.
        capacity = max(1.0 + self.rate * LATE_S, self.ceiling * CATCH_UP)
        limiter = AsyncLimiter(capacity, capacity / self.rate)
        await limiter.acquire(capacity)  # nothing was missed yet: begin without a burst
        return limiter


class _RollingSecond:
    """Counts departures in the last second, and keeps them from exceeding `allowed`."""

    def __init__(self, allowed: int) -> None:
        self.most = 0
        self._allowed = allowed
        self._times: deque[float] = deque()

    def wait_s(self, now: float) -> float:
        """Seconds until one more is allowed."""
        self._forget(now)
        if len(self._times) < self._allowed:
            return 0.0
        return self._times[-self._allowed] + 1.0 - now

    def add(self, now: float) -> None:
        """Take note of a departure."""
        self._forget(now)
        self._times.append(now)
        self.most = max(self.most, len(self._times))

    def _forget(self, now: float) -> None:
        times = self._times
        while times and times[0] <= now - 1.0:
            times.popleft()
