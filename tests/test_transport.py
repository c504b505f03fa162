"""The transport over real sockets: what leaves, how often, when, and what is reported about it.

The servers are raw ones on loopback: they count what they execute, and then misbehave. Where
seconds matter, the clock is virtual.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import socket
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_server import (
    OK,
    TIMEOUT_S,
    Authority,
    Behave,
    Client,
    Heard,
    Pace,
    Server,
    Writer,
    answer,
    both,
    client_of,
    hang_up,
    in_doubt,
    not_sent,
    reset,
    reset_by,
    say_nothing,
    saying,
)
from virtual_time import run_virtually

import bulkcert
from bulkcert.errors import JobError
from bulkcert.providers.call import CallKind, CallResult, Request, Response
from bulkcert.providers.transport import Transport
from bulkcert.ratelimit import Pacer
from bulkcert.timings import HostTimings, LatenessTimings, Timings

pytestmark = pytest.mark.system

LARGEST_BODY = 8 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
SOCKETS_S = 0.005
METHODS = ["GET", "POST", "PUT", "DELETE"]


@pytest.fixture(scope="module", autouse=True)
def _collected_quickly() -> Iterator[None]:
    """Keep the collector from searching what existed before, after each test."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """What was not closed warns when it is collected, and warnings are errors here."""
    yield
    gc.collect()


# ---- what goes out


@pytest.mark.parametrize("body", [b"", '{"ä": "\\u00e4"}\n'.encode()], ids=["empty", "JSON"])
@pytest.mark.parametrize("method", METHODS)
async def test_a_request_goes_out_exactly_as_it_was_given(method: str, body: bytes) -> None:
    async with both(answer) as (server, client):
        target = "/a%2Fb/c?x=%20+%c3%A4&y=&z=%25&action=list"
        headers = {"X-One": "1", "Content-Type": "text/x"} if body else {"X-One": "1"}
        reply = await client.send(method, target, headers, body)
        assert isinstance(reply, Response)
        assert (reply.status, reply.body) == (200, b"{}")
        [heard] = server.executed
        assert (heard.method, heard.target, heard.body) == (method, target, body)
        expected = {
            "Host": f"127.0.0.1:{server.port}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"bulkcert/{bulkcert.__version__}",
            "Cache-Control": "no-cache",
            **headers,
            **({"Content-Length": str(len(body))} if body else {}),
        }
        if not body and heard.headers.get("Content-Length") == "0":
            del heard.headers["Content-Length"]
        assert heard.headers == expected


async def test_connections_are_used_again() -> None:
    async with both(answer) as (server, client):
        for _ in range(5):
            assert isinstance(await client.send(), Response)
        assert server.accepted == 1
        await asyncio.gather(*(client.send() for _ in range(200)))
        assert len(server.executed) == 205
        assert client.pace.asked == len(client.departures) == 205


async def test_any_number_of_requests_can_be_in_flight() -> None:
    all_arrived = asyncio.Event()

    async def behave(heard: Heard, writer: Writer) -> None:
        if len(server.executed) == 150:
            all_arrived.set()
        await all_arrived.wait()
        writer.write(OK)

    async with both(behave) as (server, client):
        replies = await asyncio.gather(*(client.send() for _ in range(150)))
        assert all(isinstance(reply, Response) for reply in replies)
        assert server.accepted == 150


async def test_headers_of_a_response_are_found_in_any_letter_case() -> None:
    content = b"HTTP/1.1 429 Too Many\r\nretry-AFTER: 7\r\nContent-Length: 0\r\n\r\n"
    async with both(saying(content)) as (_, client):
        reply = await client.send()
        assert isinstance(reply, Response)
        assert (reply.status, reply.headers["Retry-After"]) == (429, "7")


async def test_without_a_proxy_407_is_a_response_like_any_other() -> None:
    content = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\n{}"
    async with both(saying(content)) as (_, client):
        reply = await client.send()
        assert isinstance(reply, Response)
        assert (reply.status, reply.body) == (407, b"{}")


async def test_cookies_are_not_sent_back() -> None:
    content = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n\r\n")
    async with Server(saying(content)) as server:
        # a cookie jar never keeps cookies of IP addresses
        async with client_of(f"http://localhost:{server.port}") as client:
            await client.send()
            await client.send()
        assert ["Cookie" in heard.headers for heard in server.executed] == [False, False]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with both(answer) as (server, client), Server(answer) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.endpoint)
        monkeypatch.delenv("no_proxy", raising=False)
        await client.send()
        assert (len(server.executed), proxy.accepted) == (1, 0)


async def test_a_compressed_response_is_decompressed() -> None:
    body = b'{"code": 0}'
    content = gzip.compress(body)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(content)}\r\n\r\n"
    async with both(saying(head.encode() + content)) as (server, client):
        for _ in range(2):
            reply = await client.send()
            assert isinstance(reply, Response)
            assert (reply.body, reply.flaw) == (body, "")
        assert server.accepted == 1


async def test_a_response_that_cannot_be_decompressed_still_has_its_status() -> None:
    head = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Encoding: br\r\n"
    async with both(saying(head + b"Content-Length: 2\r\n\r\n\x1b\x01")) as (_, client):
        reply = await client.send()
        assert isinstance(reply, Response)
        assert (reply.status, reply.headers["Retry-After"], reply.body) == (429, "7", b"")
        assert reply.flaw == "a body in the encoding br, which was not asked for"


async def test_a_body_that_is_too_large_once_decompressed_is_given_up() -> None:
    content = gzip.compress(bytes(LARGEST_BODY + 1))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(content)}\r\n\r\n"
    async with both(saying(head.encode() + content)) as (_, client):
        assert "the response is larger than 8 MiB" in str(await client.send())


BODY = b"Content-Length: 2\r\n\r\n{}"
ODD_RESPONSES = {
    "a header of 64 KiB": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 65_000 + b"\r\n" + BODY,
    "64 KiB of headers": b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 6000 + b"\r\n") * 10 + BODY,
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"Set-Cookie: a=b; Path=/\r\n" * 900 + BODY,
    "a long reason": b"HTTP/1.1 200 " + b"O" * 20_000 + b"\r\n" + BODY,
    "no reason": b"HTTP/1.1 200\r\n" + BODY,
    "a header in Latin-1": b"HTTP/1.1 200 \xc4\xe3\r\nX: caf\xe9\r\n" + BODY,
    "interim responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK,
    "trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
    b"2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + BODY,
    "line feeds only": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "repeated headers": b"HTTP/1.1 200 OK\r\nDate: x\r\nDate: x\r\nContent-Type: a/b\r\n"
    b"Content-Type: a/b\r\n" + BODY,
}


@pytest.mark.parametrize("content", ODD_RESPONSES.values(), ids=ODD_RESPONSES)
async def test_an_odd_response_is_read(content: bytes) -> None:
    async with both(saying(content)) as (server, client):
        for count in (1, 2):
            reply = await client.send()
            assert isinstance(reply, Response)
            assert (reply.status, reply.body) == (200, b"{}")
            assert len(server.executed) == count


UNREADABLE = {
    "Duplicate Content-Length": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + BODY,
    "Transfer-Encoding can't be": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "Invalid header token: b'X-A : b'": b"HTTP/1.1 200 OK\r\nX-A : b\r\n" + BODY,
    "Got more than 65536 bytes": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n" + BODY,
    "Too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 2000 + BODY,
    "Expected HTTP/": b"HTTP/1.1 204 No Content\r\n" + BODY,
}


@pytest.mark.parametrize(("said", "content"), UNREADABLE.items(), ids=UNREADABLE)
async def test_a_response_that_cannot_be_read_names_what_is_wrong(
    said: str, content: bytes
) -> None:
    async with both(saying(content)) as (_, client):
        reply = await client.send()
        assert in_doubt(reply)
        assert str(reply).startswith("the response can't be read: ")
        assert said in str(reply)


# ---- not sent


async def test_a_refused_connection_is_not_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with client_of(f"http://127.0.0.1:{port}") as client:
        reply = await client.send()
        assert not_sent(reply)
        assert isinstance(reply, CallResult)
        assert reply.message.startswith("no connection: ")
        assert reply.code is None
        assert (client.pace.asked, client.departures) == (0, [])


async def test_a_name_that_cannot_be_found_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find_nothing(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find_nothing)
    async with client_of("http://apim.invalid") as client:
        assert not_sent(await client.send())
        assert (client.pace.asked, client.departures) == (0, [])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(), "no connection: OSError"),
        (ConnectionError("reset\nby \x1b[1mpeer"), "no connection: reset by [1mpeer"),
        (ValueError("x" * 1000), "no connection: " + "x" * 300),
    ],
)
async def test_the_reason_is_one_line_of_bounded_length(error: Exception, said: str) -> None:
    class Fails(Pace):
        async def depart(self) -> float:
            raise error

    async with both(answer, pace=Fails()) as (server, client):
        assert await client.send() == CallResult(CallKind.NOT_SENT, message=said)
        assert server.executed == []


@pytest.mark.parametrize("host", ["", "a b", "x" * 300, "..", "[::1", "127.0.0.1:99999"])
async def test_a_request_to_a_malformed_endpoint_is_not_sent(host: str) -> None:
    async with client_of(f"http://{host}") as client:
        assert not_sent(await client.send())
        assert (client.pace.asked, client.departures) == (0, [])


def test_a_request_is_not_sent_when_the_connection_times_out(authority: Authority) -> None:
    """The server exists, but does not continue the handshake."""

    async def scene() -> None:
        async with (
            Server(answer, tls=authority.server_context(), listens=False) as server,
            client_of(server.endpoint, ca_file=authority.file) as client,
        ):
            began_at = now()
            reply = await client.send()
            assert not_sent(reply)
            assert now() - began_at == pytest.approx(CONNECT_TIMEOUT_S, abs=1.1)
            assert (client.pace.asked, client.departures) == (0, [])

    run_virtually(scene(), sockets_s=SOCKETS_S)


async def test_a_request_is_not_sent_when_the_connection_ends_in_the_handshake(
    authority: Authority,
) -> None:
    async def greet(writer: Writer) -> None:
        reset_by(writer)

    async with Server(answer, greet) as server:
        endpoint = server.endpoint.replace("http:", "https:")
        async with client_of(endpoint, ca_file=authority.file) as client:
            assert not_sent(await client.send())
            assert (client.pace.asked, client.departures) == (0, [])


# ---- in doubt, and executed once


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("end", [hang_up, reset])
@pytest.mark.parametrize("earlier", [0, 1], ids=["new connection", "used connection"])
async def test_a_request_without_a_response_is_in_doubt_and_never_repeated(
    method: str, end: Behave, earlier: int
) -> None:
    async def behave(heard: Heard, writer: Writer) -> None:
        await (answer if len(server.executed) <= earlier else end)(heard, writer)

    async with both(behave) as (server, client):
        for _ in range(earlier):
            assert isinstance(await client.send(method), Response)
        assert in_doubt(await client.send(method))
        assert len(server.executed) == len(client.departures) == earlier + 1
        assert server.accepted == 1


@pytest.mark.parametrize("method", METHODS)
async def test_a_connection_that_was_closed_while_idle_is_replaced(method: str) -> None:
    async with both(answer) as (server, client):
        await client.send(method)
        server.open[0].close()
        await server.alone()
        await asyncio.sleep(0)
        assert isinstance(await client.send(method), Response)
        assert [heard.connection for heard in server.executed] == [1, 2]


HTTP_ERRORS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Le",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nA\0B: c\r\n\r\n",
    b"HTTP/1.1 99999 OK\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/9.9\r\n\r\n",
    b"HTTP/1.1",
    b"\r\n",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"220 mail ESMTP\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"\xff" * 1000,
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 " + b"O" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("content", HTTP_ERRORS, ids=lambda content: repr(content)[:40])
async def test_a_response_that_is_not_http_leaves_the_request_in_doubt(
    content: bytes, method: str
) -> None:
    async with both(saying(content, hang_up)) as (server, client):
        reply = await client.send(method)
        assert in_doubt(reply)
        assert isinstance(reply, CallResult)
        assert len(reply.message) <= len("the response can't be read: ") + 300
        assert len(server.executed) == 1


valid = st.sampled_from(
    [
        OK,
        b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; expires=never; Max-Age=x\r\n\r\n{}",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc",
        b"HTTP/1.0 204 No Content\r\nContent-Type: ;;;charset=\xff\r\n\r\n",
    ]
)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Something like a response, with a part of it missing, doubled or exchanged."""
    content = draw(valid)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        to = draw(st.integers(at, min(at + 20, len(content))))
        content = content[:at] + draw(st.binary(max_size=8)) + content[to:]
    return content


