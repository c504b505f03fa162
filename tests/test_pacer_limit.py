"""An operator's limit on the pacer: at once, in any rolling second, and for this process alone.

All on a virtual clock; what the senders record is the oracle.
"""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_ratelimit import CEILINGS, Sender, busiest, now
from test_slots import Process, sent, two_that_share
from virtual_time import run_virtually, stall

from bulkcert.ratelimit import UTILIZATION, Pacer

RATES = [0.2, 1, 2.5, 10, 50, 99, 300, 499]


def in_the_second_before(times: list[float], moment: float) -> int:
    return sum(moment - 1.0 < time <= moment for time in times)


@pytest.mark.parametrize("rate", RATES)
def test_a_lower_limit_holds_from_the_next_departure_on(rate: float) -> None:
    async def scene() -> None:
        sender = Sender(500)
        await sender.send_for(2)
        sender.pacer.limit(rate)
        limited_at = now()
        await sender.send_for(max(3, 10 / rate))
        later = [time for time in sender.times if time > limited_at]
        assert later
        for time in later:
            assert in_the_second_before(sender.times, time) <= max(1, int(rate))

    run_virtually(scene())


@pytest.mark.parametrize("rate", RATES)
def test_a_lower_limit_is_used_and_spaced_evenly(rate: float) -> None:
    async def scene() -> None:
        sender = Sender(500)
        await sender.send_for(2)
        sender.pacer.limit(rate)
        await asyncio.sleep(1)
        sender.times.clear()
        seconds = max(3, 20 / rate)
        whole = int(rate) if rate > 1 else rate  # no second has room for half a request
        assert await sender.send_for(seconds) >= UTILIZATION * whole * seconds - 2
        gaps = [later - earlier for earlier, later in pairwise(sender.times)]
        # a bucket of a fiftieth of a second, as without a limit
        assert min(gaps[int(rate / 50) + 1 :]) >= 1 / (UTILIZATION * rate) - 0.0025

    run_virtually(scene())


@pytest.mark.parametrize("low", [0.01, 1, 50])
@pytest.mark.parametrize("high", [60, None])
def test_a_higher_limit_is_in_force_at_once_for_the_request_that_waits(
    low: float, high: float | None
) -> None:
    async def scene() -> None:
        sender = Sender(500)
        sender.pacer.limit(low)
        sending = asyncio.create_task(sender.send_for(10))
        await asyncio.sleep(2.5)
        sender.pacer.limit(high)
        before = len(sender.times)
        await asyncio.sleep(0.5)
        assert len(sender.times) - before >= 0.25 * (high or 500)
        await sending

    run_virtually(scene())


def test_a_limit_is_never_above_the_ceiling() -> None:
    async def scene() -> None:
        sender = Sender(100)
        sender.pacer.limit(1000)
        assert sender.pacer.rate == 100 * UTILIZATION
        await sender.send_for(3)
        assert busiest(sender.times) <= 100

    run_virtually(scene())


def test_the_provider_slows_a_limited_run_further_and_it_climbs_back_to_the_limit() -> None:
    async def scene() -> None:
        sender = Sender(500)
        sender.pacer.limit(100)
        await sender.send_for(1)
        sender.pacer.throttled(now(), 2.0)
        throttled_at = now()
        sender.times.clear()
        await sender.send_for(3)
        assert sender.times[0] >= throttled_at + 2.0
        assert busiest(sender.times) < 90  # it has been cut
        await asyncio.sleep(10)
        await sender.send()
        assert not sender.pacer.slowed
        assert sender.pacer.rate == 100 * UTILIZATION

    run_virtually(scene())


def test_a_limit_holds_for_all_addresses_together() -> None:
    async def scene() -> None:
        account = Pacer(500)
        senders = [Sender(200, number, account) for number in range(3)]
        tasks = [asyncio.create_task(sender.send_for(6)) for sender in senders]
        await asyncio.sleep(2)
        senders[0].pacer.limit(50)  # whichever is asked
        limited_at = now()
        await asyncio.gather(*tasks)
        times = sorted(time for sender in senders for time in sender.times)
        for time in times:
            assert time < limited_at or in_the_second_before(times, time) <= 50
        assert sent(times, limited_at + 1, limited_at + 4) >= 0.95 * 50 * 3

    run_virtually(scene())


