"""Two limits at once, and several source addresses, on a virtual clock.

`Network` stands in for the transports: it records what leaves from where, which is the oracle, and
decides which requests fail. The addresses are A, B and C.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import run_virtually, settle, stall

from bulkcert.errors import JobError, ProviderUnusableError
from bulkcert.providers.call import (
    CallKind,
    CallResult,
    Channel,
    OnDeparture,
    Pace,
    Request,
    Response,
    Signer,
    Source,
)
from bulkcert.providers.sources import Sources, open_channel
from bulkcert.providers.transport import Transport
from bulkcert.ratelimit import Pacer
from bulkcert.timings import SourceTimings, Timings

GOOD = Response(200, {}, b'{"RequestId": "R"}', 0.0)
THROTTLED = Response(429, {}, b'{"Code": "Throttling"}', 0.0)
PAGE = Response(403, {}, b"<html>blocked</html>", 0.0)
DOWN = Response(503, {}, b"<html>Service Unavailable</html>", 0.0)
LOST = CallResult(CallKind.IN_DOUBT, message="connection lost")
NO_CONNECTION = CallResult(CallKind.NOT_SENT, message="no connection")

Fate = Callable[[str, float], Response | CallResult]
"""What becomes of a request that leaves from an address at a time."""


def now() -> float:
    return asyncio.get_running_loop().time()


def busiest(times: list[float]) -> int:
    """Most in any window [t, t + 1 s)."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


class Network:
    """Several addresses under one account.

    Args:
        addresses: where requests are sent from.
        each: ceiling of each address.
        account: ceiling of all together.
        latency_s: time until a response, by address.
    """

    def __init__(
        self,
        addresses: str = "AB",
        *,
        each: float = 60,
        account: float = 100,
        patience_s: float = 60.0,
        latency_s: Mapping[str, float] | None = None,
    ) -> None:
        self.left: dict[str, list[float]] = {address: [] for address in addresses}
        self.notices: list[str] = []
        self.details: list[str] = []
        self.closed: list[str] = []
        self.fate: Fate = lambda address, time: GOOD
        self.latency_s = dict.fromkeys(addresses, 0.02) | dict(latency_s or {})
        self.account = Pacer(account)
        self.sources = Sources(
            [(a, _Wire(self, a, Pacer(each, parent=self.account))) for a in addresses],
            self.account,
            patience_s=patience_s,
            notify=self.notices.append,
            explain=self.details.append,
        )

    @property
    def all_left(self) -> list[float]:
        return sorted(time for times in self.left.values() for time in times)

    def since(self, time: float) -> Counter[str]:
        """How many requests have left from each address since then."""
        return Counter({a: sum(t >= time for t in times) for a, times in self.left.items()})

    async def send(self) -> Response | CallResult:
        return await self.sources.send(Request("GET", "/"), lambda _: None)

    async def send_for(self, seconds: float, workers: int = 60) -> None:
        """Send without a break, with that many requests at a time."""
        end = now() + seconds

        async def work() -> None:
            while now() < end:
                await self.send()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(work())

    async def trip(self, address: str, failures: int = 11) -> None:
        """Have requests from an address fail, one after another; by default just enough."""
        self.fate = lambda a, time: LOST if a == address else GOOD
        begun_at = now()
        while self.since(begun_at)[address] < failures:
            await self.send()


class _Wire:
    """Stands in for a transport."""

    def __init__(self, network: Network, address: str, pace: Pace) -> None:
        self._network, self._address, self.pace = network, address, pace

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | CallResult:
        departed_at = await self.pace.depart()
        assert departed_at == now()
        self._network.left[self._address].append(departed_at)
        on_departure("")
        fate = self._network.fate(self._address, departed_at)
        await asyncio.sleep(self._network.latency_s[self._address])
        return fate

    async def close(self) -> None:
        self._network.closed.append(self._address)


ODD = [
    Response(400, {}, b"\xef\xbb\xbf" + b'{"Code": "InternalError"}', 0.0),
    Response(400, {}, '{"Code": "InternalError"}'.encode("utf-16"), 0.0),
    Response(503, {}, b"<?xml version='1.0'?><Error><RequestId>R</RequestId></Error>", 0.0),
    Response(429, {}, b"<html>Too Many Requests</html>", 0.0),
    Response(503, {"Retry-After": "1"}, b"<html>Maintenance</html>", 0.0),
]


