"""Which connections are used: never one with bytes that came before the request.

Such bytes would be taken for the response, and a certificate be called revoked that the provider
refused to revoke (aio-libs/aiohttp#13656).
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import apsaramq_vendor
import enos_vendor
import pytest
from harness import SHORT_WAITS, in_this_process
from http_proxy import HttpProxy
from raw_server import (
    OK,
    Authority,
    Behave,
    Heard,
    Pace,
    Server,
    Writer,
    answer,
    client_of,
    not_sent,
)
from tcp_proxy import Network
from vendor import Rows, Vendor

from bulkcert.providers.call import Response
from bulkcert.providers.connector import MOST_RESTING
from bulkcert.timings import Timings

pytestmark = pytest.mark.system

SURPLUS = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsurplus!!"


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and warnings are errors here."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def first_says(*pieces: bytes) -> Behave:
    """The first response is followed by more bytes, each piece in a packet of its own."""

    async def behave(heard: Heard, writer: Writer) -> None:
        if heard.connection > 1:
            writer.write(OK)
            return
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.01)

    return behave


PIECES = {
    "together": [OK + SURPLUS],
    "at once": [OK, SURPLUS],
    "together with the body": [OK[:-2], OK[-2:] + SURPLUS],
    "in part": [OK + SURPLUS[:20]],
    "in two parts": [OK + SURPLUS[:20], SURPLUS[20:]],
    "a line break": [OK, b"\r\n"],
    "late": [OK, b"", b"", b"", b"", b"", SURPLUS],
    "not HTTP": [OK, b"\0"],
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
async def test_a_surplus_response_is_never_taken_for_the_next_one(
    pieces: list[bytes], tls: bool, authority: Authority
) -> None:
    context = authority.server_context() if tls else None
    async with (
        Server(first_says(*pieces), tls=context) as server,
        client_of(server.endpoint, ca_file=authority.file) as client,
    ):
        first = await client.send()
        assert isinstance(first, Response)
        assert first.body == b"{}"
        await asyncio.sleep(0.1)
        second = await client.send()
        assert isinstance(second, Response) or pieces == PIECES["in part"]
        assert getattr(second, "body", b"{}") == b"{}"
        assert len(server.executed) == 2


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_surplus_response_during_the_wait_for_a_turn_is_noticed(
    tls: bool, authority: Authority
) -> None:
    pace = Pace()
    context = authority.server_context() if tls else None
    async with (
        Server(answer, tls=context) as server,
        client_of(server.endpoint, pace, ca_file=authority.file) as client,
    ):
        await client.send()
        pace.gate = asyncio.Event()
        sending = asyncio.create_task(client.send())
        await asyncio.sleep(0.01)
        server.open[0].write(SURPLUS)
        await asyncio.sleep(0.01)
        pace.gate.set()
        reply = await sending
        assert isinstance(reply, Response)
        assert reply.body == b"{}"
        assert [heard.connection for heard in server.executed] == [1, 2]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
async def test_a_surplus_response_that_is_still_in_the_kernel_is_noticed(
    tls: bool, authority: Authority
) -> None:
    """It arrives between two turns of the event loop, directly before the request leaves."""

    class Meanwhile(Pace):
        async def depart(self) -> float:
            if self.asked == 1:
                server.open[0].write(SURPLUS)
            return await super().depart()

    context = authority.server_context() if tls else None
    async with (
        Server(answer, tls=context) as server,
        client_of(server.endpoint, Meanwhile(), ca_file=authority.file) as client,
    ):
        await client.send()
        reply = await client.send()
        assert isinstance(reply, Response)
        assert reply.body == b"{}"
        assert [heard.connection for heard in server.executed] == [1, 2]


@pytest.mark.parametrize("delay_s", [0.0, 0.01])
async def test_a_response_that_comes_before_any_request_is_never_used(delay_s: float) -> None:
    async def greet(writer: Writer) -> None:
        writer.write(SURPLUS)

    class Slow(Pace):
        async def depart(self) -> float:
            await asyncio.sleep(delay_s)
            return await super().depart()

    async with Server(answer, greet) as server, client_of(server.endpoint, Slow()) as client:
        reply = await client.send()
        assert not_sent(reply)
        assert "sends before it is asked" in str(reply)
        assert server.executed == []


async def test_what_tls_says_to_itself_does_not_cost_a_connection(authority: Authority) -> None:
    """A server sends session tickets after the handshake, perhaps just before a request leaves."""

    class Busy(Pace):
        async def depart(self) -> float:
            for _ in range(200):  # the server writes its tickets; the client does not read them
                await asyncio.sleep(0)
            return await super().depart()

    async with (
        Server(answer, tls=authority.server_context()) as server,
        client_of(server.endpoint, Busy(), ca_file=authority.file) as client,
    ):
        for _ in range(3):
            assert isinstance(await client.send(), Response)
        assert server.accepted == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has TCP_USER_TIMEOUT")
@pytest.mark.parametrize("through", ["plain", "TLS", "a proxy", "TLS and a proxy"])
async def test_the_kernel_gives_up_soon_what_is_not_acknowledged(
    through: str, authority: Authority
) -> None:
    options: list[int] = []
    proxy = HttpProxy()

    class Watched(Pace):
        async def depart(self) -> float:
            options.extend(
                connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                for connected in _client_sockets(proxy.port if "proxy" in through else server.port)
            )
            return await super().depart()

    context = authority.server_context() if "TLS" in through else None
    async with Server(answer, tls=context) as server, proxy.serving() as url:
        url = url if "proxy" in through else ""
        async with client_of(
            server.endpoint, Watched(), ca_file=authority.file, proxy=url
        ) as client:
            assert isinstance(await client.send(), Response)
        assert options == [3000]


def _client_sockets(port: int) -> list[socket.socket]:
    """The client's ends of all connections to a port of loopback, in this process."""
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, socket.socket)
        and found.fileno() >= 0
        and found.family == socket.AF_INET
        and _peer(found) == ("127.0.0.1", port)
    ]