@settings(max_examples=150)
@given(st.one_of(responses(), st.binary(max_size=60)))
def test_any_bytes_are_a_response_or_leave_the_request_in_doubt(content: bytes) -> None:
    async def scene() -> None:
        async with both(saying(content, hang_up)) as (server, client):
            reply = await client.send("GET")
            assert isinstance(reply, Response) or in_doubt(reply)
            assert len(server.executed) == server.accepted == 1

    run_virtually(scene(), sockets_s=SOCKETS_S)


async def test_endless_headers_are_given_up() -> None:
    async def behave(heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        await flood(writer, b"X: " + b"y" * 1000 + b"\r\n")

    async with both(behave) as (_, client):
        assert in_doubt(await client.send())


# ---- responses that are too large


async def flood(writer: Writer, part: bytes) -> None:
    """Write for as long as the client reads, but at most 100 MB."""
    for _ in range(100_000_000 // len(part)):
        writer.write(part)
        await writer.drain()
        flooded[writer] = flooded.get(writer, 0) + len(part)


flooded: dict[Writer, int] = {}

FLOODS = {
    "of a size that is announced": (b"Content-Length: 100000000", b"x" * 65536),
    "endless, in chunks": (b"Transfer-Encoding: chunked", b"8000\r\n" + b"x" * 32768 + b"\r\n"),
    "in small chunks": (b"Transfer-Encoding: chunked", b"200\r\n" + b"x" * 512 + b"\r\n"),
    "of unknown size": (b"Connection: close", b"x" * 65536),
    "compressed": (b"Content-Encoding: gzip\r\nConnection: close", gzip.compress(bytes(10**7))),
}


@pytest.mark.parametrize(("header", "part"), FLOODS.values(), ids=FLOODS)
async def test_a_body_that_is_too_large_is_given_up_within_bounded_memory(
    header: bytes, part: bytes
) -> None:
    async def behave(heard: Heard, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\n")
        await flood(writer, part)

    async with both(behave) as (server, client):
        flooded.clear()
        tracemalloc.start()
        try:
            reply = await client.send()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert in_doubt(reply)
        assert isinstance(reply, CallResult)
        assert "response is larger than 8 MiB" in reply.message
        assert peak < 4 * LARGEST_BODY
        await server.alone()
        assert max(flooded.values()) < 4 * LARGEST_BODY


@pytest.mark.parametrize("chunked", [False, True])
async def test_the_largest_body_is_read_in_full(chunked: bool) -> None:
    body = bytes(LARGEST_BODY)
    content = f"HTTP/1.1 200 OK\r\nContent-Length: {LARGEST_BODY}\r\n\r\n".encode() + body
    if chunked:
        head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{LARGEST_BODY:x}\r\n"
        content = head.encode() + body + b"\r\n0\r\n\r\n"
    async with both(saying(content)) as (server, client):
        for _ in range(2):
            reply = await client.send()
            assert isinstance(reply, Response)
            assert reply.body == body
        assert server.accepted == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_of_one_byte_more_is_too_large(chunked: bool) -> None:
    body = bytes(LARGEST_BODY + 1)
    head = f"Content-Length: {len(body)}\r\n\r\n"
    if chunked:
        head, body = f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n", body + b"\r\n0\r\n\r\n"
    content = b"HTTP/1.1 200 OK\r\n" + head.encode() + body
    async with both(saying(content)) as (server, client):
        reply = await client.send()
        assert reply == CallResult(CallKind.IN_DOUBT, message="the response is larger than 8 MiB")
        await server.alone()


# ---- redirects


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_a_redirect_is_returned_and_never_followed(status: int, method: str) -> None:
    async with Server(answer) as elsewhere:
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {elsewhere.endpoint}/x\r\n"
        content = f"{head}Content-Length: 0\r\n\r\n".encode()
        async with both(saying(content)) as (server, client):
            reply = await client.send(method)
            assert isinstance(reply, Response)
            assert reply.status == status
            assert (len(server.executed), elsewhere.accepted) == (1, 0)


# ---- deadlines


def now() -> float:
    return asyncio.get_running_loop().time()


def on_virtual_clock(scene: Awaitable[None]) -> None:
    async def main() -> None:
        await scene

    run_virtually(main(), sockets_s=SOCKETS_S)


@pytest.mark.parametrize("waits_s", [0.0, 1000.0])
@pytest.mark.parametrize("answers_after_s", [29.9, 30.1])
def test_the_timeout_counts_from_the_departure(waits_s: float, answers_after_s: float) -> None:
    """It does not count the wait for a turn, however long that was."""

    async def scene() -> None:
        async def behave(heard: Heard, writer: Writer) -> None:
            await asyncio.sleep(answers_after_s)
            writer.write(OK)

        pace = Pace(asyncio.Event())
        assert pace.gate is not None
        asyncio.get_running_loop().call_later(waits_s, pace.gate.set)
        async with both(behave, pace=pace) as (server, client):
            began_at = now()
            reply = await client.send()
            assert client.departures[0] - began_at == pytest.approx(waits_s, abs=0.1)
            if answers_after_s < TIMEOUT_S:
                assert isinstance(reply, Response)
                assert reply.departed_at == client.departures[0] == pace.permissions[0]
            else:
                assert reply == CallResult(CallKind.IN_DOUBT, message="no response within 30 s")
                assert now() - client.departures[0] == pytest.approx(TIMEOUT_S, abs=0.1)
            assert len(server.executed) == 1

    on_virtual_clock(scene())


def test_each_request_has_its_own_deadline() -> None:
    """Whatever happened to the requests that left before it."""

    async def scene() -> None:
        answers = iter([30.1, 1.0, 29.0, 30.1, 30.1, 2.0])

        async def behave(heard: Heard, writer: Writer) -> None:
            await asyncio.sleep(next(answers))
            writer.write(OK)

        async def ends(left_after_s: float) -> tuple[float, bool]:
            await asyncio.sleep(left_after_s)
            reply = await client.send()
            return round(now() - began_at, 0), isinstance(reply, Response)

        async with both(behave) as (_, client):
            began_at = now()
            assert await asyncio.gather(*(ends(at) for at in (0, 10, 20, 25, 70, 75))) == [
                *((30, False), (11, True), (49, True), (55, False), (100, False), (77, True))
            ]

    on_virtual_clock(scene())


def test_requests_that_are_over_take_no_memory_while_an_older_one_is_open() -> None:
    async def scene() -> None:
        async def behave(heard: Heard, writer: Writer) -> None:
            if len(server.executed) > 1:
                writer.write(OK)

        async with both(behave) as (server, client):
            oldest = asyncio.create_task(client.send())
            await asyncio.sleep(1)
            for _ in range(50):
                assert isinstance(await client.send(), Response)
            assert len(client.transport._deadlines._due) == 1
            assert in_doubt(await oldest)
            assert client.transport._deadlines._due == {}
            assert now() - client.departures[0] == pytest.approx(TIMEOUT_S, abs=0.1)

    on_virtual_clock(scene())


def test_a_deadline_ends_with_its_request_and_not_with_its_task() -> None:
    async def scene() -> None:
        async def behave(heard: Heard, writer: Writer) -> None:
            await asyncio.sleep(25)
            writer.write(OK)

        async with both(behave) as (server, client):
            for _ in range(3):  # each is in flight when the deadline of the one before would be due
                assert isinstance(await client.send(), Response)
            assert len(server.executed) == 3

    on_virtual_clock(scene())


def test_a_request_cancelled_at_the_moment_of_its_time_out_stays_cancelled() -> None:
    async def scene() -> None:
        async def behave(heard: Heard, writer: Writer) -> None:
            due = client.departures[0] + TIMEOUT_S
            asyncio.get_running_loop().call_at(due, task.cancel)
            await asyncio.sleep(30.1)

        async with both(behave) as (_, client):
            task = asyncio.create_task(client.send())
            with pytest.raises(asyncio.CancelledError):
                await task
            assert now() == pytest.approx(client.departures[0] + TIMEOUT_S, abs=0.1)

    on_virtual_clock(scene())


DRIPS = {
    "answer": (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x" * 1000),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "only interim responses": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize(("head", "rest"), DRIPS.values(), ids=DRIPS)
def test_a_response_that_comes_byte_by_byte_is_given_up_in_time(head: bytes, rest: bytes) -> None:
    async def scene() -> None:
        async def behave(heard: Heard, writer: Writer) -> None:
            writer.write(head)
            for byte in rest:
                await asyncio.sleep(0.7)
                writer.write(bytes([byte]))
                await writer.drain()

        async with both(behave) as (server, client):
            reply = await client.send()
            assert reply == CallResult(CallKind.IN_DOUBT, message="no response within 30 s")
            assert now() - client.departures[0] == pytest.approx(TIMEOUT_S, abs=0.1)
            # what still comes on that connection must not become the response to another request
            await asyncio.sleep(1)
            assert server.open == []

    on_virtual_clock(scene())


def test_a_server_that_reads_nothing_is_given_up_in_time() -> None:
    async def scene() -> None:
        async def greet(writer: Writer) -> None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.sleep(3600)

        # the kernel's own time-out is in real time
        patient = Timings(
            rest_s=0,
            lateness=LatenessTimings(check_every_s=1, kernel_gives_up_s=60),
            hosts=HostTimings(ttl_s=100, grace_s=21, user_timeout_s=60),
        )
        async with (
            Server(answer, greet, takes_little=True) as server,
            client_of(server.endpoint, timings=patient) as client,
        ):
            reply = await client.send(body=bytes(1_000_000))
            assert reply == CallResult(CallKind.IN_DOUBT, message="no response within 30 s")
            assert now() - client.departures[0] == pytest.approx(TIMEOUT_S, abs=0.1)

    on_virtual_clock(scene())


# ---- connection first, permission last


def test_a_slow_connection_takes_no_permission_until_it_is_there(authority: Authority) -> None:
    async def scene() -> None:
        async with (
            Server(answer, tls=authority.server_context(), listens=False) as server,
            client_of(server.endpoint, ca_file=authority.file) as client,
        ):
            sending = asyncio.create_task(client.send())
            await asyncio.sleep(CONNECT_TIMEOUT_S - 2)
            assert (client.pace.asked, client.departures) == (0, [])
            await server.listen()
            assert isinstance(await sending, Response)
            assert client.pace.asked == len(client.departures) == 1

    on_virtual_clock(scene())


def test_a_request_leaves_with_its_permission_and_not_before() -> None:
    async def scene() -> None:
        pace = Pace(asyncio.Event())
        assert pace.gate is not None
        signed_at: list[float] = []

        def sign() -> dict[str, str]:
            signed_at.append(now())
            return {"X-Signed": "late"}

        async with both(answer, pace=pace) as (server, client):
            sending = asyncio.create_task(client.send(sign=sign))
            await asyncio.sleep(100)
            assert server.accepted == pace.asked == 1
            assert (server.executed, client.departures, signed_at) == ([], [], [])
            opened_at = now()
            pace.gate.set()
            reply = await sending
            assert isinstance(reply, Response)
            assert reply.departed_at == pace.permissions[0]
            for at in (reply.departed_at, client.departures[0], signed_at[0]):
                assert at == pytest.approx(opened_at, abs=0.001)
            assert server.executed[0].headers["X-Signed"] == "late"
            assert len(client.departures) == len(signed_at) == 1

    on_virtual_clock(scene())


@pytest.mark.parametrize("end", [Writer.close, reset_by])
@pytest.mark.parametrize("earlier", [0, 1], ids=["new connection", "used connection"])
def test_a_connection_that_dies_during_the_wait_for_a_turn_is_replaced(
    end: Callable[[Writer], None], earlier: int
) -> None:
    async def scene() -> None:
        pace = Pace()
        async with both(answer, pace=pace) as (server, client):
            for _ in range(earlier):
                await client.send()
            pace.gate = asyncio.Event()
            sending = asyncio.create_task(client.send())
            await asyncio.sleep(1)
            end(server.open[0])
            await asyncio.sleep(1)
            pace.gate.set()
            assert isinstance(await sending, Response)
            assert len(server.executed) == len(client.departures) == earlier + 1
            # a turn for each connection: the first was not used
            assert pace.asked == earlier + 2
            assert server.accepted == 2

    on_virtual_clock(scene())


def test_a_server_that_hangs_up_on_every_connection_is_given_up() -> None:
    async def scene() -> None:
        async def greet(writer: Writer) -> None:
            writer.close()

        class Slow(Pace):
            async def depart(self) -> float:
                await asyncio.sleep(0.1)
                return await super().depart()

        async with Server(answer, greet) as server, client_of(server.endpoint, Slow()) as client:
            async with asyncio.timeout(60):
                reply = await client.send()
            assert not_sent(reply)
            assert isinstance(reply, CallResult)
            assert reply.message.startswith("no connection: the server hangs up on every connect")
            assert client.pace.asked == server.accepted == 5
            assert client.departures == []

    on_virtual_clock(scene())


# ---- cancelled


def test_a_cancel_during_the_wait_for_a_turn_leaves_nothing_behind() -> None:
    async def scene() -> None:
        pace = Pace(asyncio.Event())
        async with both(answer, pace=pace) as (server, client):
            sending = asyncio.create_task(client.send())
            await asyncio.sleep(1)
            assert pace.asked == 1
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await asyncio.sleep(1)
            assert (server.executed, client.departures) == ([], [])
            # the connection can still be used
            pace.gate = None
            assert isinstance(await client.send(), Response)
            assert server.accepted == len(server.executed) == len(client.departures) == 1

    on_virtual_clock(scene())


def test_a_cancel_during_the_connect_leaves_nothing_behind(authority: Authority) -> None:
    async def scene() -> None:
        async with (
            Server(answer, tls=authority.server_context(), listens=False) as server,
            client_of(server.endpoint, ca_file=authority.file) as client,
        ):
            sending = asyncio.create_task(client.send())
            await asyncio.sleep(1)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await server.listen()
            await asyncio.sleep(1)
            assert (client.pace.asked, client.departures, server.open) == (0, [], [])

    on_virtual_clock(scene())


def test_a_cancel_after_the_departure_closes_the_connection() -> None:
    async def scene() -> None:
        async with both(say_nothing) as (server, client):
            sending = asyncio.create_task(client.send())
            await asyncio.sleep(1)
            assert len(server.executed) == len(client.departures) == 1
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            await asyncio.sleep(1)
            assert server.open == []

    on_virtual_clock(scene())


async def test_a_callback_that_fails_at_the_departure_leaves_no_connection_open() -> None:
    async with both(answer) as (server, client):

        def fail(*_: str) -> None:
            raise RuntimeError("not expected")

        with pytest.raises(RuntimeError):
            await client.transport.send(Request("GET", "/"), fail)
        with pytest.raises(RuntimeError):
            await client.send(sign=fail)  # type: ignore[arg-type]
        assert server.executed == []


async def test_closing_ends_all_connections() -> None:
    async with Server(answer) as server:
        client = Client(server.endpoint)
        await asyncio.gather(*(client.send() for _ in range(20)))
        assert len(server.open) > 0
        await client.transport.close()
        await server.alone()


# ---- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def test_a_certificate_of_a_ca_file_is_accepted(authority: Authority) -> None:
    async with Server(answer, tls=authority.server_context()) as server:
        async with client_of(server.endpoint, ca_file=authority.file) as client:
            assert isinstance(await client.send(), Response)
            assert isinstance(await client.send(), Response)
        await server.alone()
        assert server.accepted == 1


@pytest.mark.parametrize(
    ("names", "days", "knows_ca", "said"),
    [
        ([], 10, False, "unable to get local issuer certificate"),
        (["other.example"], 10, True, "IP address mismatch"),
        (["127.0.0.2"], 10, True, "IP address mismatch"),
        ([], -1, True, "certificate has expired"),
    ],
    ids=["unknown CA", "another name", "another address", "expired"],
)
async def test_a_certificate_that_cannot_be_verified_makes_the_endpoint_unusable(
    authority: Authority, names: list[str], days: int, knows_ca: bool, said: str
) -> None:
    # the server fails too, which must not fill the log
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with Server(answer, tls=authority.server_context(*names, days=days)) as server:
        ca_file = authority.file if knows_ca else None
        async with client_of(server.endpoint, ca_file=ca_file) as client:
            for _ in range(2):
                reply = await client.send()
                assert isinstance(reply, CallResult)
                assert reply.kind is CallKind.UNUSABLE
                assert reply.message.startswith("TLS can't verify the certificate of 127.0.0.1: ")
                assert reply.message.partition("127.0.0.1: ")[2].startswith(said)
            assert (client.pace.asked, client.departures, server.executed) == (0, [], [])


async def test_a_request_by_https_to_an_http_server_is_not_sent(authority: Authority) -> None:
    async def greet(writer: Writer) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with Server(answer, greet) as server:
        endpoint = server.endpoint.replace("http:", "https:")
        async with client_of(endpoint, ca_file=authority.file) as client:
            assert not_sent(await client.send())
            assert (client.pace.asked, client.departures, server.executed) == (0, [], [])


async def test_a_request_by_http_to_an_https_server_is_not_executed(authority: Authority) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    async with (
        Server(answer, tls=authority.server_context()) as server,
        client_of(f"http://127.0.0.1:{server.port}") as client,
    ):
        reply = await client.send()
        assert in_doubt(reply) or not_sent(reply)
        assert server.executed == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\0"])
async def test_an_unusable_ca_file_is_an_error_in_the_job(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    for path in (file, tmp_path):
        with pytest.raises(JobError, match=r"connection\.ca_file can't be used"):
            Transport("https://127.0.0.1", Pace(), timeout_s=1, ca_file=path)


# ---- a run that is being stopped


async def test_once_the_run_is_being_stopped_nothing_leaves_even_over_an_open_connection() -> None:
    pacer = Pacer(500)
    async with both(answer, pace=pacer) as (server, client):
        assert isinstance(await client.send(target="/first"), Response)
        pacer.stop()
        assert await client.send(target="/second") == CallResult(
            CallKind.NOT_SENT, message="no connection: the run is being stopped"
        )
        assert [heard.target for heard in server.executed] == ["/first"]
        assert len(client.departures) == 1
