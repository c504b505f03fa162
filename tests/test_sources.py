"""Two limits at once, and several source addresses, on a virtual clock.

`Network` stands for the transports: it notes what leaves from where, which is the oracle, and says
which requests fail. The addresses are A, B, C.
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
from virtual_time import run_virtually, stall

from bulkcert.errors import JobError, ProviderUnusableError
from bulkcert.model import Answer, AnswerKind
from bulkcert.providers import sources as sources_module
from bulkcert.providers.base import Action, Setup, Source
from bulkcert.providers.call import OnDeparture, Request, Response, Signer
from bulkcert.providers.sources import channel
from bulkcert.ratelimit import Pacer

TRIP = 10
PROBES = 5
PROBE_EVERY_S = 1.0

GOOD = Response(200, {}, b'{"RequestId": "R"}', 0.0)
PAGE = Response(403, {}, b"<html>blocked</html>", 0.0)
LOST = Answer(AnswerKind.IN_DOUBT, message="connection lost")
NO_CONNECTION = Answer(AnswerKind.NOT_SENT, message="no connection")

Fate = Callable[[str, float], Response | Answer]
"""What becomes of a request from an address that leaves at a time."""


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
        addresses: from where is sent.
        each: ceiling of each.
        account: ceiling of all.
        latency_s: until an answer, by address.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        addresses: str = "AB",
        *,
        each: float = 60,
        account: float = 100,
        patience_s: float = 60.0,
        latency_s: Mapping[str, float] | None = None,
        blocks: bool = True,
    ) -> None:
        self.left: dict[str, list[float]] = {address: [] for address in addresses}
        self.told: list[str] = []
        self.fate: Fate = lambda address, time: GOOD
        self.latency_s = dict.fromkeys(addresses, 0.02) | dict(latency_s or {})
        self.account = Pacer(account)
        monkeypatch.setattr(sources_module, "check_local", lambda address: None)
        monkeypatch.setattr(sources_module, "_transport", lambda setup, source: _Wire(self, source))
        self.lanes = channel(
            Setup(
                action=Action("revoke", changes=True, identifiers=()),
                endpoint="",
                options={},
                parameters={},
                credentials={},
                pace=self.account,
                sources=tuple(Source(a, Pacer(each, above=self.account)) for a in addresses),
                blocks_sources=blocks,
                patience_s=patience_s,
                timeout_s=30.0,
                tell=self.told.append,
                directory=Path(),
            )
        )

    @property
    def all_left(self) -> list[float]:
        return sorted(time for times in self.left.values() for time in times)

    def since(self, time: float) -> Counter[str]:
        """How many have left from each address since then."""
        return Counter({a: sum(t >= time for t in times) for a, times in self.left.items()})

    async def send(self) -> Response | Answer:
        return await self.lanes.send(Request("GET", "/"), lambda: None)

    async def send_for(self, seconds: float, workers: int = 60) -> None:
        """Send without a break, so many at once."""
        end = now() + seconds

        async def work() -> None:
            while now() < end:
                await self.send()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(work())


class _Wire:
    """Stands for a transport."""

    def __init__(self, network: Network, source: Source) -> None:
        assert source.address
        self._network, self._address, self._pace = network, source.address, source.pace

    async def send(
        self, request: Request, on_departure: OnDeparture, sign: Signer | None = None
    ) -> Response | Answer:
        departed_at = await self._pace.depart()
        assert departed_at == now()
        self._network.left[self._address].append(departed_at)
        on_departure()
        fate = self._network.fate(self._address, departed_at)
        await asyncio.sleep(self._network.latency_s[self._address])
        return fate


# ---- two limits


@pytest.mark.parametrize(
    ("addresses", "expected"), [("A", 300), ("AB", 500), ("ABC", 500)], ids=lambda value: str(value)
)
def test_both_ceilings_are_kept_and_used(
    monkeypatch: pytest.MonkeyPatch, addresses: str, expected: float
) -> None:
    async def scene() -> None:
        network = Network(monkeypatch, addresses, each=300, account=500)
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
        above = Pacer(account, random.Random(0))
        pacers = [Pacer(each, random.Random(1), above=above) for _ in range(3)]
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
                    assert above.pause_left_s >= amount
                case "burst":
                    count = 1 + int(amount * min(each, 100))
                    tasks += [asyncio.create_task(send(n % 3)) for n in range(count)]
        await asyncio.gather(*tasks)
        everything = sorted(time for times in left for time in times)
        assert busiest(everything) <= max(1, int(account))
        assert all(busiest(times) <= max(1, int(each)) for times in left)
        assert above.departures == len(everything)
        assert [pacer.departures for pacer in pacers] == [len(times) for times in left]

    run_virtually(play())


def test_a_throttled_answer_slows_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        network = Network(monkeypatch)
        await network.send()
        network.lanes.pace.throttled(now(), 5.0)
        assert network.account.pause_left_s >= 5.0
        assert network.account.slowed

    run_virtually(scene())


def test_a_slow_address_does_not_hold_up_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        network = Network(monkeypatch, latency_s={"B": 1.0})
        await network.send_for(10, workers=40)
        assert len(network.left["A"]) >= 0.96 * 60 * 10
        assert len(network.left["B"]) >= 10 * 10

    run_virtually(scene())


# ---- silent addresses


def test_a_blocked_address_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(fate: Response | Answer) -> None:
        network = Network(monkeypatch)
        await network.send_for(1)
        assert network.told == []
        blocked_at = now()
        network.fate = lambda address, time: fate if address == "B" else GOOD
        await network.send_for(20)
        # what was open, a sudden run and a few trials, a second apart; then nothing more
        assert TRIP < network.since(blocked_at)["B"] <= 60 + TRIP + PROBES
        assert max(network.left["B"]) <= blocked_at + 1 + (PROBES + 1) * (PROBE_EVERY_S + 0.1)
        [words] = network.told
        assert words.startswith("Source address B gets no answers any more")
        assert "going on from A" in words
        assert network.since(now() - 10)["A"] >= 0.97 * 60 * 10

    for fate in (LOST, PAGE, NO_CONNECTION):
        run_virtually(scene(fate))


def test_an_address_that_is_never_answered_gets_no_more_than_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A block may swallow requests: they come back after the time-out only."""

    async def scene() -> None:
        network = Network(monkeypatch)
        await network.send_for(1)
        blocked_at = now()
        network.latency_s["B"] = 4.0
        network.fate = lambda address, time: LOST if address == "B" else GOOD
        await network.send_for(40, workers=200)
        assert network.since(blocked_at)["B"] <= 200 + TRIP + PROBES
        assert len(network.told) == 1
        assert network.since(blocked_at + 10)["A"] >= 0.97 * 60 * 30

    run_virtually(scene())


