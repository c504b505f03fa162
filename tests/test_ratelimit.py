"""The pacer: no rolling second above the ceiling, no overtaking, and how it gives way to 429.

All on a virtual clock. `Sender` stands in for everything that sends; what it records is the oracle,
never the pacer's own figures.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rolling_second import busiest
from virtual_time import run_virtually, settle, stall

from bulkcert.model import Slowdown
from bulkcert.ratelimit import (
    CAUTIOUS_UTILIZATION,
    UTILIZATION,
    Pacer,
    StoppedError,
)
from bulkcert.timings import PacerTimings

CEILINGS = [0.5, 1, 1.5, 2, 3, 7.3, 10, 49, 50, 75, 99, 100, 128.5, 500, 777, 2000, 5000]
BUSY_CEILINGS = [ceiling for ceiling in CEILINGS if ceiling >= 50]


class Sender:
    """Sends through a pacer, and records when each request left."""

    def __init__(
        self,
        ceiling: float,
        seed: int = 0,
        parent: Pacer | None = None,
        utilization: float = UTILIZATION,
    ) -> None:
        self.pacer = Pacer(ceiling, random.Random(seed), utilization=utilization, parent=parent)
        self.times: list[float] = []
        self.order: list[int] = []
        self._asked = 0

    async def send(self) -> float:
        number = self._asked
        self._asked += 1
        departed_at = await self.pacer.depart()
        # on a virtual clock the permission and its use are one instant
        assert departed_at == now()
        self.times.append(departed_at)
        self.order.append(number)
        return departed_at

    async def send_for(self, seconds: float) -> int:
        """Send without a break; return how many requests left."""
        end, before = now() + seconds, len(self.times)
        while now() < end:
            await self.send()
        return len(self.times) - before

    def start(self, count: int) -> list[asyncio.Task[float]]:
        return [asyncio.create_task(self.send()) for _ in range(count)]


def now() -> float:
    return asyncio.get_running_loop().time()


def allowed_in_a_second(ceiling: float) -> int:
    """Below a ceiling of 1, a single request still leaves now and then."""
    return max(1, int(ceiling))


# ---- the ceiling


@pytest.mark.parametrize("ceiling", CEILINGS)
def test_no_rolling_second_is_above_the_ceiling_when_always_busy(ceiling: float) -> None:
    async def scene() -> None:
        sender = Sender(ceiling)
        await sender.send_for(max(3.0, 10 / ceiling))
        assert busiest(sender.times) <= allowed_in_a_second(ceiling)
        assert busiest(sender.times) == sender.pacer.busiest_second
        assert len(sender.times) == sender.pacer.departures

    run_virtually(scene())


@pytest.mark.parametrize("ceiling", [0.5, 0.9, 1, 1.5, 2])
def test_a_low_ceiling_is_kept_over_longer_windows_as_well(ceiling: float) -> None:
    async def scene() -> None:
        sender = Sender(ceiling)
        await sender.send_for(100)
        assert busiest(sender.times, 1 / ceiling) == 1
        # and it is used, as far as whole requests per second allow
        assert len(sender.times) >= 100 * 0.95 * max(min(ceiling, 1), int(ceiling))

    run_virtually(scene())


@pytest.mark.parametrize("grain_s", [0.0, 0.001], ids=["exact timers", "timers of 1 ms"])
@pytest.mark.parametrize("ceiling", BUSY_CEILINGS)
def test_the_mean_is_at_least_97_percent_when_always_busy(ceiling: float, grain_s: float) -> None:
    async def scene() -> None:
        seconds = 10 if ceiling < 1000 else 3
        assert await Sender(ceiling).send_for(seconds) >= 0.97 * ceiling * seconds

    run_virtually(scene(), grain_s=grain_s)


@pytest.mark.parametrize("ceiling", [200, 500, 5000])
def test_short_stalls_of_the_process_cost_nothing(ceiling: float) -> None:
    async def scene() -> None:
        sender, rng = Sender(ceiling), random.Random(1)
        sending = asyncio.create_task(sender.send_for(4))
        while not sending.done():
            await asyncio.sleep(rng.uniform(0.02, 0.1))
            stall(rng.uniform(0.0, 0.012))
        assert await sending >= 0.97 * ceiling * 4
        assert busiest(sender.times) <= ceiling

    run_virtually(scene(), grain_s=0.001)


@pytest.mark.parametrize("ceiling", CEILINGS)
def test_there_is_no_burst_at_the_start(ceiling: float) -> None:
    async def scene() -> None:
        sender = Sender(ceiling)
        began_at = now()
        await asyncio.gather(*sender.start(max(3, int(ceiling / 10))))
        for sent, time in enumerate(sender.times, start=1):
            assert sent <= (time - began_at) * ceiling + 1e-6

    run_virtually(scene())


@pytest.mark.parametrize("ceiling", [50, 500, 2000])
@pytest.mark.parametrize("seconds", [0.02, 0.9, 3600.0])
def test_what_was_missed_while_stalled_or_idle_is_not_made_up_for(
    ceiling: float, seconds: float
) -> None:
    """However long nothing left, at most a fiftieth of a second's worth then leaves at once."""

    async def scene(pass_time: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        sender = Sender(ceiling)
        await sender.send_for(1.5)
        await pass_time(seconds)
        sender.times.clear()
        await sender.send_for(1.5)
        assert busiest(sender.times, 0.001) <= ceiling / 50 + ceiling / 1000 + 1
        assert busiest(sender.times) <= ceiling

    async def stalled(seconds: float) -> None:
        stall(seconds)

    run_virtually(scene(stalled))
    run_virtually(scene(asyncio.sleep))


# ---- the rolling second, which the bucket masks otherwise


@pytest.mark.parametrize(
    ("ceiling", "most"), [(500, 490), (2000, 1960), (128.5, 126), (100, 98), (777, 762)]
)
def test_the_busiest_second_leaves_two_percent_of_the_ceiling_unused(
    ceiling: float, most: int
) -> None:
    """After a stall the bucket catches up, and would fill a second with 99.5 % of the ceiling."""

    async def scene() -> None:
        sender = Sender(ceiling)
        for _ in range(3):
            await sender.send_for(1.5)
            stall(0.02)
        assert busiest(sender.times) == sender.pacer.busiest_second == most

    run_virtually(scene())


@pytest.mark.parametrize(
    ("ceiling", "allowed"), [(1, 1), (1.9, 1), (10, 10), (49, 49), (50, 49), (99.9, 98), (150, 147)]
)
def test_the_rolling_second_alone_keeps_the_ceiling(ceiling: float, allowed: int) -> None:
    """With a bucket that lets everything through, departures come in bursts a second apart."""

    async def scene() -> None:
        sender = Sender(ceiling, utilization=1e6)
        await asyncio.gather(*sender.start(4 * allowed))
        assert busiest(sender.times) == allowed
        for earlier, later in zip(sender.times, sender.times[allowed:], strict=False):
            assert later - earlier == pytest.approx(1.0, abs=0.01)
            assert later - earlier >= 1.0

    run_virtually(scene())


@pytest.mark.parametrize(("utilization", "expected"), [(0.975, 0.975), (0.95, 0.95), (0.5, 0.5)])
def test_the_mean_is_what_the_utilization_says(utilization: float, expected: float) -> None:
    async def scene() -> None:
        sender = Sender(500, utilization=utilization)
        assert await sender.send_for(20) == pytest.approx(500 * expected * 20, rel=0.001)
        assert sender.pacer.rate == 500 * utilization

    run_virtually(scene())


def test_nothing_has_left_at_first() -> None:
    pacer = Pacer(500)
    assert (pacer.departures, pacer.busiest_second, pacer.throttled_responses) == (0, 0, 0)
    assert not pacer.slowed


def test_the_default_utilization_is_97_5_percent() -> None:
    assert Pacer(500).rate == 487.5
    assert (UTILIZATION, CAUTIOUS_UTILIZATION) == (0.975, 0.95)


@pytest.mark.parametrize("ceiling", [1, 10, 49])
def test_timers_may_be_two_milliseconds_late(ceiling: float) -> None:
    """So the first request after an idle time takes that much from the distance to the next."""

    async def scene() -> None:
        sender = Sender(ceiling)
        await sender.send()
        await asyncio.sleep(100)
        first, second = [await sender.send() for _ in range(2)]
        assert second - first == pytest.approx(1 / (0.975 * ceiling) - 0.002, abs=1e-6)

    run_virtually(scene())


@pytest.mark.parametrize("ceiling", [500, 5000])
def test_a_stall_of_twenty_milliseconds_is_caught_up_in_full(ceiling: float) -> None:
    async def scene(stall_s: float) -> None:
        sender = Sender(ceiling)
        await sender.send_for(2)
        began_at, before = now(), len(sender.times)
        stall(stall_s)
        await sender.send_for(1.5)
        missed = 0.975 * ceiling * (now() - began_at) - (len(sender.times) - before)
        assert missed == pytest.approx(0.975 * ceiling * max(0.0, stall_s - 0.0205), abs=3)

    run_virtually(scene(0.02))
    run_virtually(scene(0.04))


# ---- whatever happens

Scene = list[tuple[str, float]]


def scenes() -> st.SearchStrategy[Scene]:
    """Things that happen one after another, each with an amount."""
    seconds = st.one_of(st.floats(0, 0.05), st.floats(0, 3), st.floats(0, 200))
    return st.lists(
        st.one_of(
            st.tuples(st.just("arrive"), st.floats(0, 1)),  # share of a second's worth
            st.tuples(st.just("wait"), seconds),
            st.tuples(st.just("stall"), seconds),
            st.tuples(
                st.just("throttle"), st.floats(0, 3)
            ),  # how many seconds ago the request left
            st.tuples(st.just("retry after"), st.one_of(st.floats(0, 3), st.floats(0, 1e10))),
            st.tuples(st.just("cancel"), st.floats(0, 1)),
        ),
        max_size=12,
    )


async def play(sender: Sender, scene: Scene, seed: int) -> None:
    """Play a scene, and check after each step what must always be true."""
    pacer, rng = sender.pacer, random.Random(seed)
    tasks: list[asyncio.Task[float]] = []
    for what, amount in scene:
        match what:
            case "arrive":
                tasks += sender.start(1 + int(amount * min(pacer.ceiling, 200)))
            case "wait":
                await asyncio.sleep(amount)
            case "stall":
                stall(amount)
            case "throttle":
                pacer.throttled(now() - amount)
            case "retry after":
                pause_s = pacer.throttled(now(), amount)
                assert pause_s >= min(amount, 3600.0)
            case "cancel":
                waiting = [task for task in tasks if not task.done()]
                for task in rng.sample(waiting, int(amount * len(waiting))):
                    task.cancel()
        await asyncio.sleep(0)
        if (pause_s := pacer.pause_left_s) > 0.0:
            before = len(sender.times)
            await asyncio.sleep(pause_s * 0.999)
            assert len(sender.times) == before, "a request left during a pause"
        assert 0 < pacer.rate < pacer.ceiling
    await asyncio.gather(*tasks, return_exceptions=True)


@given(ceiling=st.sampled_from(CEILINGS), scene=scenes(), seed=st.integers(0, 9))
@example(  # a request that already has its place in the bucket when the pause begins
    ceiling=0.5, scene=[("arrive", 0.0), ("wait", 0.1), ("retry after", 3.0)], seed=0
)
def test_whatever_happens_the_ceiling_and_the_order_hold(
    ceiling: float, scene: Scene, seed: int
) -> None:
    async def main() -> None:
        sender = Sender(ceiling, seed)
        await play(sender, scene, seed)
        assert busiest(sender.times) <= allowed_in_a_second(ceiling)
        assert sender.order == sorted(sender.order), "a request overtook another"
        assert sender.pacer.departures == len(sender.times)

    run_virtually(main())


# ---- order


def test_no_request_overtakes_another_after_a_pause() -> None:
    async def scene() -> None:
        sender = Sender(500)
        tasks = sender.start(100)
        await asyncio.sleep(0.05)
        sender.pacer.throttled(now(), 2.0)
        tasks += sender.start(100)
        await asyncio.sleep(2.05)
        tasks += sender.start(100)
        await asyncio.gather(*tasks)
        assert sender.order == list(range(300))

    run_virtually(scene())


def test_a_cancelled_request_takes_no_turn() -> None:
    async def scene() -> None:
        sender = Sender(100)
        tasks = sender.start(50)
        await asyncio.sleep(0.1)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert sender.pacer.departures == len(sender.times)
        assert sender.order == sorted(sender.order)
        # the others moved up, and none is stuck
        left = len(sender.times)
        assert sender.times[-1] - sender.times[0] <= left / (0.97 * 100)
        assert await sender.send_for(1) >= 97

    run_virtually(scene())


# ---- pauses


@pytest.mark.parametrize("retry_after_s", [0.0, 0.3, 1.0, 60.0, 3600.0])
def test_retry_after_pauses_all_requests_for_that_long(retry_after_s: float) -> None:
    async def scene() -> None:
        sender = Sender(500)
        await sender.send_for(0.5)
        tasks = sender.start(50)
        throttled_at = now()
        pause_s = sender.pacer.throttled(sender.times[-1], retry_after_s)
        assert retry_after_s <= pause_s <= retry_after_s + 0.1
        assert sender.pacer.pause_left_s == pytest.approx(pause_s)
        sender.times.clear()
        await asyncio.gather(*tasks)
        assert throttled_at + pause_s <= sender.times[0] < throttled_at + pause_s + 0.05

    run_virtually(scene())


def test_retry_after_is_obeyed_for_an_hour_at_most() -> None:
    async def scene() -> None:
        pause_s = Pacer(500).throttled(now(), 1e9)
        assert 3600.0 <= pause_s <= 3600.1

    run_virtually(scene())


@pytest.mark.parametrize("waited_s", [0.001, 0.5, 1.9])
def test_a_pause_also_stops_the_request_that_was_about_to_leave(waited_s: float) -> None:
    """At a low rate it waits long for its place in the bucket; a pause may begin meanwhile."""

    async def scene() -> None:
        sender = Sender(0.5)
        task = asyncio.create_task(sender.send())
        await asyncio.sleep(waited_s)
        sender.pacer.throttled(now(), 10.0)
        await asyncio.sleep(9.9)
        assert not task.done()
        await task

    run_virtually(scene())


def test_a_pause_may_grow_while_it_lasts_but_never_shrinks() -> None:
    async def scene() -> None:
        sender = Sender(500)
        departed_at = await sender.send()
        task = asyncio.create_task(sender.send())
        sender.pacer.throttled(departed_at, 5.0)
        await asyncio.sleep(1)
        sender.pacer.throttled(departed_at, 0.5)
        sender.pacer.throttled(departed_at)
        assert 4.0 <= sender.pacer.pause_left_s <= 4.1
        await asyncio.sleep(1)
        sender.pacer.throttled(departed_at, 30.0)
        await asyncio.sleep(29.9)
        assert not task.done()
        await task
        assert sender.pacer.pause_left_s == 0.0

    run_virtually(scene())


def test_without_retry_after_pauses_double_and_are_spread_at_random() -> None:
    async def scene() -> None:
        pauses = []
        for seed in range(200):
            pacer = Pacer(500, random.Random(seed))
            row = []
            for _ in range(12):
                row.append(pacer.throttled(now()))
                await asyncio.sleep(row[-1])
            pauses.append(row)
        for number, column in enumerate(zip(*pauses, strict=True)):
            longest = min(1.0 * 2**number, 60.0)
            assert longest / 2 <= min(column) < longest * 0.55
            assert longest * 0.95 < max(column) <= longest

    run_virtually(scene())


def test_a_provider_that_throttles_for_days_does_not_break_the_pacer() -> None:
    async def scene() -> None:
        sender = Sender(500)
        for _ in range(3000):
            pause_s = sender.pacer.throttled(await sender.send())
            assert pause_s <= 60.0
        assert sender.pacer.throttled_responses == 3000

    run_virtually(scene())


def test_the_jitter_on_top_of_retry_after_is_up_to_a_tenth_of_a_second() -> None:
    async def scene() -> None:
        pauses = [Pacer(500, random.Random(seed)).throttled(now(), 5.0) for seed in range(200)]
        assert 5.0 <= min(pauses) < 5.01
        assert 5.09 < max(pauses) <= 5.1

    run_virtually(scene())


def test_a_late_429_without_retry_after_neither_pauses_nor_cuts() -> None:
    async def scene() -> None:
        sender = Sender(500)
        departed_at = await sender.send()
        sender.pacer.throttled(departed_at, 1.0)
        await asyncio.sleep(1.5)
        rate = sender.pacer.rate
        assert sender.pacer.throttled(departed_at) <= 0.0
        assert sender.pacer.pause_left_s == 0.0
        assert sender.pacer.rate == rate

    run_virtually(scene())


def test_a_late_429_with_retry_after_pauses_but_does_not_cut() -> None:
    async def scene() -> None:
        sender = Sender(500)
        departed_at = await sender.send()
        sender.pacer.throttled(departed_at, 1.0)
        await asyncio.sleep(1.5)
        rate = sender.pacer.rate
        assert 7.0 <= sender.pacer.throttled(departed_at, 7.0) <= 7.1
        assert sender.pacer.rate == rate == 487.5 / 2

    run_virtually(scene())


def test_timings_are_those_that_are_passed_in() -> None:
    async def scene() -> None:
        timings = PacerTimings(
            first_pause_s=0.25,
            longest_pause_s=1.0,
            longest_obeyed_s=9.0,
            climb_step=0.25,
            climb_every_s=10.0,
        )
        pacer = Pacer(500, random.Random(1), timings=timings)
        assert 9.0 <= pacer.throttled(now(), 100.0) <= 9.1
        await asyncio.sleep(pacer.pause_left_s + 9.9)
        await pacer.depart()
        assert pacer.rate == 487.5 * 0.5
        await asyncio.sleep(0.2)
        await pacer.depart()
        assert pacer.rate == 487.5 * 0.75
        await asyncio.sleep(10)
        await pacer.depart()
        assert pacer.rate == 487.5
        longest = [0.25, 0.5, 1.0, 1.0]
        for limit in longest:
            pause_s = pacer.throttled(now())
            assert limit / 2 <= pause_s <= limit
            await asyncio.sleep(pause_s)

    run_virtually(scene())


# ---- the rate after a pause


@pytest.mark.parametrize("ceiling", [1, 2, 10, 500])
def test_the_rate_is_halved_and_climbs_back_by_a_tenth_each_second(ceiling: float) -> None:
    async def scene() -> None:
        sender = Sender(ceiling)
        full = sender.pacer.rate
        sender.pacer.throttled(await sender.send(), 0.0)
        assert sender.pacer.rate == pytest.approx(full / 2)
        assert sender.pacer.slowed
        await asyncio.sleep(sender.pacer.pause_left_s)
        for step in range(5):
            # read in the middle of each second; the rate climbs when a request asks for its turn
            await asyncio.sleep(0.5)
            sending = asyncio.create_task(sender.send())
            await settle()
            assert sender.pacer.rate == pytest.approx(full * (0.5 + step / 10))
            assert sender.pacer.slowed
            sending.cancel()
            await asyncio.sleep(0.5)
        await sender.send()
        assert sender.pacer.rate == full
        assert not sender.pacer.slowed

    run_virtually(scene())


def test_departures_follow_the_climbing_rate() -> None:
    async def scene() -> None:
        sender = Sender(500)
        await sender.send_for(1)
        sender.pacer.throttled(sender.times[-1], 1.0)
        await asyncio.sleep(sender.pacer.pause_left_s)
        counts = [await sender.send_for(1) for _ in range(8)]
        expected = [500 * 0.975 * share for share in (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1)]
        assert counts == pytest.approx(expected, abs=6)
        assert all(now <= after + 3 for now, after in pairwise(counts))

    run_virtually(scene())


def test_a_burst_of_429_from_before_the_pause_cuts_once() -> None:
    async def scene() -> None:
        sender = Sender(500)
        full = sender.pacer.rate
        await sender.send_for(0.5)
        loop = asyncio.get_running_loop()
        earlier = list(sender.times)
        for departed_at in earlier:
            loop.call_later(0.3, sender.pacer.throttled, departed_at)
        tasks = sender.start(10)
        await asyncio.sleep(0.4)
        assert sender.pacer.throttled_responses == len(earlier)
        assert sender.pacer.rate == full / 2
        assert sender.pacer.pause_left_s <= 1.0
        await asyncio.gather(*tasks)

    run_virtually(scene())


def test_429s_to_requests_that_left_at_one_instant_cut_once() -> None:
    """After a stall several leave at once; a clock may be too coarse to tell them apart."""

    async def scene() -> None:
        sender = Sender(500)
        await sender.send()
        stall(0.5)
        for departed_at in [await sender.send() for _ in range(5)]:
            assert departed_at == now()
            sender.pacer.throttled(departed_at)
        assert sender.pacer.rate == pytest.approx(500 * 0.975 / 2)

    run_virtually(scene())


def test_a_429_to_a_request_that_left_after_the_pause_cuts_again() -> None:
    async def scene() -> None:
        sender = Sender(500)
        for share in (1 / 2, 1 / 4, 1 / 8):
            sender.pacer.throttled(await sender.send(), 0.1)
            assert sender.pacer.rate == pytest.approx(500 * 0.975 * share)

    run_virtually(scene())


def test_the_rate_never_falls_below_a_fiftieth() -> None:
    async def scene() -> None:
        sender = Sender(500)
        rates = []
        for _ in range(8):
            sender.pacer.throttled(now(), 0.1)
            rates.append(sender.pacer.rate / 487.5)
            await asyncio.sleep(0.05)
        assert rates == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 0.02, 0.02, 0.02])

    run_virtually(scene())


