"""One ceiling over several hosts, with a real PostgreSQL between them.

Each host has a thread, a connection and a pacer of its own, and an event loop that it shares with
the others. What is asserted is how many leave in a second, never how long something takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bulkcert.hosts import reservation
from bulkcert.store.postgresql.pace import set_run_pace
from hosts.shared_pace import TIMINGS, Sender, busiest

pytestmark = pytest.mark.system

RUN, OTHER_RUN = 1001, 1002
LIMIT_S = 60.0

_CLOCK = (
    "CREATE OR REPLACE FUNCTION bulkcert.now_s() RETURNS double precision LANGUAGE sql VOLATILE"
    " AS 'SELECT extract(epoch FROM clock_timestamp())::double precision + {}'"
)


@pytest.fixture
def db(shared_store: str) -> Iterator[psycopg.Connection]:
    """A connection of somebody else, to a store with two runs."""
    with closing(psycopg.connect(shared_store, autocommit=True)) as db:
        db.execute("DELETE FROM bulkcert.pace_host; DELETE FROM bulkcert.pace")
        db.execute("DELETE FROM bulkcert.pace_run")
        db.execute(
            "INSERT INTO bulkcert.run (id, name, manifest) OVERRIDING SYSTEM VALUE"
            " VALUES (1001, 'pace 1', '{}'), (1002, 'pace 2', '{}') ON CONFLICT DO NOTHING"
        )
        yield db
        set_clock(db, 0)


def set_clock(db: psycopg.Connection, offset_s: float) -> None:
    db.execute(_CLOCK.format(offset_s).encode())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - there is nobody who could say it
            await asyncio.sleep(0.01)


class Hosts:
    """Hosts that send; at the end, all departures."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.all: list[Sender] = []

    def start(self, ready: int = 60, **what: Any) -> Sender:
        sender = Sender(self.url, **({"run": RUN} | what))
        self.all.append(sender)
        sender.start(ready)
        return sender

    @property
    def times(self) -> list[float]:
        return sorted(time for sender in self.all for time in sender.times)

    async def until_sent(self, *senders: Sender, more: int = 50) -> None:
        """Wait until each of them has sent so many more."""
        waiting = [(sender, len(sender.times) + more) for sender in senders or self.all]
        await until(lambda: all(len(sender.times) >= wanted for sender, wanted in waiting))

    async def stop(self) -> None:
        for sender in self.all:
            await sender.stop()


@contextlib.asynccontextmanager
async def hosts_of(url: str) -> AsyncIterator[Hosts]:
    hosts = Hosts(url)
    try:
        yield hosts
    finally:
        await hosts.stop()


async def test_hosts_share_a_ceiling(shared_store: str, db: psycopg.Connection) -> None:
    async with hosts_of(shared_store) as hosts:
        for _ in range(3):
            hosts.start()
        await hosts.until_sent(more=200)
        assert {sender.pace.hosts for sender in hosts.all} == {3}
        assert hosts.all[0].pacer.sharing == "shares 500/s with 2 hosts"
    assert busiest(hosts.times) <= 500


async def test_two_campaigns_on_one_account_share_it_and_two_accounts_do_not(
    shared_store: str, db: psycopg.Connection
) -> None:
    async with hosts_of(shared_store) as hosts:
        first, second = hosts.start(), hosts.start(run=OTHER_RUN)
        alone = hosts.start(scopes=["another"])
        await hosts.until_sent(more=200)
        assert [sender.pace.hosts for sender in (first, second, alone)] == [2, 2, 1]
    assert busiest(sorted(first.times + second.times)) <= 500
    assert busiest(alone.times) <= 500


async def test_each_address_has_a_limit(shared_store: str, db: psycopg.Connection) -> None:
    async with hosts_of(shared_store) as hosts:
        for egress in ("a", "a", "b"):
            hosts.start(per_address=300, egress=egress)
        await hosts.until_sent(more=200)
    first, second, other = (sender.times for sender in hosts.all)
    assert busiest(sorted(first + second)) <= 300
    assert busiest(other) <= 300
    assert busiest(hosts.times) <= 500