# ---- two limits


@pytest.mark.parametrize(
    ("addresses", "expected"), [("A", 300), ("AB", 500), ("ABC", 500)], ids=lambda value: str(value)
)
def test_both_ceilings_are_kept_and_used(addresses: str, expected: float) -> None:
    async def scene() -> None:
        network = Network(addresses, each=300, account=500)
        await network.send_for(10)
        assert busiest(network.all_left) <= 500
        assert all(busiest(times) <= 300 for times in network.left.values())
        assert len(network.all_left) >= 0.97 * expected * 10
        counts = [len(times) for times in network.left.values()]
        assert max(counts) - min(counts) <= 0.02 * sum(counts)

    run_virtually(scene(), grain_s=0.001)


@given(
    each=st.sampled_from([1, 3, 20.5, 100, 300]),
    account=st.sampled_from([1, 2.5, 50, 250, 500]),
    scene=st.lists(
        st.tuples(st.sampled_from(["wait", "stall", "throttle", "burst"]), st.floats(0, 2)),
        max_size=10,
    ),
)
def test_whatever_happens_both_ceilings_hold(
    each: float, account: float, scene: list[tuple[str, float]]
) -> None:
    async def play() -> None:
        parent = Pacer(account, random.Random(0))
        pacers = [Pacer(each, random.Random(1), parent=parent) for _ in range(3)]
        left: list[list[float]] = [[], [], []]

        async def send(number: int) -> None:
            left[number].append(await pacers[number].depart())

        tasks = []
        for what, amount in scene:
            match what:
                case "wait":
                    await asyncio.sleep(amount)
                case "stall":
                    stall(amount)
                case "throttle":
                    pacers[0].throttled(now(), amount)
                    assert parent.pause_left_s >= amount
                case "burst":
                    count = 1 + int(amount * min(each, 100))
                    tasks += [asyncio.create_task(send(n % 3)) for n in range(count)]
        await asyncio.gather(*tasks)
        everything = sorted(time for times in left for time in times)
        assert busiest(everything) <= max(1, int(account))
        assert all(busiest(times) <= max(1, int(each)) for times in left)
        assert parent.departures == len(everything)
        assert [pacer.departures for pacer in pacers] == [len(times) for times in left]

    run_virtually(play())


def test_a_throttled_response_slows_the_account() -> None:
    async def scene() -> None:
        network = Network()
        await network.send()
        network.sources.pace.throttled(now(), 5.0)
        assert network.account.pause_left_s >= 5.0
        assert network.account.slowed

    run_virtually(scene())


def test_what_is_sent_and_received_is_passed_on_unchanged() -> None:
    async def scene() -> None:
        sent: list[tuple[Request, OnDeparture, Signer | None]] = []

        class Wire:
            pace: Pace = Pacer(300)

            async def send(
                self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
            ) -> Response | CallResult:
                sent.append((request, on_departure, sign))
                return fate

            async def close(self) -> None:
                """Nothing is open."""

        def sign() -> Mapping[str, str]:
            return {}

        channels: list[tuple[str | None, Channel]] = [("A", Wire()), ("B", Wire())]
        sources = Sources(channels, Wire.pace, patience_s=60.0, notify=print)
        request, on_departure = Request("GET", "/"), lambda _: None
        for fate in (GOOD, THROTTLED, PAGE, LOST, NO_CONNECTION):
            assert await sources.send(request, on_departure, sign) is fate
        assert sent == [(request, on_departure, sign)] * 5

    run_virtually(scene())


def test_a_slow_address_does_not_hold_up_the_other() -> None:
    async def scene() -> None:
        network = Network(latency_s={"B": 1.0})
        await network.send_for(10, workers=40)
        assert len(network.left["A"]) >= 0.96 * 60 * 10
        assert len(network.left["B"]) >= 10 * 10

    run_virtually(scene())