@pytest.mark.parametrize("share", [0.002, 0.05, 0.2])
def test_cut_connections_stop_no_address(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    async def scene() -> None:
        network, rng = Network(monkeypatch), random.Random(1)
        network.fate = lambda address, time: LOST if rng.random() < share else GOOD
        await network.send_for(20)
        assert network.told == []
        assert len(network.all_left) >= 0.96 * 100 * 20

    run_virtually(scene())


def test_a_cut_of_everything_that_is_open_stops_no_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        network = Network(monkeypatch, latency_s={"A": 0.5, "B": 0.5})
        cut_at = now() + 3
        network.fate = lambda a, time: LOST if cut_at - 0.5 < time < cut_at else GOOD
        await network.send_for(10, workers=100)
        assert network.told == []
        assert len(network.all_left) >= 0.96 * 100 * 10

    run_virtually(scene())


@pytest.mark.parametrize("seconds", [1, 10, 50])
def test_an_outage_of_the_provider_stops_no_address(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    async def scene() -> None:
        network = Network(monkeypatch, "ABC")
        await network.send_for(1)
        begins, ends = now(), now() + seconds
        network.fate = lambda a, time: LOST if begins <= time < ends else GOOD
        await network.send_for(seconds + 20, workers=20)
        assert network.told == []
        during = [time for time in network.all_left if begins + 1 <= time < ends]
        assert len(during) <= 3 * seconds + 3  # a trial a second from each, and no more
        assert busiest(network.all_left) <= 100
        last = Counter({a: sum(t >= now() - 5 for t in ts) for a, ts in network.left.items()})
        assert min(last.values()) >= 0.9 * 100 * 5 / 3

    run_virtually(scene())


def test_an_address_that_is_answered_again_in_time_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        network = Network(monkeypatch)
        ends = now() + 1 + (PROBES - 2) * PROBE_EVERY_S
        network.fate = lambda a, time: LOST if a == "B" and time < ends else GOOD
        await network.send_for(30)
        assert network.told == []
        assert network.since(now() - 10)["B"] >= 0.9 * 50 * 10

    run_virtually(scene())


@pytest.mark.parametrize("addresses", ["A", "AB"])
def test_the_run_stops_when_nobody_is_answered_for_long(
    monkeypatch: pytest.MonkeyPatch, addresses: str
) -> None:
    async def scene() -> None:
        network = Network(monkeypatch, addresses, patience_s=30)
        await network.send_for(1)
        blocked_at = now()
        network.fate = lambda a, time: LOST
        with pytest.raises(ExceptionGroup) as caught:
            await network.send_for(100)
        errors = caught.value.exceptions
        assert all(isinstance(error, ProviderUnusableError) for error in errors)
        assert "No source address has been answered for 3" in str(errors[0])
        assert blocked_at + 30 <= now() < blocked_at + 35
        # those that had asked for their turn already, twice, and then a trial each second
        trials = len(addresses) * (TRIP + 32)
        assert network.since(blocked_at).total() <= 2 * 60 + trials

    run_virtually(scene())


def test_the_last_address_holds_when_it_falls_silent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        network = Network(monkeypatch, patience_s=20)
        network.fate = lambda a, time: LOST if a == "B" else GOOD
        await network.send_for(10)
        network.fate = lambda a, time: LOST
        with pytest.raises(ExceptionGroup) as caught:
            await network.send_for(100)
        assert isinstance(caught.value.exceptions[0], ProviderUnusableError)
        assert len(network.told) == 1
        assert network.since(now() - 15)["B"] == 0

    run_virtually(scene())


def test_who_is_called_off_while_waiting_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        network = Network(monkeypatch)
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
        assert network.told == []
        assert len(network.all_left) >= 0.9 * 100 * 8

    run_virtually(scene())


def test_a_single_address_that_nobody_blocks_is_left_to_the_guard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        network = Network(monkeypatch, "A", patience_s=1, blocks=False)
        network.fate = lambda a, time: LOST
        await network.send_for(5)
        assert len(network.all_left) >= 0.97 * 60 * 5

    run_virtually(scene())


# ---- addresses of this machine


@pytest.mark.parametrize("address", ["203.0.113.7", "2001:db8::7"])
async def test_an_address_of_somebody_else_is_a_fault_of_the_job(address: str) -> None:
    pacer = Pacer(300)
    with pytest.raises(JobError, match=f"{address} can't be sent from") as caught:
        channel(
            Setup(
                action=Action("revoke", changes=True, identifiers=()),
                endpoint="http://127.0.0.1:9",
                options={},
                parameters={},
                credentials={},
                pace=pacer,
                sources=(Source("127.0.0.2", pacer), Source(address, pacer)),
                timeout_s=1.0,
                directory=Path(),
            )
        )
    assert "address of this machine" in caught.value.next_step
    assert caught.value.exit_code == 2