def test_the_rate_climbs_from_where_it_is_and_not_beyond_its_full_height() -> None:
    async def scene() -> None:
        sender = Sender(500)
        sender.pacer.throttled(now(), 0.0)
        await asyncio.sleep(3.5)  # climbs to 0.8 in three steps
        await sender.send()
        assert sender.pacer.rate == pytest.approx(487.5 * 0.8)
        sender.pacer.throttled(now(), 0.0)
        assert sender.pacer.rate == pytest.approx(487.5 * 0.4)
        await asyncio.sleep(1000)
        await sender.send()
        assert sender.pacer.rate == 487.5

    run_virtually(scene())


def test_pauses_are_short_again_once_the_rate_is_back_at_its_full_height() -> None:
    async def scene() -> None:
        sender = Sender(500)
        for _ in range(6):
            sender.pacer.throttled(await sender.send())
        assert sender.pacer.throttled(await sender.send()) > 10.0
        await asyncio.sleep(sender.pacer.pause_left_s + 10)
        await sender.send()
        assert not sender.pacer.slowed
        assert sender.pacer.throttled(await sender.send()) <= 1.0

    run_virtually(scene())


def test_there_is_no_burst_after_a_pause() -> None:
    async def scene() -> None:
        sender = Sender(500)
        await sender.send_for(1)
        sender.pacer.throttled(sender.times[-1], 30.0)
        sender.times.clear()
        await asyncio.gather(*sender.start(100))
        # one may already have had its place; all others keep the distance of the lower rate
        assert all(b - a >= 0.99 / 245 for a, b in pairwise(sender.times[1:]))

    run_virtually(scene())