def test_addresses_take_turns_when_nothing_is_in_flight() -> None:
    async def scene() -> None:
        network = Network("ABC")
        for _ in range(9):
            await network.send()
        order = sorted((time, address) for address in "ABC" for time in network.left[address])
        assert "".join(address for _, address in order) == "ABCABCABC"

    run_virtually(scene())


def test_the_address_with_the_fewest_requests_in_flight_is_next() -> None:
    async def scene() -> None:
        network = Network(latency_s={"A": 100.0, "B": 0.001})
        sending = [asyncio.create_task(network.send())]
        await asyncio.sleep(1)
        for _ in range(5):
            await network.send()
        assert network.since(0) == {"A": 1, "B": 5}
        await asyncio.gather(*sending)
        # A has caught up: it has nothing in flight any more, and has sent less
        await network.send()
        assert network.since(0) == {"A": 2, "B": 5}

    run_virtually(scene())


# ---- tripped sources


def test_a_blocked_address_is_given_up() -> None:
    async def scene(fate: Response | CallResult) -> None:
        network = Network()
        await network.send_for(1)
        assert network.notices == []
        blocked_at = now()
        network.fate = lambda address, time: fate if address == "B" else GOOD
        await network.send_for(20)
        # what was in flight, ten that trip it, and five probes a second apart; then nothing more
        assert 10 < network.since(blocked_at)["B"] <= 60 + 10 + 5
        assert max(network.left["B"]) <= blocked_at + 1 + 6 * 1.1
        assert network.notices == [
            "Source address B has stopped responding; the other address still responds."
            " It may be blocked. Nothing more is sent from it; continuing from A."
        ]
        assert network.since(now() - 10)["A"] >= 0.97 * 60 * 10

    for fate in (LOST, PAGE, DOWN, NO_CONNECTION):
        run_virtually(scene(fate))


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd.body)[:20])
def test_an_odd_form_is_a_response_all_the_same(odd: Response) -> None:
    async def scene() -> None:
        network = Network()
        network.fate = lambda address, time: odd if address == "B" else GOOD
        await network.send_for(5)
        assert network.notices == []
        assert network.since(now() - 2)["B"] > 20

    run_virtually(scene())


def test_the_notice_names_the_addresses_that_are_left() -> None:
    async def scene() -> None:
        network = Network("ABC")
        network.fate = lambda address, time: LOST if address == "B" else GOOD
        await network.send_for(20)
        assert network.notices == [
            "Source address B has stopped responding; the other addresses still respond."
            " It may be blocked. Nothing more is sent from it; continuing from A, C."
        ]

    run_virtually(scene())


def test_a_source_that_is_tripped_and_one_that_responds_again_are_explained_once() -> None:
    async def scene() -> None:
        network = Network("AB")
        back_at = now() + 2.5
        network.fate = lambda address, time: LOST if address == "B" and time < back_at else GOOD
        await network.send_for(10)
        assert network.notices == []
        assert network.details == [
            "source address B does not respond: only a probe every 1 s is sent from it",
            "source address B responds again",
        ]

    run_virtually(scene())


@pytest.mark.parametrize(("failures", "tripped"), [(10, False), (11, True)])
@pytest.mark.parametrize("before", [0, 4], ids=["from the start", "after responses"])
def test_a_failure_and_ten_that_began_after_it_trip_a_source(
    failures: int, tripped: bool, before: int
) -> None:
    async def scene() -> None:
        network = Network()
        for _ in range(before):
            await network.send()
        await network.trip("B", failures)
        tripped_at = now()
        while now() < tripped_at + 0.9:
            await network.send()
        assert (network.since(tripped_at)["B"] == 0) == tripped

    run_virtually(scene())


def test_requests_in_flight_at_the_first_failure_do_not_trip_a_source() -> None:
    async def scene() -> None:
        network = Network("A", latency_s={"A": 5.0})
        network.fate = lambda address, time: LOST
        cut = [asyncio.create_task(network.send()) for _ in range(40)]
        await asyncio.gather(*cut)
        network.fate = lambda address, time: GOOD
        before = now()
        await asyncio.gather(*(asyncio.create_task(network.send()) for _ in range(20)))
        assert network.since(before)["A"] == 20
        assert now() - before < 6

    run_virtually(scene())