@pytest.mark.parametrize("offset_s", [3600, -0.4, 0.03])
async def test_whatever_the_clock_of_the_database_does(
    shared_store: str, db: psycopg.Connection, offset_s: float
) -> None:
    async with hosts_of(shared_store) as hosts:
        hosts.start()
        hosts.start()
        await hosts.until_sent(more=50)
        set_clock(db, offset_s)
        await hosts.until_sent(more=150)
        set_clock(db, 0)
        await hosts.until_sent(more=150)
        assert all(sender.notes == [] for sender in hosts.all)
    assert busiest(hosts.times) <= 500


async def test_rows_are_made_again_and_connections_too(
    shared_store: str, db: psycopg.Connection
) -> None:
    async with hosts_of(shared_store) as hosts:
        hosts.start()
        hosts.start()
        await hosts.until_sent(more=50)
        db.execute("DELETE FROM bulkcert.pace_host; DELETE FROM bulkcert.pace")
        await hosts.until_sent(more=150)
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        await hosts.until_sent(more=150)
    assert busiest(hosts.times) <= 500


async def test_a_store_that_can_not_be_reached_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reservation, "SILENT_S", 0.5)
    hosts = Hosts(f"postgresql://postgres@/nowhere?host={tmp_path}")
    sender = hosts.start()
    await until(lambda: bool(sender.notes))
    await hosts.stop()
    assert sender.times == []
    assert sender.notes[0].startswith(
        "No slot of the ceiling for 0 s: The shared store can't be used:"
    )


async def test_people_hold_a_run_and_set_its_rate(
    shared_store: str, db: psycopg.Connection
) -> None:
    def steer(*, held: bool = False, rate: float | None = None) -> None:
        with db.transaction():
            set_run_pace(db, RUN, held=held, rate=rate, version=0)

    async with hosts_of(shared_store) as hosts:
        first, second = hosts.start(), hosts.start()
        other = hosts.start(run=OTHER_RUN)
        await hosts.until_sent(more=100)
        steer(held=True)
        await asyncio.sleep(TIMINGS.span_s(475))
        before = len(first.times) + len(second.times)
        await hosts.until_sent(other, more=150)
        assert len(first.times) + len(second.times) == before
        steer(rate=100)
        await hosts.until_sent(first, second, more=60)
        slow = sorted(first.times + second.times)[before:]
        assert busiest(slow) <= 100
        steer()
        await hosts.until_sent(first, second, more=80)
    assert busiest(hosts.times) <= 500


async def test_a_pause_that_the_provider_asks_of_one_host_is_for_all(
    shared_store: str, db: psycopg.Connection
) -> None:
    async with hosts_of(shared_store) as hosts:
        first, second = hosts.start(), hosts.start()
        await hosts.until_sent(more=200)
        first.pacer.throttled(first.times[-1], 3.0)
        await until(lambda: second.pacer.pause_left_s > 0)
        assert second.pacer.pause_left_s > 1
        assert second.pacer.slowed
        await asyncio.sleep(0.05)
        paused = len(hosts.times)
        await asyncio.sleep(0.5)
        assert len(hosts.times) == paused
        await hosts.until_sent(more=50)


def send_in_a_process(url: str, times: Any) -> None:
    async def send() -> None:
        async with hosts_of(url) as hosts:
            hosts.start()
            await hosts.until_sent(more=500)
        times.put(hosts.times)

    asyncio.run(send())


def test_processes_share_a_ceiling(shared_store: str, db: psycopg.Connection) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=send_in_a_process, args=(shared_store, queue)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    times = [time for _ in processes for time in queue.get(timeout=LIMIT_S)]
    for process in processes:
        process.join()
    assert busiest(sorted(times)) <= 500