# ---- a stray weighs little


class Service:
    """Responds to what leaves through a pacer, 0.2 s later, and throttles by a rule.

    Args:
        pacer: what the requests leave through.
        verdict: takes the time of an arrival; returns True to serve it, or how long to wait, in
            seconds or None.
    """

    def __init__(self, pacer: Pacer, verdict: Callable[[float], bool | float | None]) -> None:
        self._pacer = pacer
        self._verdict = verdict
        self.served: list[float] = []
        self.throttled = 0

    async def serve(self, count: int) -> float:
        """Send until this many requests are served; return how long it took."""
        began_at, open_requests = now(), set[asyncio.Task[None]]()
        left = count
        while len(self.served) < count:
            if left > 0 and len(open_requests) < 300:
                left -= 1
                task = asyncio.create_task(self._request())
                open_requests.add(task)
                task.add_done_callback(open_requests.discard)
            else:
                before = self.throttled
                await asyncio.wait(open_requests, return_when=asyncio.FIRST_COMPLETED)
                left += self.throttled - before
        return now() - began_at

    async def _request(self) -> None:
        departed_at = await self._pacer.depart()
        verdict = self._verdict(departed_at)
        await asyncio.sleep(0.2)
        if verdict is True:
            self.served.append(departed_at)
            self._pacer.accepted(departed_at)
        else:
            self.throttled += 1
            self._pacer.throttled(departed_at, verdict or None)