def test_a_response_makes_the_count_of_failures_begin_anew() -> None:
    async def scene() -> None:
        network = Network()
        for _ in range(5):
            await network.trip("B", 10)
            network.fate = lambda address, time: GOOD
            for _ in range(2):
                await network.send()
        before = now()
        while now() < before + 0.9:
            await network.send()
        assert network.since(before)["B"] > 10

    run_virtually(scene())


def test_probes_are_a_second_apart_and_one_at_a_time() -> None:
    async def scene() -> None:
        network = Network("A", latency_s={"A": 0.02})
        await network.trip("A")
        tripped_at = now()
        network.latency_s["A"] = 0.25
        sending = [asyncio.create_task(network.send()) for _ in range(20)]
        await asyncio.sleep(6)
        probes = [time - tripped_at for time in network.left["A"] if time >= tripped_at]
        # a second after the trip, then a second after each probe has failed
        assert probes == pytest.approx([1.0, 2.25, 3.5, 4.75], abs=0.02)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    run_virtually(scene())


@pytest.mark.parametrize("before", [0, 4], ids=["from the start", "after responses"])
def test_a_source_is_given_up_after_its_fifth_failed_probe(before: int) -> None:
    async def scene() -> None:
        network = Network(latency_s={"B": 0.0})
        for _ in range(before):
            await network.send()
        await network.trip("B")
        tripped_at = now()
        probes: list[int] = []
        while now() < tripped_at + 12:
            await network.send()
            if network.notices and not probes:
                probes.append(network.since(tripped_at + 0.5)["B"])
        assert probes == [5]
        assert network.since(tripped_at + 0.5)["B"] == 5

    run_virtually(scene())


def test_a_response_between_probes_makes_their_count_begin_anew() -> None:
    async def scene() -> None:
        network = Network()
        for _ in range(3):
            await network.trip("B")
            tripped_at = now()
            while network.since(tripped_at + 0.5)["B"] < 4:
                await network.send()
            network.fate = lambda address, time: GOOD
            await network.send_for(2)
        assert network.notices == []
        assert network.since(now() - 1)["B"] >= 40

    run_virtually(scene())


def test_probes_count_only_while_another_source_responds() -> None:
    async def scene() -> None:
        network = Network(patience_s=1000)
        await network.send_for(1)
        network.fate = lambda address, time: LOST
        await network.send_for(100)
        assert network.notices == []
        network.fate = lambda address, time: LOST if address == "B" else GOOD
        back_at = now()
        await network.send_for(4)
        assert network.notices == []
        await network.send_for(4)
        assert len(network.notices) == 1
        assert 5 <= network.since(back_at)["B"] <= 7

    run_virtually(scene())


def test_probes_stop_counting_when_the_other_sources_stop_responding() -> None:
    async def scene() -> None:
        network = Network(patience_s=1000)
        await network.trip("B")
        tripped_at = now()
        while network.since(tripped_at + 0.5)["B"] < 1:
            await network.send()
        network.fate = lambda address, time: LOST
        await network.send_for(30)
        assert network.notices == []

    run_virtually(scene())


def test_responses_from_before_a_source_was_tripped_do_not_count() -> None:
    """In an outage, what the others got before it says nothing about this source."""

    async def scene() -> None:
        network = Network()
        for _ in range(4):
            await network.send()
        network.fate = lambda address, time: LOST
        for _ in range(2 * 11 + 2):  # trips both, and probes each of them once
            await network.send()
        assert network.since(0) == {"A": 14, "B": 14}
        network.fate = lambda address, time: LOST if address == "B" else GOOD
        back_at = now()
        while not network.notices:
            await network.send()
        # A is probed first, and responds, so that each probe of B counts
        assert network.since(back_at)["B"] == 5

    run_virtually(scene())


def test_an_address_that_is_never_answered_gets_no_more_than_its_share() -> None:
    """A block may swallow requests: they come back only after the time-out."""

    async def scene() -> None:
        network = Network()
        await network.send_for(1)
        blocked_at = now()
        network.latency_s["B"] = 4.0
        network.fate = lambda address, time: LOST if address == "B" else GOOD
        await network.send_for(40, workers=200)
        assert network.since(blocked_at)["B"] <= 200 + 10 + 5
        assert len(network.notices) == 1
        assert network.since(blocked_at + 10)["A"] >= 0.97 * 60 * 30

    run_virtually(scene())


