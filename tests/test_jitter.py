"""How much of the ceiling is used, by how much responses vary; and what that does at the provider.

The networks are simulated, on a virtual clock; the pacer is the real one. What arrives is the
oracle.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rolling_second import busiest
from virtual_time import run_virtually

from bulkcert.jitter import (
    DEFAULT,
    FEWEST,
    MOST,
    PERIOD_S,
    PERIODS_TO_REMEMBER,
    Jitter,
    allowance,
)
from bulkcert.ratelimit import Pacer
from bulkcert.slots import FileSlots, SlotFile

CEILING = 500


def now() -> float:
    return asyncio.get_running_loop().time()


class Responses:
    """Gives responses to a `Jitter`, as many as at the full rate."""

    def __init__(self, ceiling: float = CEILING) -> None:
        self.jitter = Jitter(ceiling)
        self.now = 1000.0

    def come(self, periods: float, low_s: float, high_s: float, per_second: int = 490) -> None:
        for number in range(int(periods * PERIOD_S * per_second)):
            self.now += 1 / per_second
            self.jitter.add(high_s if number % 50 == 7 else low_s, self.now)


# ---- what is chosen


def test_nothing_is_chosen_before_enough_was_seen() -> None:
    responses = Responses()
    assert responses.jitter.reason == ""
    responses.come(2.9, 0.3, 0.302)
    assert (responses.jitter.allowance, responses.jitter.reason) == (None, "")
    responses.come(0.3, 0.3, 0.302)
    chosen = responses.jitter.allowance
    assert chosen
    assert chosen.departures == 498
    assert chosen.span_s == pytest.approx(1.002)
    assert chosen.utilization == pytest.approx(0.996 / 1.002)
    assert responses.jitter.reason == "99.4 % of the ceiling, because responses vary by 2 ms"


def test_the_first_period_does_not_count_because_connections_are_opened() -> None:
    responses = Responses()
    responses.come(0.9, 0.3, 0.4)
    responses.come(2.5, 0.3, 0.302)
    assert responses.jitter.allowance is not None


@pytest.mark.parametrize(
    ("ceiling", "spread_s", "utilization"),
    [
        (500, 0.0, MOST),
        (500, 0.004, 0.996 / 1.004),
        (500, 0.01, 0.996 / 1.01),
        (500, 0.0216, None),
        (500, 5.0, None),
        (5000, 0.0, MOST),
        (5000, 0.02, 0.9996 / 1.02),
        (100, 0.0, 0.98),
        (100, 0.006, None),
        (80, 0.0, None),
        (1, 0.0, None),
        (0.5, 0.0, None),
    ],
)
def test_the_share_of_the_ceiling(
    ceiling: float, spread_s: float, utilization: float | None
) -> None:
    chosen = allowance(ceiling, spread_s)
    assert (chosen and chosen.utilization) == (utilization and pytest.approx(utilization))
    assert chosen is None or chosen.utilization > DEFAULT


@pytest.mark.parametrize("worse_s", [0.299, 0.309])
def test_more_than_was_seen_so_far_counts_at_once(worse_s: float) -> None:
    responses = Responses()
    responses.come(3.5, 0.301, 0.302)
    before = responses.jitter.allowance
    assert before
    assert responses.jitter.add(worse_s, responses.now)
    after = responses.jitter.allowance
    assert after
    assert after.utilization < before.utilization
    assert not responses.jitter.add(worse_s, responses.now)


def test_a_wide_spread_is_the_default_and_is_shown() -> None:
    responses = Responses()
    responses.come(4, 0.3, 0.35)
    assert responses.jitter.allowance is None
    assert responses.jitter.reason == "97.5 % of the ceiling, because responses vary by 50 ms"


def test_what_was_seen_is_forgotten_after_five_minutes() -> None:
    responses = Responses()
    responses.come(4, 0.3, 0.35)
    responses.come(PERIODS_TO_REMEMBER - 2, 0.3, 0.302)
    assert responses.jitter.allowance is None
    responses.come(3, 0.3, 0.302)
    assert responses.jitter.allowance


def test_few_responses_say_nothing() -> None:
    responses = Responses()
    responses.come(10, 0.3, 0.302, per_second=int(FEWEST / PERIOD_S) - 1)
    assert (responses.jitter.allowance, responses.jitter.reason) == (None, "")


def test_after_a_break_it_begins_anew() -> None:
    responses = Responses()
    responses.come(4, 0.3, 0.302)
    responses.now += 3600
    responses.come(2.9, 0.3, 0.302)
    assert responses.jitter.allowance is None
    responses.come(0.3, 0.3, 0.302)
    assert responses.jitter.allowance


def test_after_a_throttle_it_is_the_default_for_good() -> None:
    responses = Responses()
    responses.come(4, 0.3, 0.302)
    assert responses.jitter.distrust()
    assert not responses.jitter.distrust()
    responses.come(100, 0.3, 0.302)
    assert responses.jitter.allowance is None
    assert responses.jitter.reason == "97.5 % of the ceiling, because the provider has throttled"


@given(
    ceiling=st.integers(100, 1000),
    spread_s=st.floats(0, 0.02),
    seed=st.integers(0, 1000),
    bursts=st.integers(1, 60),
)
def test_what_leaves_within_the_allowance_arrives_within_the_ceiling(
    ceiling: int, spread_s: float, seed: int, bursts: int
) -> None:
    """However unevenly it leaves, and whatever is delayed by how much."""
    allowed = allowance(ceiling, spread_s)
    if allowed is None:
        return
    rng = random.Random(seed)
    departures: list[float] = []
    time = 1000.0
    for _ in range(3 * ceiling):
        if rng.random() < 1 / bursts:
            time += rng.uniform(0, 2 * bursts / ceiling)
        if len(departures) >= allowed.departures:
            time = max(time, departures[-allowed.departures] + allowed.span_s)
        departures.append(time)
    # the worst: what leaves early is held up, and what leaves late is not
    turn = rng.uniform(1000, time)
    worst = [at + (spread_s if at < turn else 0.0) for at in departures]
    drawn = [at + rng.uniform(0, spread_s) for at in departures]
    # times of a thousand seconds are exact to less than this
    assert busiest(worst, 1.0 - 1e-9) <= allowed.departures < ceiling
    assert busiest(drawn, 1.0 - 1e-9) <= allowed.departures


# ---- simulated networks

Network = Callable[[random.Random, float], float]
"""From the time at which a request leaves to how long it takes, one way."""


def steady(rng: random.Random, at: float) -> float:
    return rng.uniform(0, 0.0005)


def uniform(spread_s: float) -> Network:
    return lambda rng, at: rng.uniform(0, spread_s)


def queue(rng: random.Random, at: float) -> float:
    """The queue of a router fills and empties."""
    return 0.008 * (0.5 + 0.5 * math.sin(at)) + steady(rng, at)


def stalls(length_s: float) -> Network:
    """Nothing arrives for a while, then all at once: every 1.7 s."""

    def network(rng: random.Random, at: float) -> float:
        return max(0.0, length_s - at % 1.7) + steady(rng, at)

    return network


def stragglers(rng: random.Random, at: float) -> float:
    return 0.3 if rng.random() < 0.001 else steady(rng, at)


class Provider:
    """Sends through a pacer over a simulated network, and records what arrives.

    Args:
        folder: where the file of the shared limit is.
        there: the way to the provider.
        back: the way back.
        work_s: longest time that the provider works on a request; at least half of it.
    """

    def __init__(
        self, folder: Path, there: Network, back: Network = steady, work_s: float = 0.0
    ) -> None:
        self.arrivals: list[float] = []
        file = SlotFile(folder, ["limit"], CEILING, "a", now)
        self.pacer = Pacer(
            CEILING, slots=FileSlots([file], DEFAULT), jitter=Jitter(CEILING), elapsed_s=now
        )
        self._there, self._back, self._work_s = there, back, work_s
        self._rng = random.Random(1)

    async def send_for(self, seconds: float) -> float:
        """Return the mean rate as a share of the ceiling."""
        began_at, before = now(), self.pacer.departures
        while now() < began_at + seconds:
            departed_at = await self.pacer.depart()
            arrived_at = departed_at + 0.05 + self._there(self._rng, departed_at)
            self.arrivals.append(arrived_at)
            answered_at = arrived_at + self._rng.uniform(0.5, 1.0) * self._work_s
            back_at = answered_at + 0.05 + self._back(self._rng, answered_at)
            asyncio.get_running_loop().call_at(back_at, self.pacer.accepted, departed_at)
        return (self.pacer.departures - before) / (now() - began_at) / CEILING


@pytest.mark.slow
@pytest.mark.parametrize(
    ("there", "back", "at_least"),
    [
        (steady, steady, 0.99),
        (uniform(0.004), uniform(0.004), 0.985),
        (uniform(0.01), steady, 0.98),
        (steady, uniform(0.01), 0.98),
        (queue, steady, 0.985),
        (stalls(0.008), steady, 0.985),
        (stragglers, stragglers, 0.974),
        (uniform(0.02), uniform(0.02), 0.974),
        (stalls(0.02), steady, 0.974),
    ],
    ids=[
        "steady",
        "both ways",
        "there",
        "back",
        "queue",
        "stalls",
        "stragglers",
        "wide",
        "long stalls",
    ],
)
def test_the_ceiling_holds_at_the_provider(
    tmp_path: Path, there: Network, back: Network, at_least: float
) -> None:
    async def scene() -> None:
        provider = Provider(tmp_path, there, back)
        await provider.send_for(3.2 * PERIOD_S)
        assert await provider.send_for(20) >= at_least
        assert busiest(provider.arrivals) <= CEILING
        assert provider.pacer.busiest_second < CEILING

    run_virtually(scene(), grain_s=0.001)


@pytest.mark.slow
def test_where_the_work_of_the_provider_varies_nothing_changes(tmp_path: Path) -> None:
    async def scene() -> None:
        provider = Provider(tmp_path, steady, work_s=0.1)
        await provider.send_for(4 * PERIOD_S)
        assert provider.pacer.rate == CEILING * DEFAULT
        assert provider.pacer.busiest_second <= 490
        assert provider.pacer.utilization_reason.startswith("97.5 % of the ceiling, because resp")

    run_virtually(scene(), grain_s=0.001)


@pytest.mark.slow
def test_a_limit_of_the_operator_and_a_throttle_end_it(tmp_path: Path) -> None:
    async def scene() -> None:
        provider = Provider(tmp_path, steady)
        pacer = provider.pacer
        await provider.send_for(3.2 * PERIOD_S)
        assert pacer.rate > 0.985 * CEILING
        assert pacer.utilization_reason
        pacer.limit(100)
        assert (pacer.rate, pacer.utilization_reason) == (100 * DEFAULT, "")
        await asyncio.sleep(1.1)
        provider.arrivals.clear()
        await provider.send_for(3)
        assert busiest(provider.arrivals) <= 100
        pacer.limit(None)
        pacer.throttled(now(), 0.5)
        assert pacer.utilization == DEFAULT
        await provider.send_for(4 * PERIOD_S)
        assert pacer.utilization == DEFAULT
        assert pacer.utilization_reason.endswith("the provider has throttled")

    run_virtually(scene(), grain_s=0.001)