@pytest.mark.parametrize("seed", range(3))
def test_a_few_strays_cost_little(seed: int) -> None:
    """Three of a thousand responses are 429, without Retry-After and without a limit behind them.
    With pauses that only ever doubled, this took four minutes."""

    async def scene() -> float:
        rng = random.Random(seed)
        service = Service(Pacer(500, rng), lambda at: True if rng.random() >= 0.003 else None)
        return await service.serve(2000)

    assert run_virtually(scene()) < 7.0  # 4.1 s without any


def by_the_second(limit: int) -> Callable[[float], bool | float | None]:
    """A provider that serves so many requests in each second of its clock."""
    served: dict[int, int] = {}

    def verdict(at: float) -> bool | float | None:
        second = int(at)
        served[second] = served.get(second, 0) + 1
        return True if served[second] <= limit else None

    return verdict


@pytest.mark.parametrize("limit", [50, 100, 250])
def test_a_real_limit_is_found_and_few_requests_are_throttled(limit: int) -> None:
    async def scene() -> None:
        service = Service(Pacer(500, random.Random(1)), by_the_second(limit))
        took = await service.serve(limit * 30)
        assert limit * 30 / took > 0.5 * limit
        assert service.throttled < 0.3 * len(service.served)

    run_virtually(scene())


