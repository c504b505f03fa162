"""When may the next request leave?

In: requests that are ready to leave, and what responses say about the pace. Out: one permission
after another.
Every request (attempt, look-up, token call) waits in `Pacer.depart` last, with its connection in
hand, so that nothing can delay it between the permission and the first byte.

The ceiling applies to *any* rolling second. Two mechanisms keep it. A token bucket, so small that
its capacity and its rate together stay below the ceiling, spaces the departures. A count of the
last second keeps the ceiling exact when the process was paused and the bucket catches up. Both stay
a little below the ceiling, because the network bunches requests that were sent evenly.

A response that throttles slows everybody down, but a single one among many good ones may be a
stray: the more good responses came since the last, the less it weighs. If the provider says how
long to wait, it is obeyed in any case.

With two limits, one for the account and one for each address that requests are sent from, the pacer
of each address has the account's pacer as its parent.

What others send counts too: a departure also takes a slot of each limit that is shared, with other
processes of this machine or with other hosts, see `SharedSlots` in `bulkcert.slots`.

An operator may set a lower limit for a while, see `Pacer.limit`. It concerns this process alone:
its slots stay as short as before, it only takes fewer of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable

from aiolimiter import AsyncLimiter

from bulkcert.jitter import DEFAULT, LONGEST_SPAN_S, Jitter
from bulkcert.model import Slowdown
from bulkcert.slots import Cut, SharedSlots
from bulkcert.timings import PacerTimings

UTILIZATION = DEFAULT
"""Share of the ceiling that the steady rate uses, unless more is known to arrive evenly."""

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

GOOD_TO_HALVE = 10
"""A throttled response weighs half after this many good ones since the last, a tenth after nine
times as many. Measured: with 0.3 % of strays and no Retry-After, 85 % of the rate remains."""

SAME_CUT_S = 0.5
"""What others report within this time of a cut of one's own is the same one: the slots that were
reserved by then reach less far."""

_NEVER = float("-inf")

_POLL_S = 0.01  # while late requests have taken all slots, or nothing may leave

_LONGEST_WAIT_S = 0.2  # before a stop is noticed


class StoppedError(ConnectionError):
    """Nothing leaves any more, because the run is being stopped."""


class Pacer:
    """Spaces departures evenly below a ceiling, and slows all of them when the provider asks.

    Args:
        ceiling: most departures in any rolling second.
        rng: source of jitter.
        utilization: share of the ceiling that the steady rate uses.
        parent: the pacer of a wider limit. What departs here departs there too, at the same moment,
            so that both ceilings are exact. It alone pauses, slows down and stops.
        timings: how long to pause, and how to climb back.
        elapsed_s: returns seconds since some moment, for the length of pauses; should also go on
            while this machine is suspended. The event loop's time unless given.
        slots: those of the limits that are shared with others. With a parent they are taken
            together with the parent's.
        may_leave: asked at the last moment before a departure; while it returns False, nothing
            leaves. A pacer with a parent leaves that to the parent.
        jitter: says how much of the ceiling may be used, once it knows; None for `utilization`
            alone. Only with slots.
    """

    def __init__(
        self,
        ceiling: float,
        rng: random.Random | None = None,
        *,
        utilization: float = UTILIZATION,
        parent: Pacer | None = None,
        timings: PacerTimings = PacerTimings(),
        elapsed_s: Callable[[], float] | None = None,
        slots: SharedSlots | None = None,
        may_leave: Callable[[], bool] = lambda: True,
        jitter: Jitter | None = None,
    ) -> None:
        self._timings = timings
        self._elapsed_s = elapsed_s or _loop_time
        self.ceiling = ceiling
        self._utilization = self._default_utilization = utilization
        self._jitter = jitter
        self.departures = 0
        self.throttled_responses = 0
        self._parent = parent
        self._children: list[Pacer] = []
        if parent:
            parent._children.append(self)
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._turn = asyncio.Lock()
        self._ready = 0  # requests that wait for their departure
        self._slots = slots
        self._heard: Cut | None = None
        self._reported = 0  # late requests
        self._may_leave = may_leave
        self._stopped = asyncio.Event()
        self._let_go = asyncio.Event()
        self._let_go.set()
        self._held_at = _NEVER  # elapsed seconds
        self._share = 1.0
        self._lowered_to: float | None = None  # the operator's limit
        self._limiter: AsyncLimiter
        self._made_for: tuple[float, float] | None = None  # limit and share, of the limiter
        self._spacing: asyncio.Timeout | None = None  # of the wait for the limiter
        self._resume_at = _NEVER  # this and the next are in elapsed seconds
        self._paused_s = 0.0  # all pauses together, including what is left of this one
        self._next_step_at = float("-inf")
        self._cut_at = float("-inf")  # the loop's time
        self._share_before = 1.0  # the last cut
        self._weight = 0.0  # of the heaviest response since the last cut
        self._good = 0  # responses since the last throttled one
        self._pauses_in_a_row = 0
        self._recent = _RollingSecond(_most_in_a_second(ceiling))

    async def depart(self, child: Pacer | None = None) -> float:
        """Wait for permission to send one request, and return the loop's time of departure.

        Args:
            child: the pacer of the narrower limit that has already given its permission.

        Raises:
            StoppedError: nothing leaves any more.
        """
        loop = asyncio.get_running_loop()
        self._ready += 1
        try:
            # one at a time, in order of arrival: no request overtakes another, even after a pause
            async with self._turn:
                await self._own_turn(loop, child)
                while self._must_wait:  # that began during the wait
                    await self._own_turn(loop, child)
                # What the inner limit permits now it also permits later, so the parent is asked
                # last.
                now = await self._parent.depart(self) if self._parent else loop.time()
                self._recent.add(now)
        finally:
            self._ready -= 1
        self.departures += 1
        return now

    async def _own_turn(self, loop: asyncio.AbstractEventLoop, child: Pacer | None) -> None:
        if self._parent is not None or self._must_wait:
            await self.pause_over()
            if not self._may_leave_now:
                await self._until_it_may_leave()
        self._check_stopped()
        if self._share < 1.0:
            self._climb()
        if not self._takes_slots or self._lowered_to is not None:
            await self._space()
        while (wait := self._wait_s(loop.time(), child)) > 0:
            await asyncio.sleep(min(wait, _LONGEST_WAIT_S))
            self._check_stopped()
        self._check_stopped()

    async def _until_it_may_leave(self) -> None:
        while not self._may_leave_now and not self._stopped.is_set():
            before = self.active_s
            await asyncio.sleep(_POLL_S)
            self._paused_s += max(0.0, self.active_s - before)  # as if held

    async def _space(self) -> None:
        """Wait until the steady rate permits a departure, also if that rate changes meanwhile."""
        while True:
            if self._made_for != (made_for := (self._limit, self._share)):
                self._limiter, self._made_for = await self._new_limiter(), made_for
            try:
                async with asyncio.timeout(None) as self._spacing:
                    await self._limiter.acquire()
                return
            except TimeoutError:
                continue  # the rate has changed
            finally:
                self._spacing = None

    @property
    def _must_wait(self) -> bool:
        return self.pause_left_s > 0 or self._held or not self._may_leave_now

    @property
    def _may_leave_now(self) -> bool:
        return self._parent is not None or self._may_leave()

    @property
    def _takes_slots(self) -> bool:
        return self._slots is not None and self._parent is None

    def _wait_s(self, now: float, child: Pacer | None) -> float:
        """Seconds until it is worth asking again; not above 0 if a departure is allowed now."""
        wait = self._recent.wait_s(now)
        return wait if wait > 0 or not self._takes_slots else self._take_slot(child)

    def _take_slot(self, child: Pacer | None) -> float:
        """Take a slot of each shared limit; return how long to wait if there is none yet."""
        assert self._slots is not None
        self._report_late()
        narrower = child._slots if child else None
        ready: int | None
        if child is not None and narrower is not None:
            child._report_late()
            # in the slots between those of one child, the others could not send
            ready = None if len(self._children) > 1 else self._permitted(child._ready)
        elif self._children:
            ready = self._permitted(sum(each._ready for each in self._children))
        else:
            ready = self._permitted(self._ready)
        wait = self._slots.take(ready, self._share, self._elapsed_s(), narrower)
        cut = self._slots.cut
        if cut is not self._heard and cut != self._heard:
            self._obey(cut)
        return wait

    def _report_late(self) -> None:
        late = self._recent.forfeited
        if late != self._reported and self._slots is not None:
            self._reported = late
            self._slots.report_late(late)

    def _permitted(self, ready: int) -> int:
        """How many of the requests that are ready may leave at once, the one whose turn it is
        included: slots that this process does not use are lost for all."""
        if self._lowered_to is None:
            return ready
        if self._made_for != (self._limit, self._share):
            return 1  # the limit has changed since its turn began
        more = range(1, ready)
        return next((n for n in more if not self._limiter.has_capacity(n)), max(1, ready))

    def _obey(self, cut: Cut) -> None:
        """Pause, and go on as slowly, as others who share the limit have been asked to."""
        self._heard = cut
        now = self._elapsed_s()
        cut_at = _loop_time() - (now - cut.at)
        if cut_at > self._cut_at:
            if cut_at > self._cut_at + SAME_CUT_S:
                self._pauses_in_a_row += 1
                self._share_before = self._share
            self._cut_at = cut_at
        steps = max(0.0, (now - cut.until) // self._timings.climb_every_s)
        share = round(min(1.0, cut.share + steps * self._timings.climb_step), 6)
        if share < self._share:
            self._share = share
            self._next_step_at = max(cut.until, now) + self._timings.climb_every_s
        if cut.until > now:
            self._pause_until(cut.until)
            self._distrust_jitter()

    @property
    def sharing(self) -> str:
        """With whom the ceiling is shared, for people; empty before anything was sent."""
        if self._slots is None or not (self.departures or self._slots.stuck):
            return ""
        return self._slots.sharing

    async def pause_over(self) -> None:
        """Wait until the pause is over and nothing is held, or the run is being stopped."""
        if self._parent:
            await self._parent.pause_over()
        while self._held and not self._stopped.is_set():
            await self._let_go.wait()
        # the end of the pause may move in the meantime
        while (pause_s := self.pause_left_s) > 0 and not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause_s, self._timings.longest_sleep_s)):
                    await self._stopped.wait()

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError("the run is being stopped")

    def limit(self, rate: float | None) -> None:
        """Lower the ceiling of this process for a while, as its operator wants it.

        It is in force at once: nothing leaves any more that would be too much for the second before
        it. Pauses and slowdowns by the provider go on below it, as they do below the ceiling.

        Args:
            rate: most departures in any rolling second, above 0; the ceiling if that is lower. None
                for the ceiling alone.
        """
        if self._parent:
            self._parent.limit(rate)
            return
        lowered_to = rate if rate is not None and rate < self.ceiling else None
        if lowered_to == self._lowered_to:
            return
        self._lowered_to = lowered_to
        self._follow_jitter()
        if self._spacing is not None and not self._spacing.expired():
            # who waits for the old rate begins to wait for the new one
            self._spacing.reschedule(_loop_time())

    @property
    def lowered_to(self) -> float | None:
        """The limit that an operator has set below the ceiling; None if there is none."""
        return self._lowered_to

    def _follow_jitter(self) -> None:
        """Use as much of the ceiling as is known to arrive evenly."""
        allowance = self._jitter.allowance if self._jitter else None
        utilization = allowance.utilization if allowance else self._default_utilization
        if self._slots is not None:
            self._slots.use(utilization)
        if allowance and self._lowered_to is None:
            self._utilization = utilization
            self._recent.allowed, self._recent.span_s = allowance.departures, allowance.span_s
        else:
            self._utilization = self._default_utilization
            self._recent.allowed, self._recent.span_s = _most_in_a_second(self._limit), 1.0

    def _distrust_jitter(self) -> None:
        if self._jitter is not None and self._jitter.distrust():
            self._follow_jitter()

    @property
    def utilization(self) -> float:
        """Share of the ceiling that the steady rate uses."""
        return self._utilization

    @property
    def utilization_reason(self) -> str:
        """That share and why it was chosen, for people; empty if it is the default as ever."""
        return self._jitter.reason if self._jitter and self._lowered_to is None else ""

    @property
    def _limit(self) -> float:
        """The ceiling in force."""
        return self.ceiling if self._lowered_to is None else self._lowered_to

    def stop(self) -> None:
        """Let nothing leave any more, and let nobody wait for the end of a pause."""
        self._stopped.set()
        self._let_go.set()

    def hold(self) -> None:
        """Let nothing leave until `let_go`."""
        if not self._held:
            self._let_go.clear()
            self._held_at = self._elapsed_s()

    def let_go(self) -> None:
        """End what `hold` began."""
        if self._held:
            self._paused_s += self._held_s
            self._let_go.set()

    @property
    def _held(self) -> bool:
        return not self._let_go.is_set()

    @property
    def _held_s(self) -> float:
        """How long nothing has left because it is held, and not because of a pause."""
        since = max(self._held_at, self._resume_at)
        return max(0.0, self._elapsed_s() - since) if self._held else 0.0

    def throttled(self, departed_at: float, retry_after_s: float | None = None) -> float:
        """Pause all departures because the provider throttled a request.

        Args:
            departed_at: when that request left. One that left before the rate was last cut says
                nothing about the rate since: it may lengthen the pause and make the cut deeper, but
                cuts no second time.
            retry_after_s: how long the provider asked to wait.

        Returns:
            Seconds until the pause ends.
        """
        if self._parent:
            return self._parent.throttled(departed_at, retry_after_s)
        self.throttled_responses += 1
        self._distrust_jitter()
        pause_s = self._cut(departed_at)
        if retry_after_s is not None:
            # jitter on top: other clients of the account may have been told the same time
            pause_s = min(retry_after_s, self._timings.longest_obeyed_s) + self._rng.uniform(0, 0.1)
        self._pause_until(self._elapsed_s() + pause_s)
        if self._slots is not None and self.pause_left_s > 0:
            departed_s = self._elapsed_s() - (_loop_time() - departed_at)
            self._slots.slow_down(Cut(departed_s, self._resume_at, self._share))
        step_s = self._timings.climb_every_s * self._weight
        self._next_step_at = max(self._next_step_at, self._resume_at + step_s)
        return self._resume_at - self._elapsed_s()

    def _pause_until(self, resume_at: float) -> None:
        if self._held:  # up to now it was the hold that let nothing leave
            self._paused_s += self._held_s
            self._held_at = self._elapsed_s()
        self._paused_s += max(0.0, resume_at - max(self._resume_at, self._elapsed_s()))
        self._resume_at = max(self._resume_at, resume_at)

    def _cut(self, departed_at: float) -> float:
        """Lower the rate; return how long to pause if the provider does not say, in seconds."""
        weight = 1 / (1 + self._good / GOOD_TO_HALVE)
        self._good = 0
        if departed_at > self._cut_at:
            self._cut_at = _loop_time()
            self._share_before = self._share
            self._weight = 0.0
            self._pauses_in_a_row += 1
        if weight <= self._weight:
            return 0.0
        self._weight = weight
        share = self._share_before * (1 - (1 - BACKOFF_FACTOR) * weight)
        self._share = min(self._share, max(share, LOWEST_SHARE))
        doublings = min(self._pauses_in_a_row - 1, 20)  # thousands would overflow a float
        longest_s = min(self._timings.first_pause_s * 2**doublings, self._timings.longest_pause_s)
        return weight * self._rng.uniform(longest_s / 2, longest_s)

    def accepted(self, departed_at: float) -> None:
        """Count a response that did not throttle: those that follow weigh less, and the next pause
        is shorter again.

        Args:
            departed_at: when its request left.
        """
        if self._parent:
            self._parent.accepted(departed_at)
            return
        self._good += 1
        if departed_at > self._cut_at and self._pauses_in_a_row > 0:
            self._pauses_in_a_row -= 1
        if self._jitter is not None:
            now = _loop_time()
            if self._jitter.add(now - departed_at, now):
                self._follow_jitter()

    def forfeit(self) -> None:
        """Give up a slot of the rolling second, because a request that has left may not have
        arrived: the network may deliver it at any moment, together with others.

        The slot is free again a second after `arrived`, which must follow.
        """
        self._recent.late += 1
        self._report_late()
        if self._parent:
            self._parent.forfeit()

    def arrived(self) -> None:
        """End one `forfeit`: the request has arrived by now."""
        self._recent.arrived(_loop_time())
        if self._parent:
            self._parent.arrived()

    @property
    def slowdown(self) -> Slowdown | None:
        """How the provider has slowed this process down; None if it has not, or no longer."""
        if self._share == 1.0 and self.pause_left_s == 0:
            return None
        return Slowdown(self._resume_at - self._elapsed_s(), self._share)

    def resume(self, slowdown: Slowdown) -> None:
        """Go on as slowly as an earlier process."""
        self._share = slowdown.share
        self._pause_until(self._elapsed_s() + slowdown.pause_s)
        if self._slots is not None and self.pause_left_s > 0:
            self._slots.slow_down(Cut(_NEVER, self._resume_at, self._share))
        self._next_step_at = self._resume_at + self._timings.climb_every_s

    @property
    def pause_left_s(self) -> float:
        """Seconds until the current pause ends, 0 when there is none."""
        if self._resume_at == _NEVER:
            return 0.0  # without asking for the time
        return max(0.0, self._resume_at - self._elapsed_s())

    @property
    def active_s(self) -> float:
        """A clock that stands still while nothing may leave: what fails can't be tried again."""
        if self._resume_at == _NEVER and not self._held:
            return self._elapsed_s() - self._paused_s
        return self._elapsed_s() - self._paused_s - self._held_s + self.pause_left_s

    @property
    def busiest_second(self) -> int:
        """Most departures in any rolling second so far."""
        return self._recent.most

    @property
    def rate(self) -> float:
        """Departures per second when always busy, as of now."""
        return self._limit * self._utilization * self._share

    @property
    def slowed(self) -> bool:
        """Whether the rate has not yet climbed back to its full height."""
        return self._share < 1.0

    def _climb(self) -> None:
        now = self._elapsed_s()
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
        capacity = max(1.0 + self.rate * TIMER_SLACK_S, self._limit * BURST)
        limiter = AsyncLimiter(capacity, capacity / self.rate)
        await limiter.acquire(capacity)  # nothing was missed yet, so begin without a burst
        return limiter


