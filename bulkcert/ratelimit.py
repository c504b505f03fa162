"""When may the next request leave?

In: requests that are ready to leave, and throttled responses. Out: one permission after another.
Every request (attempt, look-up, token call) waits in `Pacer.depart` last, with its connection in
hand, so that nothing can delay it between the permission and the first byte.

The ceiling applies to *any* rolling second. Two mechanisms keep it. A token bucket, so small that
its capacity and its rate together stay below the ceiling, spaces the departures. A count of the
last second keeps the ceiling exact when the process was paused and the bucket catches up. Both stay
a little below the ceiling, because the network bunches requests that were sent evenly.

With two limits, one for the account and one for each address that requests are sent from, the pacer
of each address has the account's pacer as its parent.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque

from aiolimiter import AsyncLimiter

from bulkcert.timings import PacerTimings

UTILIZATION = 0.975
"""Share of the ceiling that the steady rate uses."""

CAUTIOUS_UTILIZATION = 0.95
"""The same where exceeding the limit gets an address blocked, not just a request throttled: what
left evenly may arrive with 50 ms of jitter and still be within the ceiling."""

HEADROOM = 0.02
"""Share of the ceiling that even the busiest second leaves unused."""

BURST = 0.02
"""Capacity of the bucket as a share of the ceiling: what was missed in 20 ms is caught up."""

TIMER_SLACK_S = 0.002
"""How late each timer may fire without lowering the rate."""

BACKOFF_FACTOR = 0.5
"""A throttled response multiplies the rate by this; then it climbs back step by step."""

LOWEST_SHARE = 0.02
"""Share of the full rate below which throttled responses do not lower it."""


class Pacer:
    """Spaces departures evenly below a ceiling, and slows all of them when the provider asks.

    Args:
        ceiling: most departures in any rolling second.
        rng: source of jitter.
        utilization: share of the ceiling that the steady rate uses.
        parent: the pacer of a wider limit. What departs here departs there too, at the same moment,
            so that both ceilings are exact. It alone pauses and slows down.
        timings: how long to pause, and how to climb back.
    """

    def __init__(
        self,
        ceiling: float,
        rng: random.Random | None = None,
        *,
        utilization: float = UTILIZATION,
        parent: Pacer | None = None,
        timings: PacerTimings = PacerTimings(),
    ) -> None:
        self._timings = timings
        self.ceiling = ceiling
        self._utilization = utilization
        self.departures = 0
        self.throttled_responses = 0
        self._parent = parent
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._turn = asyncio.Lock()
        self._share = 1.0
        self._limiter: AsyncLimiter
        self._limited_to: float | None = None  # the share that the limiter was made for
        self._resume_at = 0.0
        self._cut_at = float("-inf")
        self._next_step_at = 0.0
        self._pauses_in_a_row = 0
        self._recent = _RollingSecond(max(1, int(ceiling) - int(ceiling * HEADROOM)))

    async def depart(self) -> float:
        """Wait for permission to send one request, and return the loop's time of departure."""
        loop = asyncio.get_running_loop()
        # one at a time, in order of arrival: no request overtakes another, even after a pause
        async with self._turn:
            await self._own_turn(loop)
            while loop.time() < self._resume_at:  # a pause began during the wait
                await self._own_turn(loop)
            # What the inner limit permits now it also permits later, so the parent is asked last.
            now = await self._parent.depart() if self._parent else loop.time()
            self._recent.add(now)
        self.departures += 1
        return now

    async def _own_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        # the end of the pause may move in the meantime
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
        """Pause all departures because the provider throttled a request.

        Args:
            departed_at: when that request left. One that left before the rate was last cut says
                nothing about the rate since: it may lengthen the pause, but cuts nothing.
            retry_after_s: how long the provider asked to wait.

        Returns:
            Seconds until the pause ends.
        """
        if self._parent:
            return self._parent.throttled(departed_at, retry_after_s)
        self.throttled_responses += 1
        now = asyncio.get_running_loop().time()
        since_cut = departed_at > self._cut_at
        if since_cut:
            self._cut_at = now
            self._share = max(self._share * BACKOFF_FACTOR, LOWEST_SHARE)
            self._pauses_in_a_row += 1
        if retry_after_s is not None:
            # jitter on top: other clients of the account may have been told the same time
            pause_s = min(retry_after_s, self._timings.longest_obeyed_s) + self._rng.uniform(0, 0.1)
        elif since_cut:
            doublings = min(self._pauses_in_a_row - 1, 20)  # thousands would overflow a float
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
        """Departures per second when always busy, as of now."""
        return self.ceiling * self._utilization * self._share

    @property
    def slowed(self) -> bool:
        """Whether the rate has not yet climbed back to its full height."""
        return self._share < 1.0

    def _climb(self, now: float) -> None:
        # several steps may be due: at a low rate seconds pass without a departure
        while self._share < 1.0 and now >= self._next_step_at:
            # rounded, because tenths must add up to 1
            self._share = min(1.0, round(self._share + self._timings.climb_step, 6))
            self._next_step_at += self._timings.climb_every_s
        if self._share == 1.0:
            self._pauses_in_a_row = 0

    async def _new_limiter(self) -> AsyncLimiter:
        # Timers have a resolution of 1 ms, and processes pause now and then. What was missed is
        # caught up from the bucket, but never more than its capacity.
        capacity = max(1.0 + self.rate * TIMER_SLACK_S, self.ceiling * BURST)
        limiter = AsyncLimiter(capacity, capacity / self.rate)
        await limiter.acquire(capacity)  # nothing was missed yet, so begin without a burst
        return limiter


class _RollingSecond:
    """Counts the departures of the last second, and keeps them from exceeding `allowed`."""

    def __init__(self, allowed: int) -> None:
        self.most = 0
        self._allowed = allowed
        self._times: deque[float] = deque()

    def wait_s(self, now: float) -> float:
        """Seconds until one more departure is allowed; not above 0 if that is now."""
        if len(self._times) < self._allowed:
            return 0.0
        return self._times[-self._allowed] + 1.0 - now

    def add(self, now: float) -> None:
        """Count a departure."""
        self._forget(now)
        self._times.append(now)
        self.most = max(self.most, len(self._times))

    def _forget(self, now: float) -> None:
        times = self._times
        while times and times[0] <= now - 1.0:
            times.popleft()