def test_what_a_provider_asks_to_wait_is_obeyed_however_rarely_it_throttles() -> None:
    async def scene() -> None:
        sender = Sender(500)
        for _ in range(5):
            await sender.send_for(1)
            for departed_at in sender.times:
                sender.pacer.accepted(departed_at)
            resumes_at = now() + sender.pacer.throttled(sender.times[-1], 3.0)
            sender.times.clear()
            await sender.send()
            assert sender.times[0] >= resumes_at >= now() - 0.1

    run_virtually(scene())


@pytest.mark.parametrize(("good", "weight"), [(0, 1.0), (10, 1 / 2), (90, 1 / 10), (990, 1 / 100)])
def test_pause_and_cut_are_in_proportion_to_the_good_responses_before(
    good: int, weight: float
) -> None:
    async def scene() -> None:
        pauses = []
        for seed in range(100):
            pacer = Pacer(500, random.Random(seed))
            for _ in range(good):
                pacer.accepted(now())
            pauses.append(pacer.throttled(now()))
            assert pacer.rate == pytest.approx(487.5 * (1 - weight / 2))
        assert weight * 0.5 <= min(pauses) < weight * 0.55
        assert weight * 0.95 < max(pauses) <= weight

    run_virtually(scene())


def test_the_second_429_of_a_burst_shows_that_the_first_was_no_stray() -> None:
    """Even though both requests left before anything was known."""

    async def scene() -> None:
        pacer = Pacer(500, random.Random(1))
        departed_at = await pacer.depart()
        for _ in range(10_000):
            pacer.accepted(departed_at)
        await asyncio.sleep(0.3)
        assert pacer.throttled(departed_at) < 0.01
        assert pacer.rate > 487
        assert pacer.throttled(departed_at) >= 0.5
        assert pacer.rate == 487.5 / 2
        pacer.throttled(departed_at)
        assert pacer.rate == 487.5 / 2

    run_virtually(scene())


