"""Pacers of several hosts and their shared slots, on a virtual event loop.

The store answers at once, so what is tested here is what pacers make of slots, pauses and leases.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from typing import Any

import pytest
from virtual_time import run_virtually

from bulkcert.hosts import pace
from bulkcert.hosts.pace import StorePace, member
from bulkcert.ratelimit import Pacer
from bulkcert.timings import HostTimings
from hosts.simulated_pace import SimulatedPace, SimulatedStore
from hosts.simulation import World

TIMINGS = HostTimings()
LATE_S = 0.22
"""A round trip and a margin."""


def now() -> float:
    return asyncio.get_running_loop().time()


class Host:
    """One host: its pacer, and what left."""

    def __init__(
        self, store: SimulatedStore, addresses: int = 0, ready: int = 20, **more: Any
    ) -> None:
        what: dict[str, Any] = {"run": 1, "scopes": ["account"], "ceiling": 500}
        who = member(id=uuid.uuid4(), timings=TIMINGS, **(what | more))
        self.slots = StorePace("", who, TIMINGS, print, now)
        self.may_leave = True
        self.pacer = Pacer(
            500,
            random.Random(1),
            utilization=TIMINGS.utilization,
            elapsed_s=now,
            slots=self.slots,
            may_leave=lambda: self.may_leave,
        )
        pacers = [Pacer(300, utilization=0.95, parent=self.pacer) for _ in range(addresses)]
        self.times: list[float] = []
        self.arrived: list[float] = []
        self.blackout = (0.0, 0.0)
        self._tasks = [asyncio.create_task(self._reserve(store.connect(who)))]
        for pacer in pacers or [self.pacer]:
            self._tasks += [asyncio.create_task(self._send(pacer)) for _ in range(ready)]

    async def _reserve(self, table: SimulatedPace) -> None:
        while True:
            rest = self.slots._step(table)
            until = now() + rest.seconds
            while now() < until and not (rest.may_end and self.slots._wake.is_set()):  # noqa: ASYNC110 - an event of threads
                await asyncio.sleep(0.002)

    async def _send(self, pacer: Pacer) -> None:
        while True:
            self.times.append(await pacer.depart())
            self._watch_arrival(pacer)

    def _watch_arrival(self, pacer: Pacer) -> None:
        """As `bulkcert.providers.lateness` does: late is what is not acknowledged in time."""
        loop, (begin, end) = asyncio.get_running_loop(), self.blackout
        if not begin <= now() < end:
            self.arrived.append(now())
            return
        self.arrived.append(end)
        if now() + LATE_S < end + 0.1:
            loop.call_at(now() + LATE_S, pacer.forfeit)
            loop.call_at(end + 0.1, pacer.arrived)

    def left_since(self, seconds: float) -> int:
        return sum(time > now() - seconds for time in self.times)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def most(*hosts: Host) -> int:
    counted = World.__new__(World)
    counted.times = sorted(time for host in hosts for time in host.times)
    return counted.busiest


def store() -> SimulatedStore:
    return SimulatedStore(lambda: now() + 1e6)


@pytest.mark.parametrize("addresses", [0, 2])
def test_the_full_rate_is_reached(addresses: int) -> None:
    async def scene() -> None:
        shared = store()
        hosts = [Host(shared, addresses), Host(shared, addresses)]
        await asyncio.sleep(4)
        assert sum(host.left_since(2) for host in hosts) >= 0.98 * 475 * 2
        assert most(*hosts) <= 500
        for host in hosts:
            await host.stop()

    run_virtually(scene(), grain_s=0.001)


def test_an_address_of_one_host_keeps_its_limit() -> None:
    async def scene() -> None:
        shared = store()
        hosts = [Host(shared, 1, 60, per_address=300, egress=name) for name in "ab"]
        await asyncio.sleep(5)
        assert max(map(most, hosts)) <= 300
        assert sum(host.left_since(2) for host in hosts) >= 0.95 * 475 * 2
        for host in hosts:
            await host.stop()

    run_virtually(scene(), grain_s=0.001)


def test_ten_hosts_that_are_throttled_together_pause_once() -> None:
    """With ten cuts, the share would be a thousandth, and the pause would double ten times."""

    async def scene() -> None:
        shared = store()
        hosts = [Host(shared) for _ in range(10)]
        await asyncio.sleep(3)
        for host in hosts:
            host.pacer.throttled(host.times[-1])
            await asyncio.sleep(0.002)  # some have heard of it before, some have not
        await asyncio.sleep(0.5)
        assert {host.pacer.slowdown.share for host in hosts if host.pacer.slowdown} == {0.5}
        assert max(host.pacer.pause_left_s for host in hosts) < 1
        assert shared.accounts["account"].share == 0.5
        await asyncio.sleep(10)
        assert not any(host.pacer.slowed for host in hosts)
        assert sum(host.left_since(1) for host in hosts) >= 0.95 * 475
        assert most(*hosts) <= 500
        for host in hosts:
            await host.stop()

    run_virtually(scene())


def test_a_provider_that_goes_on_throttling_is_given_longer_pauses() -> None:
    async def scene() -> None:
        shared = store()
        hosts = [Host(shared) for _ in range(3)]
        await asyncio.sleep(3)
        pauses = []
        for turn in range(4):
            host = hosts[turn % 3]
            await asyncio.sleep(0.1)
            pauses.append(host.pacer.throttled(now()))
            await asyncio.sleep(pauses[-1] + 1)
        assert pauses[-1] > 4  # of at most 1 s at first
        for host in hosts:
            await host.stop()

    run_virtually(scene())


def test_a_host_that_joins_later_goes_as_slowly() -> None:
    async def scene() -> None:
        shared = store()
        first = Host(shared)
        await asyncio.sleep(3)
        first.pacer.throttled(first.times[-1], 30.0)
        await asyncio.sleep(0.1)
        second = Host(shared)
        await asyncio.sleep(28)
        assert second.times == []
        await asyncio.sleep(3)
        assert second.times
        assert second.pacer.slowed
        assert most(first, second) < 400
        await first.stop()
        await second.stop()

    run_virtually(scene())


def test_a_cut_of_long_ago_slows_nobody_down() -> None:
    """Not who joins, and not when the clock of the store steps."""

    async def scene() -> None:
        offset_s = 1e6
        shared = SimulatedStore(lambda: now() + offset_s)
        first = Host(shared)
        await asyncio.sleep(3)
        first.pacer.throttled(first.times[-1])
        await asyncio.sleep(20)
        assert not first.pacer.slowed
        second = Host(shared)
        await asyncio.sleep(2)
        assert not second.pacer.slowed
        offset_s -= 3600
        await asyncio.sleep(2)
        assert not first.pacer.slowed
        assert not second.pacer.slowed
        assert first.left_since(1) + second.left_since(1) >= 0.95 * 475
        await first.stop()
        await second.stop()

    run_virtually(scene())


def test_late_requests_of_one_host_take_slots_from_all() -> None:
    """A blackout: what the network holds back may arrive at any moment."""

    async def scene() -> None:
        shared = store()
        hosts = [Host(shared) for _ in range(3)]
        await asyncio.sleep(3)
        for host in hosts:
            for _ in range(6):  # not so many that it waits
                host.pacer.forfeit()
        await asyncio.sleep(TIMINGS.span_s(475))
        sent = [len(host.times) for host in hosts]
        await asyncio.sleep(2)
        rate = (sum(len(host.times) for host in hosts) - sum(sent)) / 2
        assert 0.9 * 457 <= rate <= 458
        for host in hosts:
            for _ in range(6):
                host.pacer.arrived()
        arrived_at = now()
        await asyncio.sleep(3)
        around = [t for host in hosts for t in host.times if arrived_at - 1 < t <= arrived_at + 1]
        counted = World.__new__(World)
        counted.times = sorted(around + [arrived_at] * 18)
        assert counted.busiest <= 500
        assert sum(host.left_since(1) for host in hosts) >= 0.95 * 475
        for host in hosts:
            await host.stop()

    run_virtually(scene())


def busiest_after_a_blackout(seconds: float, cut_off: int) -> int:
    """Most arrivals in a second. All that was sent in a blackout arrives at its end, at once."""
    busiest = 0

    async def scene() -> None:
        nonlocal busiest
        shared = store()
        hosts = [Host(shared) for _ in range(3)]
        await asyncio.sleep(3)
        for host in hosts[:cut_off]:
            host.blackout = (now(), now() + seconds)
        await asyncio.sleep(seconds + 3)
        counted = World.__new__(World)
        counted.times = sorted(time for host in hosts for time in host.arrived)
        busiest = counted.busiest
        assert sum(host.left_since(1) for host in hosts) >= 0.95 * 475
        for host in hosts:
            await host.stop()

    run_virtually(scene(), grain_s=0.001)
    return busiest


@pytest.mark.parametrize("seconds", [0.3, 1.5])
@pytest.mark.parametrize("cut_off", [1, 3])
def test_after_a_blackout_no_more_arrive_than_the_ceiling_permits(
    seconds: float, cut_off: int
) -> None:
    assert busiest_after_a_blackout(seconds, cut_off) <= 500


def test_without_waiting_for_late_requests_too_many_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "BLACKOUT_SHARE", 10.0)
    assert busiest_after_a_blackout(0.3, 3) > 500


def test_nothing_leaves_while_the_lease_does_not_permit_it() -> None:
    async def scene() -> None:
        shared = store()
        first, second = Host(shared), Host(shared, ready=60)
        await asyncio.sleep(3)
        first.may_leave = False
        sent, active_s = len(first.times), first.pacer.active_s
        await asyncio.sleep(2)
        assert len(first.times) == sent
        assert first.pacer.active_s < active_s + 0.3  # as if held
        assert second.left_since(1) >= 0.95 * 475  # it takes no slots meanwhile
        first.may_leave = True
        await asyncio.sleep(1)
        assert first.left_since(0.5) > 0
        await first.stop()
        await second.stop()

    run_virtually(scene())


def test_a_pacer_can_be_stopped_while_nothing_may_leave() -> None:
    async def scene() -> None:
        pacer = Pacer(500, may_leave=lambda: False)
        waiting = asyncio.create_task(pacer.depart())
        await asyncio.sleep(1)
        assert not waiting.done()
        pacer.stop()
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), ConnectionError)

    run_virtually(scene())