def _peer(connected: socket.socket) -> object:
    try:
        return connected.getpeername()
    except OSError:
        return None


# ---- connections rest


async def test_a_connection_rests_after_a_response_so_that_a_surplus_one_is_noticed() -> None:
    async def behave(heard: Heard, writer: Writer) -> None:
        writer.write(OK)
        if len(server.executed) == 2:
            asyncio.get_running_loop().call_later(0.06, writer.write, SURPLUS)

    async with (
        Server(behave) as server,
        client_of(server.endpoint, timings=Timings()) as client,
    ):
        for _ in range(60):  # as fast as possible, for longer than the surplus takes
            reply = await client.send()
            assert isinstance(reply, Response)
            assert reply.body == b"{}"
            await asyncio.sleep(0.003)
        used = [heard.connection for heard in server.executed]
        assert used[:2] == [1, 1]  # the first operation follows the opening request
        assert 1 not in used[2:]
        assert server.accepted < 60


async def test_the_number_of_resting_connections_is_bounded() -> None:
    async with (
        Server(answer) as server,
        client_of(server.endpoint, timings=Timings(rest_s=3600)) as client,
    ):
        for _ in range(1 + MOST_RESTING + 20):
            assert isinstance(await client.send(), Response)
        assert server.accepted == MOST_RESTING
        used = [heard.connection for heard in server.executed][1:]
        assert used[MOST_RESTING:] == used[:20]  # the one that has rested longest


# ---- a whole run of each provider

VENDORS: dict[str, tuple[Vendor, str, Callable[[int], Rows]]] = {
    "enos": (enos_vendor.ENOS, "revoke", enos_vendor.devices),
    "apsaramq": (apsaramq_vendor.APSARAMQ, "inactivate", apsaramq_vendor.devices),
}


@pytest.mark.parametrize("repeat_after_s", [0.0, 0.05])
@pytest.mark.parametrize("provider", VENDORS)
async def test_no_operation_succeeds_by_the_response_to_another(
    provider: str, repeat_after_s: float, tmp_path: Path
) -> None:
    """Every second certificate does not exist; each response comes twice."""
    vendor, action, devices = VENDORS[provider]
    rows = devices(6)
    async with in_this_process(
        tmp_path,
        vendor,
        action,
        rows,
        fleet=rows[::2],
        between=Network(repeat_after_s=repeat_after_s),
        timings=dataclasses.replace(SHORT_WAITS, rest_s=Timings().rest_s),
        limits={"requests_per_second": 100, "in_flight": 1},
    ) as job:
        await job.run()
        assert job.outcomes() == ["succeeded", "failed"] * 3
        assert job.violations() == []