def test_good_responses_shorten_the_next_pause_again() -> None:
    async def scene() -> None:
        pacer = Pacer(500, random.Random(1))

        async def next_pause_s() -> float:
            pause_s = pacer.throttled(await pacer.depart())
            await asyncio.sleep(pause_s)
            return pause_s

        pauses = [await next_pause_s() for _ in range(6)]
        assert 16 <= pauses[-1] <= 32
        for _ in range(3):  # each takes back one doubling
            pacer.accepted(await pacer.depart())
        weight = 1 / (1 + 3 / 10)
        assert 4 * weight <= await next_pause_s() <= 8 * weight

    run_virtually(scene())


def test_good_responses_to_earlier_requests_do_not_shorten_it() -> None:
    async def scene() -> None:
        pacer = Pacer(500, random.Random(1))
        departed_at = await pacer.depart()
        for _ in range(5):
            await asyncio.sleep(pacer.throttled(await pacer.depart()))
        pacer.accepted(departed_at)
        weight = 1 / (1 + 1 / 10)
        assert 16 * weight <= pacer.throttled(await pacer.depart()) <= 32 * weight

    run_virtually(scene())


# ---- a suspended machine


def test_a_pause_that_ended_while_the_machine_was_suspended_is_not_waited_for() -> None:
    """The event loop's clock stands still meanwhile."""

    async def scene() -> None:
        suspended_s = 0.0
        pacer = Pacer(500, elapsed_s=lambda: now() + suspended_s)
        pacer.throttled(now(), 3600.0)
        waiting = asyncio.create_task(pacer.depart())
        await asyncio.sleep(100)
        suspended_s = 3600.0
        assert pacer.pause_left_s == 0.0
        awake_at = now()
        assert await waiting <= awake_at + 5.1
        assert pacer.rate == 487.5  # it climbed meanwhile

    run_virtually(scene())