@pytest.mark.parametrize("share", [0.002, 0.05, 0.2])
def test_connections_that_are_cut_now_and_then_trip_no_source(share: float) -> None:
    async def scene() -> None:
        network, rng = Network(), random.Random(1)
        network.fate = lambda address, time: LOST if rng.random() < share else GOOD
        await network.send_for(20)
        assert network.notices == []
        assert len(network.all_left) >= 0.96 * 100 * 20

    run_virtually(scene())


def test_a_cut_of_everything_in_flight_trips_no_source() -> None:
    async def scene() -> None:
        network = Network(latency_s={"A": 0.5, "B": 0.5})
        cut_at = now() + 3
        network.fate = lambda a, time: LOST if cut_at - 0.5 < time < cut_at else GOOD
        await network.send_for(10, workers=100)
        assert network.notices == []
        assert len(network.all_left) >= 0.96 * 100 * 10

    run_virtually(scene())


@pytest.mark.parametrize("seconds", [1, 10, 50])
def test_an_outage_of_the_provider_gives_up_no_source(seconds: float) -> None:
    async def scene() -> None:
        network = Network("ABC")
        await network.send_for(1)
        begins, ends = now(), now() + seconds
        network.fate = lambda a, time: LOST if begins <= time < ends else GOOD
        await network.send_for(seconds + 20, workers=20)
        assert network.notices == []
        during = [time for time in network.all_left if begins + 1 <= time < ends]
        assert len(during) <= 3 * seconds + 3  # a probe a second from each, and no more
        assert busiest(network.all_left) <= 100
        last = Counter({a: sum(t >= now() - 5 for t in ts) for a, ts in network.left.items()})
        assert min(last.values()) >= 0.9 * 100 * 5 / 3

    run_virtually(scene())


def test_a_source_that_responds_again_in_time_is_used_again() -> None:
    async def scene() -> None:
        network = Network()
        ends = now() + 4
        network.fate = lambda a, time: LOST if a == "B" and time < ends else GOOD
        await network.send_for(30)
        assert network.notices == []
        assert network.since(now() - 10)["B"] >= 0.9 * 50 * 10

    run_virtually(scene())


# ---- all sources tripped


@pytest.mark.parametrize("addresses", ["A", "AB"])
def test_the_run_stops_when_no_source_responds_for_too_long(addresses: str) -> None:
    async def scene() -> None:
        network = Network(addresses, patience_s=30)
        await network.send_for(1)
        blocked_at = now()
        network.fate = lambda a, time: LOST
        with pytest.raises(ExceptionGroup) as caught:
            await network.send_for(100)
        errors = caught.value.exceptions
        assert all(isinstance(error, ProviderUnusableError) for error in errors)
        assert "No source address has got a response for 3" in str(errors[0])
        assert blocked_at + 30 <= now() < blocked_at + 35
        # those that were already waiting for their turn, twice, and then a probe each second
        probes = len(addresses) * (10 + 32)
        assert network.since(blocked_at).total() <= 2 * 60 + probes

    run_virtually(scene())


def test_patience_counts_from_when_the_last_source_was_tripped() -> None:
    async def scene() -> None:
        network = Network("A", patience_s=20)
        await network.trip("A")
        tripped_at = now()

        async def send_on() -> None:
            while True:
                await network.send()

        with pytest.raises(ProviderUnusableError) as caught:
            await send_on()
        assert now() - tripped_at == pytest.approx(20, abs=1.1)
        assert now() - tripped_at >= 20
        assert caught.value.problem.startswith("No source address has got a response for 2")
        assert "connection.source_addresses" in caught.value.next_step

    run_virtually(scene())


def test_failures_that_trip_no_source_use_up_no_patience() -> None:
    async def scene() -> None:
        network = Network("A", patience_s=20, latency_s={"A": 15.0})
        network.fate = lambda address, time: LOST
        for _ in range(10):
            assert await network.send() is LOST

    run_virtually(scene())