@given(
    ceiling=st.sampled_from(CEILINGS),
    scene=st.lists(
        st.one_of(
            st.tuples(st.just("arrive"), st.floats(0, 1)),
            st.tuples(st.just("wait"), st.one_of(st.floats(0, 0.05), st.floats(0, 3))),
            st.tuples(st.just("stall"), st.floats(0, 2)),
            st.tuples(st.just("throttle"), st.floats(0, 2)),
            st.tuples(st.just("limit"), st.floats(0.1, 6000)),
            st.tuples(st.just("no limit"), st.just(0.0)),
        ),
        max_size=15,
    ),
)
@example(ceiling=500, scene=[("arrive", 1.0), ("wait", 0.5), ("limit", 1.0), ("arrive", 0.0)])
@example(  # the limit changes again before who waits has noticed the change before
    ceiling=2000,
    scene=[
        *[("arrive", 0.7), ("arrive", 0.0), ("arrive", 0.5), ("wait", 0.0), ("limit", 3127.0)],
        *[("arrive", 0.4), ("limit", 1353.0), ("limit", 2489.0), ("no limit", 0.0)],
        *[("arrive", 0.6), ("wait", 0.0), ("limit", 0.6), ("wait", 3e-100), ("throttle", 1.2)],
        ("limit", 5592.0),
    ],
)
def test_whatever_happens_no_departure_is_one_too_many_for_the_second_before_it(
    ceiling: float, scene: list[tuple[str, float]]
) -> None:
    async def main() -> None:
        sender = Sender(ceiling)
        tasks: list[asyncio.Task[float]] = []
        limit, checked = ceiling, 0
        for what, amount in [*scene, ("limit", 6000.0)]:
            match what:
                case "arrive":
                    tasks += sender.start(1 + int(amount * min(ceiling, 200)))
                case "wait":
                    await asyncio.sleep(amount)
                case "stall":
                    stall(amount)
                case "throttle":
                    sender.pacer.throttled(now(), amount)
            while checked < len(sender.times):
                moment = sender.times[checked]
                checked += 1
                most = max(1, int(limit))
                assert in_the_second_before(sender.times[:checked], moment) <= most
            if what in ("limit", "no limit"):
                sender.pacer.limit(amount or None)
                limit = min(amount or ceiling, ceiling)
        await asyncio.gather(*tasks)
        assert sender.order == sorted(sender.order)

    run_virtually(main())


# ---- with other processes on the same account


@pytest.mark.parametrize("rate", [1, 10, 100, 200])
def test_a_limited_process_leaves_everything_else_to_the_other(tmp_path: Path, rate: float) -> None:
    async def scene() -> None:
        log: list[float] = []
        limited, other = await two_that_share(tmp_path, 500, log)
        limited.pacer.limit(rate)
        limited_at = now()
        await asyncio.sleep(5)
        for time in limited.times:
            before = in_the_second_before(limited.times, time)
            assert time < limited_at or before <= rate
        assert sent(limited.times, limited_at + 1, now()) >= 0.9 * rate * 4 - 1
        # what is left of the 96 % that are used while a ceiling is shared
        assert sent(other.times, limited_at + 1, now()) >= 0.95 * (0.96 * 500 - rate) * 4
        assert busiest(log) <= 500
        await limited.finish()
        await other.finish()

    run_virtually(scene(), grain_s=0.001)


def test_a_request_that_waits_for_a_slot_when_the_first_limit_comes_still_leaves(
    tmp_path: Path,
) -> None:
    async def scene() -> None:
        process = Process(tmp_path, 1, [])
        process.send(3)
        await asyncio.sleep(1.5)  # the second one waits for its slot
        process.pacer.limit(0.5)
        await asyncio.sleep(10)
        assert len(process.times) == 3
        await process.finish()

    run_virtually(scene())


def test_a_process_that_was_limited_is_at_full_speed_at_once(tmp_path: Path) -> None:
    async def scene() -> None:
        process = Process(tmp_path, 500, [])
        process.pacer.limit(0.1)
        process.keep_sending()
        await asyncio.sleep(15)
        process.pacer.limit(None)
        before = len(process.times)
        await asyncio.sleep(0.5)
        assert len(process.times) - before >= 150
        await process.finish()

    run_virtually(scene())


@pytest.mark.parametrize("seed", range(5))
def test_processes_whose_limits_change_stay_below_the_shared_ceiling(
    tmp_path: Path, seed: int
) -> None:
    async def scene() -> None:
        rng, log = random.Random(seed), list[float]()
        processes = await two_that_share(tmp_path, 200, log)
        for _ in range(20):
            rng.choice(processes).pacer.limit(rng.choice([None, 0.5, 5, 50, 150]))
            await asyncio.sleep(rng.uniform(0, 1))
        assert busiest(log) <= 200
        for process in processes:
            await process.finish()

    run_virtually(scene())