# ---- a clock for others


def test_the_active_time_stands_still_during_pauses() -> None:
    async def scene() -> None:
        pacer = Pacer(500)
        began_at = pacer.active_s
        await asyncio.sleep(10)
        assert pacer.active_s - began_at == pytest.approx(10)
        pacer.throttled(now(), 30.0)
        await asyncio.sleep(20)
        assert pacer.active_s - began_at == pytest.approx(10)
        pacer.throttled(now(), 30.0)  # longer
        pacer.throttled(now(), 1.0)  # makes no difference
        await asyncio.sleep(pacer.pause_left_s + 5)
        assert pacer.active_s - began_at == pytest.approx(15)
        pacer.resume(Slowdown(pause_s=60.0, share=0.5))
        await asyncio.sleep(61)
        assert pacer.active_s - began_at == pytest.approx(16)

    run_virtually(scene())


def test_the_active_time_stands_still_while_held_also_if_a_pause_begins_meanwhile() -> None:
    async def scene() -> None:
        pacer = Pacer(500)
        await asyncio.sleep(1)
        began_at = pacer.active_s
        pacer.hold()
        await asyncio.sleep(50)
        pacer.throttled(now(), 30.0)
        assert pacer.active_s == pytest.approx(began_at)
        await asyncio.sleep(100)
        assert pacer.active_s == pytest.approx(began_at)
        pacer.let_go()
        await asyncio.sleep(2)
        assert pacer.active_s == pytest.approx(began_at + 2)

    run_virtually(scene())


# ---- stopping


def test_after_a_stop_nothing_leaves_and_nobody_waits() -> None:
    async def scene() -> None:
        sender = Sender(500)
        await sender.send()
        sender.pacer.throttled(now(), 3000.0)
        tasks = sender.start(20)
        await asyncio.sleep(1)
        stopped_at = now()
        sender.pacer.stop()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(error) for error in done} == {StoppedError}
        assert now() - stopped_at < 0.001
        with pytest.raises(StoppedError):
            await sender.send()
        assert len(sender.times) == sender.pacer.departures == 1

    run_virtually(scene())


def test_a_stop_of_the_account_stops_every_address() -> None:
    async def scene() -> None:
        account = Pacer(500)
        sender = Sender(300, parent=account)
        sender.pacer.throttled(now(), 3000.0)
        [task] = sender.start(1)
        await asyncio.sleep(1)
        account.stop()
        with pytest.raises(StoppedError):
            await task

    run_virtually(scene())


def test_waiting_for_the_end_of_a_pause_takes_no_turn() -> None:
    async def scene() -> None:
        account = Pacer(500)
        for pacer in (account, Pacer(300, parent=account)):
            account.throttled(now(), 10.0)
            began_at = now()
            await pacer.pause_over()
            assert 10.0 <= now() - began_at <= 10.2
        assert account.departures == 0
        account.throttled(now(), 3000.0)
        waiting = asyncio.create_task(account.pause_over())
        await asyncio.sleep(1)
        account.stop()
        await waiting

    run_virtually(scene())


# ---- a slowdown that outlives its process


def test_the_next_process_goes_on_as_slowly() -> None:
    async def scene() -> None:
        first = Pacer(500)
        assert first.slowdown is None
        for _ in range(2):
            first.throttled(await first.depart(), 30.0)
            await asyncio.sleep(first.pause_left_s)
        first.throttled(await first.depart(), 30.0)
        await asyncio.sleep(10)
        slowdown = first.slowdown
        assert slowdown is not None
        assert slowdown.pause_s == pytest.approx(20, abs=0.1)
        assert slowdown.share == pytest.approx(1 / 8)

        second = Sender(500)
        second.pacer.resume(slowdown)
        began_at = now()
        await second.send()
        assert 20 <= second.times[0] - began_at <= 20.3
        assert second.pacer.rate == pytest.approx(487.5 / 8)
        assert second.pacer.slowed
        await asyncio.sleep(30)
        await second.send()
        assert second.pacer.slowdown is None

    run_virtually(scene())


def test_a_slowdown_that_is_over_makes_no_difference() -> None:
    async def scene() -> None:
        pacer = Pacer(500)
        pacer.resume(Slowdown(pause_s=-3600.0, share=0.02))
        began_at = now()
        assert await pacer.depart() < began_at + 0.1
        assert pacer.rate == 487.5
        assert pacer.slowdown is None

    run_virtually(scene())


# ---- requests that have left, but may not have arrived


@pytest.mark.parametrize("late", [1, 100, 400])
def test_late_requests_keep_their_slots_until_a_second_after_their_arrival(late: int) -> None:
    """The provider may get them at any moment, together with those that leave meanwhile."""

    async def scene() -> None:
        sender = Sender(500, utilization=1.0)
        for _ in range(late):
            sender.pacer.forfeit()
        await sender.send_for(3)
        assert busiest(sender.times) <= 490 - late
        arrived_at = now()
        for _ in range(late):
            sender.pacer.arrived()
        await sender.send_for(3)
        with_arrivals = sorted([*sender.times, *[arrived_at] * late])
        assert busiest(with_arrivals) <= 490
        # and then all slots are used again
        assert busiest([time for time in sender.times if time > arrived_at + 1]) > 480
        assert sender.pacer.busiest_second <= 490

    run_virtually(scene())