class _RollingSecond:
    """Counts the departures of the last second, and keeps them from exceeding `allowed`.

    Attributes:
        allowed: most departures in any `span_s`.
        span_s: a second, or a little more: what arrives within a second may have left in that time.
        most: most departures in any rolling second.
        late: requests that have left, but may not have arrived; each of them takes a slot.
    """

    def __init__(self, allowed: int) -> None:
        self.most = 0
        self.late = 0
        self.allowed = allowed
        self.span_s = 1.0
        self._times: deque[float] = deque()
        self._older = 0  # so many of them are more than a second ago
        self._arrivals: deque[float] = deque()  # of late requests

    @property
    def forfeited(self) -> int:
        """Slots that late requests take, or took a moment ago."""
        return self.late + len(self._arrivals)

    def wait_s(self, now: float) -> float:
        """Seconds until it is worth asking again; not above 0 if a departure is allowed now."""
        while self._arrivals and self._arrivals[0] <= now - self.span_s:
            self._arrivals.popleft()
        allowed = self.allowed - self.forfeited
        if allowed <= 0:
            return _POLL_S
        if len(self._times) < allowed:
            return 0.0
        return self._times[-allowed] + self.span_s - now

    def add(self, now: float) -> None:
        """Count a departure."""
        times = self._times
        times.append(now)
        while times[0] <= now - LONGEST_SPAN_S:
            times.popleft()
            self._older -= 1
        self._older = max(0, self._older)
        while times[self._older] <= now - 1.0:
            self._older += 1
        self.most = max(self.most, len(times) - self._older)

    def arrived(self, now: float) -> None:
        """Count the arrival of a late request."""
        self.late -= 1
        self._arrivals.append(now)


def _most_in_a_second(ceiling: float) -> int:
    return max(1, int(ceiling) - int(ceiling * HEADROOM))


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
