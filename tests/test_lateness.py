"""Requests that have left and may not have arrived take slots of the ceiling until they have.

What the other side has acknowledged is the kernel's own knowledge, so the connections are real. A
request is late here because nobody reads what was sent, and the buffers are full.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from raw_server import Pace, Server, Writer, answer, client_of
from virtual_time import run_virtually

from bulkcert.providers.call import Response
from bulkcert.providers.lateness import Lateness
from bulkcert.timings import LatenessTimings

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what has arrived"),
]


@dataclass
class Sent:
    """Stands in for the departure of a request."""

    over: bool = False
    expired: bool = False


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends that hold little; what is written at one is read at the other only by the test."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.create_connection(listening.getsockname()) as near:
            far, _ = listening.accept()
            with far:
                near.setblocking(False)
                far.setblocking(False)
                yield near, far


def fill(near: socket.socket) -> int:
    """Write more than the other side takes, and return how much that was."""
    return near.send(bytes(1_000_000))


def read(far: socket.socket, count: int) -> None:
    far.setblocking(True)
    while count > 0:
        count -= len(far.recv(65536))


def scene(body: Callable[[Pace, Lateness], Awaitable[None]]) -> None:
    """Run a scene on a virtual clock; nothing may be left to do at its end."""

    async def main() -> None:
        pace = Pace()
        lateness = Lateness(pace)
        await body(pace, lateness)
        lateness.close()
        await asyncio.sleep(10)

    run_virtually(main())


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_request_that_arrives_takes_no_slot() -> None:
    async def body(pace: Pace, lateness: Lateness) -> None:
        with connection() as (near, _):
            near.send(b"request")
            lateness.watch(Sent(), near, now())
            await asyncio.sleep(10)
            assert pace.forfeits == []
            assert lateness._timer is None

    scene(body)


def test_a_request_that_does_not_arrive_takes_a_slot_until_it_has() -> None:
    async def body(pace: Pace, lateness: Lateness) -> None:
        with connection() as (near, far), connection() as (other, _):
            count = fill(near)
            other.send(b"request")
            lateness.watch(Sent(), near, now())
            lateness.watch(Sent(), other, now())
            await asyncio.sleep(0.02)
            assert pace.forfeits == []
            await asyncio.sleep(2)
            assert pace.forfeits == [1]
            read(far, count)
            await asyncio.sleep(0.05)
            assert pace.forfeits == [1, 0]
            assert lateness._timer is None

    scene(body)


def test_a_response_shows_that_a_request_has_arrived() -> None:
    async def body(pace: Pace, lateness: Lateness) -> None:
        with connection() as (near, _), connection() as (other, _):
            fill(near)
            fill(other)
            early, late = Sent(), Sent()
            lateness.watch(early, near, now())
            early.over = True
            lateness.watch(late, other, now())
            await asyncio.sleep(1)
            assert pace.forfeits == [1]
            late.over = True
            await asyncio.sleep(1)
            assert pace.forfeits == [1, 0]

    scene(body)


def test_what_was_given_up_may_arrive_until_the_kernel_gives_it_up_too() -> None:
    async def body(pace: Pace, lateness: Lateness) -> None:
        with connection() as (near, _):
            fill(near)
            began_at = now()
            lateness.watch(Sent(over=True, expired=True), near, began_at)
            near.close()
            await asyncio.sleep(2.9)
            assert pace.forfeits == [1]
            await asyncio.sleep(0.2)
            assert pace.forfeits == [1, 0]

    scene(body)


def test_a_request_has_as_long_as_the_round_trip_of_its_own_connection() -> None:
    async def main() -> None:
        class Noting(Pace):
            def forfeit(self) -> None:
                late_after_s.append(now() - began_at)

        late_after_s: list[float] = []
        impatient = LatenessTimings(margin_s=1e-9, check_every_s=1e-6)
        lateness, began_at = Lateness(Noting(), impatient), now()
        with connection() as (near, _):
            fill(near)
            lateness.watch(Sent(), near, began_at)
            await asyncio.sleep(0.001)
            lateness.close()
        [at_s] = late_after_s
        assert at_s > 2e-6  # the kernel measured the handshake, which took longer than that

    run_virtually(main())


def test_each_late_request_takes_a_slot() -> None:
    async def body(pace: Pace, lateness: Lateness) -> None:
        with connection() as (near, far), connection() as (other, _):
            count = fill(near)
            fill(other)
            for _ in range(3):
                lateness.watch(Sent(), near, now())
                lateness.watch(Sent(), other, now())
            await asyncio.sleep(1)
            assert pace.forfeited == 6
            read(far, count)
            await asyncio.sleep(1)
            assert pace.forfeited == 3

    scene(body)


async def test_a_server_that_reads_nothing_for_a_while_makes_requests_late() -> None:
    reads = asyncio.Event()

    async def greet(writer: Writer) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reads.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]

    async with (
        Server(answer, greet, takes_little=True) as server,
        client_of(server.endpoint) as client,
    ):
        async with asyncio.timeout(60):
            sending = [asyncio.create_task(client.send(body=bytes(200_000))) for _ in range(5)]
            while client.pace.forfeited < 5:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.01)
            reads.set()
            for reply in await asyncio.gather(*sending):
                assert isinstance(reply, Response)
            while client.pace.forfeited > 0:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.01)


# ---- the ceiling, as the provider sees it

NAMESPACES = ["unshare", "--user", "--map-root-user", "--net"]


def _no_namespaces(network: Sequence[str]) -> str:
    """Why this machine can't make a network of its own; empty if it can."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "needs unshare and ip"
    attempt = ["ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b"]
    tried = subprocess.run([*network, *attempt], capture_output=True, text=True, check=False)
    return tried.stderr.strip()


@pytest.mark.slow
def test_a_blackout_does_not_break_the_ceiling() -> None:
    """Without this module, the provider sees 680 requests in a second after 0.8 s of blackout."""
    found = blackout()
    assert found["total"] > 2 * found["ceiling"]


@pytest.mark.slow
@pytest.mark.system
def test_a_blackout_does_not_break_the_ceiling_of_several_hosts(shared_store: str) -> None:
    if not str(conninfo_to_dict(shared_store).get("host", "")).startswith("/"):
        pytest.skip("the store can't be reached from another network")
    with psycopg.connect(shared_store) as db:
        db.execute("INSERT INTO bulkcert.run (name, manifest) VALUES ('blackout', '{}')")
        row = db.execute("SELECT id FROM bulkcert.run WHERE name = 'blackout'").fetchone()
    assert row is not None
    found = blackout(shared_store, str(row[0]))
    assert found["total"] > found["ceiling"] / 2  # they wait until all has arrived


def blackout(*store: str) -> dict[str, int]:
    """What `blackout.py` has found; nothing was above the ceiling.

    Args:
        store: of several hosts: its URL, and the number of a run.
    """
    # the socket of a server that belongs to another user can't be opened as a mapped root
    network = ["unshare", "--net"] if store and os.geteuid() == 0 else NAMESPACES
    if reason := _no_namespaces(network):
        pytest.skip(f"no network of our own: {reason}")
    ended = subprocess.run(
        [*network, sys.executable, Path(__file__).with_name("blackout.py"), "0.8", *store],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    found: dict[str, int] = json.loads(ended.stdout)
    assert found["left"] <= found["ceiling"]
    # on a busy machine the server may be late to notice requests
    assert found["arrived"] <= 1.1 * found["ceiling"]
    return found


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and warnings are errors here."""
    yield
    gc.collect()