def test_nothing_leaves_while_late_requests_have_all_slots() -> None:
    async def scene() -> None:
        account = Pacer(10)
        sender = Sender(10, parent=account)
        for _ in range(10):
            sender.pacer.forfeit()
        other = Sender(10, parent=account)
        tasks = [*sender.start(1), *other.start(1)]
        await asyncio.sleep(60)
        assert not any(task.done() for task in tasks)
        for _ in range(10):
            sender.pacer.arrived()
        arrived_at = now()
        await asyncio.gather(*tasks)
        assert now() - arrived_at == pytest.approx(1.0, abs=0.25)

    run_virtually(scene())


# ---- two limits at once


@pytest.mark.parametrize("grain_s", [0.0, 0.001], ids=["exact timers", "timers of 1 ms"])
@pytest.mark.parametrize(
    ("account", "address", "addresses", "total"),
    [(500, 300, 2, 500), (500, 250, 2, 500), (500, 100, 3, 300), (100, 500, 2, 100)],
)
def test_the_ceilings_of_account_and_address_hold_at_once_and_are_used(
    account: float, address: float, addresses: int, total: float, grain_s: float
) -> None:
    async def scene() -> None:
        parent = Pacer(account)
        senders = [Sender(address, number, parent) for number in range(addresses)]
        async with asyncio.TaskGroup() as tasks:
            for sender in senders:
                tasks.create_task(sender.send_for(5))
        everything = sorted(time for sender in senders for time in sender.times)
        assert busiest(everything) <= account
        assert all(busiest(sender.times) <= address for sender in senders)
        assert parent.departures == len(everything) >= 0.97 * total * 5

    run_virtually(scene(), grain_s=grain_s)


@given(
    account=st.sampled_from(CEILINGS),
    address=st.sampled_from(CEILINGS),
    scene=scenes(),
    seed=st.integers(0, 9),
)
def test_whatever_happens_the_ceilings_of_account_and_address_hold(
    account: float, address: float, scene: Scene, seed: int
) -> None:
    async def main() -> None:
        parent = Pacer(account)
        senders = [Sender(address, number, parent) for number in range(2)]
        await asyncio.gather(*(play(sender, scene, seed) for sender in senders))
        everything = sorted(time for sender in senders for time in sender.times)
        assert busiest(everything) <= allowed_in_a_second(account)
        for sender in senders:
            assert busiest(sender.times) <= allowed_in_a_second(address)
            assert sender.order == sorted(sender.order), "a request overtook another"
        assert parent.departures == len(everything)

    run_virtually(main())


def test_an_address_waits_for_its_own_limit_before_it_takes_a_turn_of_the_account() -> None:
    async def scene() -> None:
        parent = Pacer(100)
        slow, fast = Sender(2, parent=parent), Sender(100, 1, parent)
        tasks = slow.start(5)
        assert await fast.send_for(2) >= 0.9 * 97.5 * 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert parent.departures == len(fast.times) + len(slow.times)
        assert slow.pacer.departures == len(slow.times)

    run_virtually(scene())


def test_a_429_from_one_address_pauses_and_slows_the_whole_account() -> None:
    async def scene() -> None:
        parent = Pacer(500)
        one, other = Sender(400, parent=parent), Sender(400, parent=parent)
        pause_s = one.pacer.throttled(await one.send(), 5.0)
        assert parent.pause_left_s == pause_s
        assert parent.slowed
        tasks = one.start(3) + other.start(3)
        await asyncio.sleep(4.9)
        assert not any(task.done() for task in tasks)
        await asyncio.gather(*tasks)

    run_virtually(scene())


def test_before_anything_has_left_the_busiest_second_is_empty() -> None:
    async def scene() -> int:
        return Pacer(500).busiest_second

    assert run_virtually(scene()) == 0


def test_the_jitter_of_a_pause_comes_from_the_given_generator() -> None:
    def pause_s(seed: int) -> float:
        async def scene() -> float:
            sender = Sender(100, seed)
            return sender.pacer.throttled(await sender.send())

        return run_virtually(scene())

    assert pause_s(1) == pause_s(1)
    assert len({pause_s(seed) for seed in range(5)}) == 5


def test_good_responses_from_each_address_make_a_stray_weigh_less_for_the_whole_account() -> None:
    async def scene() -> None:
        parent = Pacer(500, random.Random(1))
        addresses = [Pacer(400, parent=parent) for _ in range(2)]
        for number in range(90):
            addresses[number % 2].accepted(now())
        addresses[0].throttled(now())
        assert parent.rate == pytest.approx(500 * UTILIZATION * (1 - 0.5 / 10))

    run_virtually(scene())