def test_the_shortest_patience_does_not_keep_the_first_request_from_leaving() -> None:
    async def scene() -> None:
        network = Network(patience_s=0.1)
        assert await network.send() is GOOD

    run_virtually(scene())


def test_patience_begins_anew_after_each_response() -> None:
    async def scene() -> None:
        network = Network("A", patience_s=20)
        for _ in range(5):
            await network.trip("A")
            tripped_at = now()
            while now() < tripped_at + 15:
                await network.send()
            network.fate = lambda address, time: GOOD
            await network.send_for(3)
        assert network.since(now() - 1)["A"] >= 55

    run_virtually(scene())


@pytest.mark.parametrize("addresses", ["A", "AB"])
def test_a_throttle_longer_than_the_patience_does_not_end_the_run(addresses: str) -> None:
    """The first response after an outage may be a 429 with a long Retry-After."""

    async def scene() -> None:
        network = Network(addresses, patience_s=20)
        network.fate = lambda address, time: LOST
        for _ in range(11 * len(addresses) + 5):
            await network.send()
        responses = iter([THROTTLED])

        def fate(address: str, time: float) -> Response | CallResult:
            if (response := next(responses, GOOD)) is THROTTLED:
                network.sources.pace.throttled(time, 100.0)
            return response

        network.fate = fate
        resumed_at = now()
        await network.send_for(130)
        assert network.notices == []
        # nothing but the probes that had left already until the pause is over
        assert len([t for t in network.all_left if resumed_at <= t < resumed_at + 95]) <= 3
        last = network.since(now() - 5)
        assert sum(last.values()) >= 0.95 * min(100, 60 * len(addresses)) * 5

    run_virtually(scene())


def test_a_pause_does_not_count_as_silence_of_a_probed_source() -> None:
    """While B waits for its probe to be permitted, its patience and its probes do not run out."""

    async def scene() -> None:
        network = Network(patience_s=20)
        await network.trip("B")
        tripped_at = now()
        network.sources.pace.throttled(now(), 100.0)
        network.fate = lambda address, time: GOOD
        await network.send_for(130)
        assert network.notices == []
        assert network.since(tripped_at + 110)["B"] >= 40 * 10

    run_virtually(scene())


def test_the_last_source_is_not_given_up() -> None:
    async def scene() -> None:
        network = Network(patience_s=20)
        network.fate = lambda a, time: LOST if a == "B" else GOOD
        await network.send_for(10)
        network.fate = lambda a, time: LOST
        with pytest.raises(ExceptionGroup) as caught:
            await network.send_for(100)
        assert isinstance(caught.value.exceptions[0], ProviderUnusableError)
        assert len(network.notices) == 1
        assert network.since(now() - 15)["B"] == 0

    run_virtually(scene())


# ---- cancelled while waiting


def test_a_request_that_is_cancelled_while_waiting_leaves_no_trace() -> None:
    async def scene() -> None:
        network = Network()
        await network.send_for(1)
        ends = now() + 10
        network.fate = lambda a, time: LOST if time < ends else GOOD
        tasks: list[asyncio.Task[Any]] = []
        for _ in range(10):
            tasks += [asyncio.create_task(network.send()) for _ in range(20)]
            await asyncio.sleep(0.7)
            for task in tasks[::2]:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await network.send_for(10)
        assert network.notices == []
        assert len(network.all_left) >= 0.9 * 100 * 8

    run_virtually(scene())


def test_a_cancelled_probe_makes_room_for_the_next_one_at_once() -> None:
    async def scene() -> None:
        network = Network("A", latency_s={"A": 0.02})
        await network.trip("A")
        network.latency_s["A"] = 50.0
        await asyncio.sleep(1.5)
        probe = asyncio.create_task(network.send())
        await settle()
        cancelled_at = now()
        probe.cancel()
        waiting = asyncio.create_task(network.send())
        await asyncio.gather(probe, return_exceptions=True)
        await settle()
        await asyncio.sleep(0.5)
        assert network.since(cancelled_at)["A"] == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    run_virtually(scene())


