"""One ceiling over several hosts, with a real PostgreSQL between them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from hosts.shared_pace import Sender, busiest

pytestmark = pytest.mark.system


@pytest.fixture
def db(shared_store: str) -> Iterator[psycopg.Connection]:
    """A connection of somebody else, to a store with two runs."""
    with closing(psycopg.connect(shared_store, autocommit=True)) as db:
        db.execute("DELETE FROM bulkcert.pace_host; DELETE FROM bulkcert.pace")
        db.execute(
            "INSERT INTO bulkcert.run (id, name, manifest) OVERRIDING SYSTEM VALUE"
            " VALUES (1001, 'pace 1', '{}'), (1002, 'pace 2', '{}') ON CONFLICT DO NOTHING"
        )
        yield db


async def send(senders: list[Sender], seconds: float) -> list[float]:
    """All departures, sorted."""
    for sender in senders:
        sender.start()
    await asyncio.sleep(seconds)
    for sender in senders:
        await sender.stop()
    return sorted(time for sender in senders for time in sender.times)


@pytest.mark.parametrize("hosts", [1, 3])
async def test_hosts_share_a_ceiling(shared_store: str, db: psycopg.Connection, hosts: int) -> None:
    senders = [Sender(shared_store, run=1001) for _ in range(hosts)]
    times = await send(senders, 3)
    assert busiest(times) <= 500
    assert all(sender.times for sender in senders)