def test_a_cancelled_request_is_no_longer_in_flight() -> None:
    async def scene() -> None:
        network = Network(latency_s={"A": 100.0, "B": 100.0})
        sending = [asyncio.create_task(network.send()) for _ in range(8)]
        await asyncio.sleep(1)
        for task in sending[::2]:  # all of A
            task.cancel()
        await asyncio.gather(*sending[::2], return_exceptions=True)
        before = now()
        more = [asyncio.create_task(network.send()) for _ in range(4)]
        await asyncio.sleep(1)
        assert network.since(before) == {"A": 4, "B": 0}
        for task in sending + more:
            task.cancel()
        await asyncio.gather(*sending, *more, return_exceptions=True)

    run_virtually(scene())


# ---- the channel of a job


def opened(
    addresses: list[str | None], *, blocks_sources: bool = False, pace: Pacer | None = None
) -> Channel:
    pace = pace or Pacer(300)
    return open_channel(
        "http://127.0.0.1:9",
        [Source(address, pace) for address in addresses],
        pace,
        timeout_s=1.0,
        patience_s=1.0,
        notify=lambda text: None,
        blocks_sources=blocks_sources,
    )


@pytest.mark.parametrize(
    ("addresses", "blocks", "kind"),
    [
        ([None], False, Transport),
        (["127.0.0.2"], False, Transport),
        ([None], True, Sources),
        (["127.0.0.2", "127.0.0.3"], False, Sources),
    ],
)
async def test_sources_are_watched_if_there_are_several_or_they_may_be_blocked(
    addresses: list[str | None], blocks: bool, kind: type
) -> None:
    pace = Pacer(300)
    channel = opened(addresses, blocks_sources=blocks, pace=pace)
    assert type(channel) is kind
    assert channel.pace is pace
    await channel.close()


@pytest.mark.parametrize("addresses", [["127.0.0.2"], ["127.0.0.2", "127.0.0.3"]])
def test_each_source_sends_as_the_job_says(
    addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Any, ...]] = []

    def transport(endpoint: str, pace: Pace, **how: Any) -> Any:
        made.append((endpoint, pace, how))

    monkeypatch.setattr("bulkcert.providers.sources.Transport", transport)
    paces = [Pacer(300) for _ in addresses]
    timings = Timings(connect_timeout_s=7.0, sources=SourceTimings(failures_to_trip=3))
    permit: Any = object()
    channel = open_channel(
        "https://example.com",
        [Source(address, pace) for address, pace in zip(addresses, paces, strict=True)],
        Pacer(500),
        timeout_s=1.5,
        patience_s=2.5,
        notify=lambda text: None,
        blocks_sources=False,
        ca_file=Path("ca.pem"),
        proxy="http://127.0.0.1:3128",
        permit=permit,
        timings=timings,
    )
    shared = {"timeout_s": 1.5, "ca_file": Path("ca.pem"), "proxy": "http://127.0.0.1:3128"}
    shared |= {"permit": permit, "timings": timings}
    assert made == [
        ("https://example.com", pace, {**shared, "local_address": address})
        for address, pace in zip(addresses, paces, strict=True)
    ]
    if isinstance(channel, Sources):
        assert {breaker.timings for breaker in channel._all} == {timings.sources}


def test_closing_closes_all_sources() -> None:
    async def scene() -> None:
        network = Network("ABC")
        await network.sources.close()
        assert network.closed == ["A", "B", "C"]

    run_virtually(scene())


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7"])
async def test_an_address_of_another_machine_is_an_error_in_the_job(address: str) -> None:
    with pytest.raises(JobError, match=f"cannot send from {address}: ") as caught:
        opened(["127.0.0.2", address])
    assert "address of this machine" in caught.value.next_step
    assert caught.value.exit_code == 2


async def test_a_ca_file_that_cannot_be_used_is_an_error_in_the_job(tmp_path: Path) -> None:
    pace = Pacer(300)
    with pytest.raises(JobError, match=r"connection\.ca_file can't be used"):
        open_channel(
            "https://127.0.0.1:9",
            [Source(None, pace)],
            pace,
            timeout_s=1.0,
            patience_s=1.0,
            notify=lambda text: None,
            blocks_sources=False,
            ca_file=tmp_path,
        )
